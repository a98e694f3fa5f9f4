"""Every knob of the workflow as frozen dataclasses, one docstring line a field. Standard library only."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro.base.errors import BadInput, nearest
from repro.base.files import LATER

Protocol = Literal["as_released", "corrected", "both"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]
Grouping = Literal["angular_variance", "frequency", "random", "none"]
Service = Literal["tensorboard", "wandb"]
Site = Literal["resid_post", "resid_pre", "attn_out", "mlp_out", "hook_z"]
EXCLUDE = ("pad", "bos", "eos", "first")
"""Token positions that may be left out, and are unless a flag says otherwise."""


@dataclass(frozen=True)
class ModelConfig:
    """Which language model, and where its residual stream is read."""

    name: str = "tiny"
    """A preset (tiny, smollm2-135m, gemma-3-270m, pythia-160m-deduped, gemma-2-2b), a hub id, or a folder."""
    layer_index: int | None = None
    """Block L that is read; the preset's layer if not given."""
    dtype: Dtype = "auto"
    """Precision of the forward pass; auto = the preset's."""
    revision: str | None = None
    """Hub revision to pin; recorded in the provenance."""
    layer_convention: Literal["block_output", "hidden_states"] = "block_output"
    """block_output = output of block L; hidden_states = hidden_states[L], the output of block L-1 (as released)."""
    site: Site = field(default="resid_post", metadata=LATER)
    """The stream after block L (resid_post) or before it (resid_pre), what its attention or MLP adds to it,
    or what its heads write before W_O (hook_z)."""
    device_map: str | None = field(default=None, metadata=LATER)
    """Spread the weights as transformers does (needs accelerate), instead of `device`: auto, balanced, sequential, a
    device such as cuda:1, or JSON {module: device}, where a device may be cpu or disk."""


@dataclass(frozen=True)
class DatasetConfig:
    """Which text, and how it becomes sequences of tokens."""

    name: str = "tiny"
    """tiny (bundled English), tiny-labels (bundled glosses), a name of `repro fetch-text`, a hub data set, or a
    txt/jsonl/csv/parquet file or folder."""
    config: str | None = None
    """Configuration (subset) of a hub data set."""
    split: str = "train"
    """Split of the data set, or a part of one: train[1000:2000] by rows, train[:5%]."""
    text_column: str = "text"
    """Column that holds the text."""
    label_column: str | None = None
    """Column that holds a class label, kept per document and per token."""
    skip_documents: int = 0
    """Documents to skip first, so that evaluation text is disjoint from training text."""
    max_tokens: int = 100_000
    """Tokens to collect, padding not counted."""
    seq_len: int = 128
    """Tokens per sequence."""
    packing: bool = True
    """Pack documents end to end (True), or one document a sequence, right-padded (False)."""
    batch_size: int = 32
    """Sequences per forward pass."""


@dataclass(frozen=True)
class CheckpointRoots:
    """Where the checkpoints of one variant lie."""

    name: str = ""
    """Name of the variant in tables; the key of the entry if not given."""
    roots: tuple[str, ...] = ()
    """Folders that are searched for checkpoints."""


@dataclass(frozen=True)
class MetricsConfig:
    """What evaluation computes, and on how many tokens."""

    max_tokens: int = 10_000
    """Tokens of the store that are evaluated."""
    exclude: tuple[str, ...] = EXCLUDE
    """Token positions that are not evaluated, out of pad, bos, eos, first; pad only = as released."""
    max_norm_ratio: float | None = None
    """Drop tokens whose norm exceeds this many median norms; none are dropped if not given."""
    amortization_gap: bool = True
    """Compute the amortization gap of the encoder's codes."""
    probe_ks: tuple[int, ...] = (1, 2)
    """Numbers of latents the sparse probes may use."""
    lm_tokens: int = field(default=0, metadata=LATER)
    """Tokens on which the language model's loss is measured under each reconstruction (corrected only); 0 = not."""


