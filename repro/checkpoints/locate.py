"""From a user's path to one weights file and its configs, and from names of hooks and folders to layer and site."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.base.files import files_below
from repro.checkpoints.weights import CheckpointError

# names that libraries give to the weights, in the order in which a folder is searched
WEIGHT_NAMES = (
    "multi_encoder_sae.pt",
    "ae.pt",
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.npz",
    "sae.pt",
    "params.safetensors",
    "final.safetensors",
    "final.pt",
)
_PART = re.compile(r"-\d{5}-of-(\d{5})$")
_OF_LAYER = re.compile(r"layer\d+\.sae\.pt")  # Qwen-Scope: a file for each layer
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
# files that training leaves beside the weights
NOT_WEIGHTS = re.compile(
    r"^(?:optim|sched|lr_sched|state\b|train(?:er|ing)_(?:state|args)|rank_\d|rng|activation|examples\.|loc_angular_meta|sparsity\.)"
)
CONFIG_NAMES = ("config.json", "cfg.json", "hyperparams.json")

_TRAINER = re.compile(r"(?:^|[/_-])trainer[_-]?(\d+)")
_STEP = re.compile(r"(?:(?:^|[/_-])step[_-]?|(?:^|/)checkpoints/s?ae_|(?:^|/)ae_(?=\d+\.pt$))(\d+)")
SNAPSHOT = re.compile(r"step-(\d+)-tokens-\d+")  # a folder in the snapshots/ of a run
_SPARSITY = re.compile(r"(?:^|[/_-])(?:l0|sparsity|k)[_=-](\d+(?:\.\d+)?)(?=[/.]|$)")

# site -> what libraries call it after the number of the block (TransformerLens, transformers) or before it (folders)
SITES = {
    "resid_post": ("", "hook_resid_post", "hook_out", "output", "resid_post", "resid_out"),
    "resid_pre": ("hook_resid_pre", "hook_in", "input", "resid_pre"),
    "resid_mid": ("hook_resid_mid", "resid_mid"),
    "attn_out": ("hook_attn_out", "attn.hook_out", "attn_out", "attention_out", "att_out"),
    "mlp_out": ("hook_mlp_out", "mlp.hook_out", "mlp_out", "post_feedforward_layernorm.output"),
    "mlp_in": ("hook_mlp_in", "mlp.hook_in", "mlp_in", "pre_feedforward_layernorm.output"),
    "hook_z": ("attn.hook_z", "hook_z", "self_attn.o_proj.input"),
}
_SITE_OF = {name: site for site, names in SITES.items() for name in names}
# modules of transformers: what they write is added to the residual stream, but in these models only after another norm
_MODULES = dict.fromkeys(("attn", "attention", "self_attn", "self_attention"), "attn_out") | {"mlp": "mlp_out"}
_NORMED_AFTER = re.compile(r"gemma-(?:2|v?3)-|olmo-?2", re.IGNORECASE)
_EMBEDDING = re.compile(r"(?:.*\.)?(?:hook_embed|embed_tokens|embed_in|wte|embed|embedding)(?:\.output)?")
_BLOCK = re.compile(r"(?:.*[._])?(?:blocks|layers|h)\.(\d+)(?:\.(.+))?")
_FOLDER = re.compile(r"(?:(.+?)_)?layer_?(\d+)(?:_width.*)?")
_LAYER_ANYWHERE = re.compile(r"(?:^|[_.-])layer_?(\d+)(?=[_.]|$)")


class StepNotFound(CheckpointError):
    """There is no checkpoint of the step that was asked for."""


@dataclass(frozen=True)
class Location:
    """One weights file, the configs beside it, and what its path says."""

    weights: Path
    configs: tuple[dict[str, Any], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    """The one of them that describes the SAE; set once a reader has recognised it."""
    trainer: int | None = None
    step: int | None = None
    layer: int | None = None
    site: str = ""


# --- layer and site ---------------------------------------------------------------------------------


def site_of_hook(hook: str, lm_name: str = "") -> tuple[str, int | None]:
    """(site, layer) of a hook or module name of any library; ("", None) without one.

    resid_post of layer L is the output of block L. The input of block L is the output of block L - 1 and named so;
    the input of block 0 stays ("resid_pre", 0). Other sites that every library means alike are attn_out, mlp_out,
    mlp_in, resid_mid, hook_z and embedding; whatever else is read keeps its own name as its site.
    """
    return as_output(*parse_hook(hook, lm_name))


def as_output(site: str, block: int | None) -> tuple[str, int | None]:
    """(site, layer), with the input of a block named as the output of the block before it."""
    return ("resid_post", block - 1) if site == "resid_pre" and block else (site, block)


def parse_hook(hook: str, lm_name: str = "") -> tuple[str, int | None]:
    """(site, block) as the name says it, so that the input of a block is resid_pre."""
    if _EMBEDDING.fullmatch(hook):
        return "embedding", None
    if match := _BLOCK.fullmatch(hook):
        block, name = int(match.group(1)), match.group(2) or ""
    elif match := _FOLDER.fullmatch(hook):
        block, name = int(match.group(2)), match.group(1) or ""
    else:
        return (_SITE_OF.get(hook, hook) if hook else ""), None
    site = _SITE_OF.get(name) or _SITE_OF.get(re.sub(r"_\d.*", "", name))  # blocks.8.hook_resid_pre_24576
    if site is None:
        normed = bool(_NORMED_AFTER.search(lm_name))
        module = name.removesuffix(".output")
        site = "attn_out" if normed and module == "post_attention_layernorm" else None
        site = site or (None if normed else _MODULES.get(module)) or name
    return site, block


def site_notes(hook: str, site: str, layer: int | None) -> list[str]:
    """A sentence for SAEs that read something else than the output of a block."""
    if site in ("", "resid_post"):
        return []
    name = f"It reads {hook or site}" + ("" if layer is None or re.search(r"\d", hook) else f" of block {layer}")
    if site in ("resid_pre", "attn_out", "mlp_out", "hook_z"):
        return [f"{name}, not the output of a block: collect activations with model.site: {site}."]
    return [f"{name}, not the output of a block: give activations of that place, which `repro collect` does not save."]


def parse_place(path: str | Path) -> tuple[str, int | None]:
    """(site, block) that the file, its folder or one of two folders above spell out; ("", None) where none does.

    resid_post_layer_8, mlp_out_layer_3, layers.5.mlp, blocks.5.hook_resid_pre, layer_12 (a block without a site).
    Only the file's own name and that of its folder may hold more words around it; names further up are no facts.
    """
    path = Path(path)
    for above, name in enumerate((path.stem, *(p.name for p in list(path.parents)[:3]))):
        name = name.removesuffix("_checkpoints")
        blocks = set(_LAYER_ANYWHERE.findall(name))
        if len(blocks) > 1:
            return "", None
        match = _FOLDER.fullmatch(name)
        if match and match.group(1) not in _SITE_OF:
            return "", int(match.group(2))
        if match or _BLOCK.fullmatch(name) or _EMBEDDING.fullmatch(name):
            return parse_hook(name)
        if above < 2 and blocks:
            return "", int(blocks.pop())
    return "", None


def parse_layer(path: str | Path) -> int | None:
    """The layer L of .../resid_post_layer_L/..., layer_L/..., layers.L/...; None where a path has none."""
    return as_output(*parse_place(path))[1]


# --- paths --------------------------------------------------------------------------------------------


def parse_path(path: str | Path) -> dict[str, Any]:
    """Trainer, step and sparsity as far as a path spells them out; None where it does not.

    Sparsity is only what is written as l0_40, k_40 or sparsity_40 at the end of a name: the number of a trainer says
    nothing about it.
    """
    text = Path(path).as_posix()

    def last(pattern: re.Pattern[str]) -> str | None:
        matches = pattern.findall(text)
        return matches[-1] if matches else None

    trainer, step, sparsity = last(_TRAINER), last(_STEP), last(_SPARSITY)
    return {
        "trainer": int(trainer) if trainer else None,
        "step": int(step) if step else None,
        "sparsity": None if sparsity is None else float(sparsity) if "." in sparsity else int(sparsity),
    }


def parse_run(weights: Path) -> dict[str, Any]:
    """parse_path of the file and its folder (of the folder above checkpoints/): names above the run are no facts."""
    return parse_path(Path(*weights.parts[-3 if weights.parent.name == "checkpoints" else -2 :]))


def located(weights: Path) -> Location:
    """One weights file with its configs and what its path says. CheckpointError for a part of a checkpoint."""
    _refuse_parts([weights])
    run, (site, layer) = parse_run(weights), as_output(*parse_place(weights))
    return Location(weights, tuple(read_configs(weights)), {}, run["trainer"], run["step"], layer, site)


def locate(
    path: str | Path, step: int | None = None, layer: int | None = None, layer_of: Callable[[Path], Any] = parse_layer
) -> Location:
    """The weights file that `path` (a file or folder), `step` and `layer` mean. CheckpointError if none or several.

    layer_of tells the layer of each of several files.
    """
    path = Path(path).expanduser().absolute()  # the folders above say what it is
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}; give the path of a weights file or of its folder.")
    if path.is_file():
        return located(path if step is None or parse_run(path)["step"] == step else _at_step(path.parent, step))
    return located(_in_folder(path, step, layer, layer_of))


def _refuse_parts(files: Sequence[Path]) -> None:
    """CheckpointError where one of them is a part of a sharded checkpoint, as transformers writes large ones."""
    for path in files:
        if part := _PART.search(path.stem):
            raise CheckpointError(
                f"{path} is one of {int(part[1])} parts: read all with safetensors.torch.load_file, save their tensors "
                "into one file with save_file, and load that."
            )


def _in_folder(folder: Path, step: int | None, layer: int | None, layer_of: Callable[[Path], Any]) -> Path:
    here = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if here is not None:
        return here if step is None or parse_run(here)["step"] == step else _at_step(folder, step)
    if step is not None and (folder / "checkpoints").is_dir():
        return _at_step(folder, step)
    files = [p for p in files_below(folder) if p.suffix.lower() in SUFFIXES and not NOT_WEIGHTS.search(p.name)]
    below = [p for name in WEIGHT_NAMES for p in files if p.name == name]
    below += [p for p in files if _OF_LAYER.fullmatch(p.name)]
    if not below and len(files) == 1 and step is None:
        return files[0]
    if layer is not None and len(below) > 1:
        layers = {p: layer_of(p) for p in below}
        below = [p for p in below if layers[p] == layer]
        if not below:
            others = ", ".join(map(str, sorted(n for n in set(layers.values()) if n is not None))) or "no known layer"
            raise CheckpointError(f"{folder} holds no checkpoint of layer {layer}; those in it are of {others}.")
    finals = [p for p in below if parse_run(p)["step"] is None]
    if step is None:  # intermediate checkpoints only when asked for
        below = finals or below
    elif len(finals) == 1:
        return _at_step(finals[0].parent, step)
    else:
        below = [p for p in below if parse_run(p)["step"] == step]
    if not below:
        _refuse_parts(files)
        asked = " and ".join(f"{name} {n}" for name, n in (("layer", layer), ("step", step)) if n is not None)
        others = f"; it holds {_some(files, folder)}" if files and not asked else ""
        raise CheckpointError(
            f"{folder} holds no checkpoint{asked and f' of {asked}'}: none of {', '.join(WEIGHT_NAMES)} lies in it or "
            f"below it{others}; give the path of the weights file itself."
        )
    if len(below) > 1:
        raise CheckpointError(
            f"{folder} holds {len(below)} checkpoints ({_some(below, folder)}); give the path of one."
        )
    return below[0]


def _some(files: list[Path], folder: Path) -> str:
    return ", ".join(str(p.relative_to(folder)) for p in files[:5]) + (", ..." if len(files) > 5 else "")


def _at_step(folder: Path, step: int) -> Path:
    """A checkpoint of a run: checkpoints/ae_{step}.pt, sae_{step}, ..._checkpoints/trainer_i_step_{step}, snapshots."""
    layered = folder.parent.with_name(f"{folder.parent.name}_checkpoints")
    snapshots = [p for p in folder.glob("snapshots/step-*/sae_weights.safetensors") if SNAPSHOT.match(p.parent.name)]
    candidates = [
        *(p for p in snapshots if parse_run(p)["step"] == step),
        folder / "checkpoints" / f"ae_{step}.pt",
        folder / "checkpoints" / f"sae_{step}.safetensors",
        folder / f"ae_{step}.pt",
        layered / f"{folder.name}_step_{step}" / "ae.pt",
        folder.with_name(f"{re.sub(r'_step_[0-9]+$', '', folder.name)}_step_{step}") / "ae.pt",
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    final = folder / "ae.pt"
    if final.is_file() and trained_steps(final) == step:
        return final  # a run's last step is its final checkpoint
    own = [*folder.glob("checkpoints/ae_*.pt"), *folder.glob("checkpoints/sae_*.safetensors")]
    have = [*own, *snapshots, *layered.glob(f"{folder.name}_step_*/ae.pt")]
    steps = sorted({int(s) for p in have if (s := parse_run(p)["step"]) is not None})
    known = f"its steps are {', '.join(map(str, steps))}" if steps else "it has none; leave step out for the final one"
    raise StepNotFound(f"{folder} has no checkpoint of step {step}: {known}.")


def trained_steps(weights: Path) -> int | None:
    """Steps of the run that wrote these weights, where dictionary_learning's config beside them says so."""
    trainers = (config.get("trainer") for config in read_configs(weights))
    return next((trainer.get("steps") for trainer in trainers if isinstance(trainer, dict)), None)


# --- configs ------------------------------------------------------------------------------------------


def read_configs(weights: Path) -> list[dict[str, Any]]:
    """The configs beside a weights file (one folder up from checkpoints/), without a language model's own."""
    folders = [weights.parent, weights.parent.parent] if weights.parent.name == "checkpoints" else [weights.parent]
    for folder in folders:
        names = (*CONFIG_NAMES, f"{weights.stem}_cfg.json")
        configs = [read_config(folder / name) for name in names if (folder / name).is_file()]
        if configs:
            return [config for config in configs if not {"model_type", "architectures"} & config.keys()]
    return []


def read_config(file: Path) -> dict[str, Any]:
    """A JSON object in UTF-8, 16 or 32, with or without a byte order mark. CheckpointError for anything else."""

    def by_name(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise CheckpointError(f"{file} gives '{twice[0]}' twice; drop one.")
        return dict(pairs)

    try:
        config = json.loads(file.read_bytes(), object_pairs_hook=by_name)  # finds the encoding
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(config).__name__}.")
    return config