@dataclass(frozen=True)
class RunConfig:
    """The keys of a workflow YAML: collect, index, evaluate and visualize read the same file."""

    output_dir: str = "outputs"
    """Folder for everything that is written."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The language model."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """The text."""
    sae_checkpoints: Mapping[str, CheckpointRoots] = field(default_factory=dict)
    """Checkpoint folders by variant."""
    eval_modes: tuple[str, ...] = ("amortized", "semi_amortized", "non_amortized")
    """Inference modes to evaluate, and controls (corrected only): random_dictionary, random_encoder, pca,
    encoder_refit, pursuit, semi_same_lambda."""
    semi_steps: int = 30
    """ISTA steps from the encoder's code (semi-amortized)."""
    non_steps: int = 200
    """ISTA steps from zero (non-amortized, as released; corrected mode solves to a certified gap)."""
    target_dense_semi_non: float = 0.1
    """Target density of the released lambda search (as released only; corrected matches the encoder's L0)."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """Metrics."""
    seed: int = 0
    """Seed of every random draw."""
    protocol: Protocol = "both"
    """as_released, corrected, or both."""
    allow_mismatch: bool = False
    """evaluate: go on with checkpoints that state another layer, site, model or unit than the activations."""
    device: Device = "auto"
    """auto = cuda where there is one."""
    engine: Literal["local", "dask", "slurm"] = "local"
    """evaluate: where checkpoints are evaluated side by side: processes here, a dask cluster, or Slurm jobs."""
    workers: int = 1
    """evaluate: processes, dask workers or jobs at a time; 1 of engine local = in this process."""
    scheduler: str | None = None
    """evaluate: address of a running dask scheduler (tcp://…); local = try Slurm's jobs on this machine."""
    threads: int | None = None
    """evaluate: threads of each worker; cores divided by workers, at most $OMP_NUM_THREADS, if not given."""
    retries: int = 2
    """evaluate: tries after the first for a checkpoint that failed or whose worker died."""
    gpus: int = 0
    """evaluate: GPUs of each host; every worker takes one."""
    minutes: int = 240
    """evaluate with slurm: time limit of a job."""
    stage: str | None = None
    """evaluate: folder on a disk of each host, such as '$TMPDIR': its workers read one copy of activations there."""
    verify: bool = False
    """collect: read a store that is there in full and compare every sha256; what is damaged is collected again."""


RELEASED = {
    "model_name": "model.name",
    "layer_index": "model.layer_index",
    "model.device": "device",
    "dataset.text_field": "dataset.text_column",
    "dataset.max_seq_len": "dataset.seq_len",
    "metrics.correlation_subsample": "metrics.max_tokens",
}
"""Keys of the released YAML files that have another name or place here."""
FIXED = {
    "metrics.dense_thresholds": ([0.1, 0.2],),
    "metrics.dead_threshold": (1e-6, "1e-6"),  # YAML reads the second as text
    "metrics.absorption_topk": (5,),
    "metrics.normalize_mse": (True,),
    "dataset.streaming": (True, False),
}
"""Keys of the release that are not options here, and the values that agree with what is done."""


def from_release(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a YAML file under today's keys, and a note on each key of the release that was read.

    BadInput for a key that is given under both names, and for another value of one that is fixed.
    """
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    notes = []

    def take(path: str) -> Any:
        place, _, key = path.rpartition(".")
        inside = out.get(place, {}) if place else out
        return inside.pop(key, ...) if isinstance(inside, dict) else ...

    def put(old: str, path: str, value: Any, why: str = "") -> None:
        place, _, key = path.rpartition(".")
        inside = out.setdefault(place, {}) if place else out
        if not isinstance(inside, dict):
            raise BadInput(f"{place} must be a mapping, not {inside!r}.")
        if key in inside:
            raise BadInput(f"The config gives both {old} and {path}, which mean the same; drop one.")
        inside[key] = value
        notes.append(f"{old} is read as {path}: {value}{why}.")

    for old, path in RELEASED.items():
        if (value := take(old)) is not ...:
            put(old, path, value)
    if (count := take("dataset.num_sequences")) is not ...:
        length = out["dataset"].get("seq_len", DatasetConfig.seq_len)
        if type(count) is not int or not isinstance(length, int):
            raise BadInput(f"dataset.num_sequences must be int, not {count!r}.")
        put("dataset.num_sequences", "dataset.max_tokens", count * length, f", {count} sequences of {length}")
        out["dataset"].setdefault("packing", False)  # one document a sequence there
    for path, agreeing in FIXED.items():
        if (value := take(path)) is not ...:
            if value not in agreeing:
                raise BadInput(f"{path} is {value}, but here it is always {agreeing[0]}; drop it.")
            notes.append(f"{path} is no option here and changes nothing: what it says is always done.")
    return out, notes


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Build a (nested) config dataclass from YAML values; an unknown key or a wrong type raises BadInput."""
    import types
    import typing

    if not isinstance(values, Mapping):
        raise BadInput(f"{where or 'the config'} must be a mapping of keys to values, not {type(values).__name__}.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    out: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise BadInput(f"Unknown key '{path}'{nearest(str(key), known)}; known keys: {', '.join(known)}.")
        out[key] = _convert(hints[key], value, path, types, typing)
    return cls(**out)


def _convert(hint: Any, value: Any, path: str, types: Any, typing: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path, types, typing)
    if origin is Literal:
        if value not in args:
            raise BadInput(f"{path} is '{value}'; it must be one of {', '.join(map(str, args))}.")
        return value
    if origin is tuple:
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise BadInput(f"{path} must be a list, not {value!r}.")
        return tuple(_convert(args[0], v, f"{path}[{i}]", types, typing) for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise BadInput(f"{path} must be a mapping, not {value!r}.")
        return {k: _convert(args[1], v, f"{path}.{k}", types, typing) for k, v in value.items()}
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, float) and math.isnan(value):
        raise BadInput(f"{path} is not a number (.nan): give one, or leave the key out for the default.")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadInput(f"{path} must be {hint.__name__}, not {value!r}.")
    return value


def read_yaml(text: str | bytes, place: str) -> Any:
    """The value of YAML text found at a place; BadInput where a key is given twice, else what yaml raises."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise BadInput(f"{place}, line {key.start_mark.line + 1}: '{key.value}' is given twice; drop one.")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def load_yaml(cls: type, path: str | Path) -> Any:
    """Read a YAML file into a config dataclass; what is read under a key of the release is said on stderr."""
    import yaml

    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"No config file at {path}; give --config the path of a YAML file.")
    try:
        values = read_yaml(path.read_bytes(), str(path)) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if cls is RunConfig and isinstance(values, Mapping):
        values, notes = from_release(values)
        for note in notes:
            print(note, file=sys.stderr)
    return from_mapping(cls, values)
