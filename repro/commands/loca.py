"""`repro loca train|convert|evaluate`: LocA-SAE on a language model's activations, in the files of the release."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro.base.config import Device
from repro.base.errors import BadInput
from repro.commands.inputs import OneSae, default_text, find_data, known_as, max_norm_ratio, measure, safe
from repro.loca.variance import Grouping

if TYPE_CHECKING:
    from repro.sae import SAE

PAPER = {"m": 16_384, "steps": 50_000, "batch_size": 2048, "train_tokens": 10_000_000, "target_loss": 0.1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "tiny": {"m": 512, "steps": 400, "batch_size": 1024, "train_tokens": 180_000, "target_loss": 0.1},
    "smollm2-135m": {"m": 4096, "steps": 2000, "batch_size": 1024, "train_tokens": 500_000, "target_loss": 0.1},
    "gemma-2-2b": PAPER | {"batch_size": 1024, "target_loss": 0.001},
}
"""What is not given, by model; the paper's values for every other."""


@dataclass(frozen=True)
class LocaTrain:
    """LocA-SAE's four phases: a Top-K SAE, angular variance, groups, fine-tuning. Resumable."""

    model_name: str = "tiny"
    """Language model: a preset, a hub id or a folder."""
    output_dir: str | None = None
    """Folder for what is written; outputs/loca/{model} if not given."""
    acts: str | None = None
    """Saved activations [n, d] or [sequences, seq_len, d] to train on instead of collecting them."""
    dataset: str | None = None
    """Text to collect from; the Pile for a model of the hub, the bundled English for others, if not given."""
    layer: int | None = None
    """Block whose output is read; the preset's if not given."""
    setting: Literal["corrected", "as_released"] = "corrected"
    """as_released = the released code with its flaws; corrected = the stated method."""
    m: int | None = None
    """Latents; 16,384, but 512 for tiny and 4,096 for smollm2-135m, if not given."""
    k: int = 20
    """k of the Top-K SAE of phase 1."""
    n_groups: int = 8
    """Groups of latents."""
    group_ks: tuple[int, ...] | None = None
    """k of every group; corrected: k in the released proportions, as_released: 6 5 4 3 3 2 2 1, if not given."""
    total_k: int | None = None
    """Declares that group_ks add up to this and not to k (corrected refuses an undeclared difference)."""
    groups: Grouping = "angular_variance"
    """How latents are sorted into groups; none = plain Top-K with the same training."""
    equal_budgets: bool = False
    """Give every group the same k."""
    fine_tune: bool = True
    """Train phase 4."""
    steps: int | None = None
    """Steps of phase 1; 50,000, but 400 for tiny and 2,000 for smollm2-135m, if not given."""
    fine_tune_steps: int | None = None
    """Steps of phase 4; as many as phase 1 if not given."""
    batch_size: int | None = None
    """Tokens a step; 2,048 (1,024 for gemma-2-2b, tiny and smollm2-135m) if not given."""
    lr: float | None = None
    """Peak learning rate of phase 1; phase 4 has half. 3e-4, grown for short runs (corrected), if not given."""
    stop_fve: float | None = None
    """corrected: end a phase once FVE on its training batches reaches this."""
    target_loss: float | None = None
    """as_released: mean square error that ends phase 1, phase 4 at 0.7 of it; .1 (.001 for gemma-2-2b) if not given."""
    usage_weight: float = 1e-3
    """Weight of the usage penalty of phase 4 (as_released: it has no gradient)."""
    variance_batches: int = 200
    """Batches that angular variance is measured on, at most."""
    seed: int = 42
    """Seed of weights, data order and random groups."""
    train_tokens: int | None = None
    """Tokens to train on; 10,000,000, but 180,000 for tiny and 500,000 for smollm2-135m, if not given."""
    held_out_tokens: int = 8192
    """Tokens after them that eval_results.json is computed on (at most a tenth of the file)."""
    ce_tokens: int = 2048
    """Tokens after them for the language model's loss recovered; 0 = none."""
    exclude: tuple[str, ...] = ("pad", "bos", "eos", "first")
    """Positions that are not used, out of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Drop tokens beyond this many median norms; the preset's if not given."""
    device: Device = "auto"
    """auto = cuda where there is one."""
    state_every: int | None = None
    """Steps between saved states; a tenth of a phase, at most 1,000, if not given."""


@dataclass(frozen=True)
class LocaConvert:
    """Write ae.pt, one SAE in one file, from a LocA folder (trained here or by the release)."""

    sae_dir: str
    """Folder that holds multi_encoder_sae.pt and config.json."""
    protocol: Literal["corrected", "as_released"] = "corrected"
    """corrected keeps biases, groups and k; as_released drops them, as the released converter does."""


@dataclass(frozen=True)
class LocaEvaluate(OneSae):
    """A LocA-SAE's own codes: as released (converted, a plain ReLU) and corrected (a top-k in every group)."""

    sae_path: str | None = None
    """LocA folder or file; outputs/loca/{model} if not given."""


def default_folder(model_name: str) -> Path:
    """Where `train` writes and `evaluate` reads if not told."""
    return Path("outputs") / "loca" / safe(model_name)


def train(config: LocaTrain, progress: bool = True) -> Path:
    """Run the four phases -> the folder. Raises BadInput before training where it cannot work."""
    from repro.activations.store import open_store
    from repro.commands.train import language, split
    from repro.loca.phases import Loca, train_loca

    known = DEFAULTS.get(known_as(config.model_name), PAPER)
    chosen = {f.name: getattr(config, f.name) for f in dataclasses.fields(Loca)}
    chosen |= {name: known[name] for name in chosen if chosen[name] is None and name in known}
    method = Loca(**chosen)
    out = Path(config.output_dir) if config.output_dir else default_folder(config.model_name)
    store = open_store(config.acts or _collect(config, out, config.train_tokens or known["train_tokens"]))
    rows = store.select(config.exclude, max_norm_ratio(config.model_name, config.max_norm_ratio))
    part, rest = split(rows, config.train_tokens if config.acts else None, config.held_out_tokens)
    return train_loca(
        part,
        method,
        out,
        config.model_name,
        config.layer if config.layer is not None else store.meta.get("layer"),
        config.device,
        held_out=rest.take(rest.n).x if rest.n else None,
        language=language(store, rows, part.n, config.ce_tokens, config.device),
        state_every=config.state_every,
        progress=progress,
    )


def _collect(config: LocaTrain, out: Path, tokens: int) -> Path:
    from repro.activations.collect import collect
    from repro.base.config import DatasetConfig, ModelConfig, RunConfig

    text = config.dataset or default_text(config.model_name)
    run = RunConfig(
        output_dir=str(out / "acts"),
        model=ModelConfig(name=known_as(config.model_name), layer_index=config.layer),
        dataset=DatasetConfig(name=text, max_tokens=int(1.05 * (tokens + config.held_out_tokens)) + 128),
        device=config.device,
    )
    return collect(run)


def convert(config: LocaConvert) -> Path:
    """Write sae_dir/ae.pt."""
    from repro.loca import files as loca_files

    return loca_files.convert(config.sae_dir, config.protocol)


def evaluate(config: LocaEvaluate) -> Path:
    """Write out_dir/{model}_loc_amt_sae_metrics.json: the released keys, and both protocols in full beside them."""
    from repro.base.machine import pick_device
    from repro.commands.files import about, plain, released_keys, write_json
    from repro.commands.many import protocols
    from repro.evaluate import EvalOptions

    forms = load_forms(Path(config.sae_path) if config.sae_path else default_folder(config.model_name))
    wanted = [p for p in protocols(config.protocol) if p in forms]
    if not wanted:
        raise BadInput(
            f"{config.sae_path} is a converted LocA SAE without groups and biases, so only --protocol as_released can "
            "be had: give its folder with multi_encoder_sae.pt."
        )
    data = find_data(config)
    device = pick_device(config.device)
    out: dict[str, Any] = {"model_name": config.model_name, "sae_variant": "loc_amortized"}
    for protocol in wanted:
        sae = forms[protocol].to(device)
        sae.check_input(data.tokens.x[:1].to(device))
        options = EvalOptions(
            modes=("amortized",),
            protocols=(protocol,),
            gap=False,
            batch_evaluation=False,
            released_tokens=config.max_tokens,
            seed=config.seed,
        )
        (row,) = measure(sae, data, options, f"{config.model_name}, {protocol}")
        if protocol == "as_released":
            out["amortized"] = released_keys(row)
        out[protocol] = {"amortized": plain(row)}
    out["provenance"] = about(config, forms[wanted[-1]], data)
    return write_json(Path(config.out_dir) / f"{safe(config.model_name)}_loc_amt_sae_metrics.json", out)


def load_forms(path: Path) -> dict[str, SAE]:
    """Protocol -> the SAE that it evaluates; a file that the released converter wrote holds only as_released."""
    from repro.checkpoints import load_sae
    from repro.checkpoints.weights import Weights
    from repro.loca.files import converted

    file = path / "ae.pt" if path.is_dir() and not (path / "multi_encoder_sae.pt").is_file() else path
    if file.is_file() and set(Weights(file).shapes) == {"W_enc", "W_dec"}:
        return {"as_released": load_sae(file, as_released=True)}
    if not path.exists():
        raise BadInput(f"There is no LocA SAE at {path}: run `repro loca train` first, or give --sae-path.")
    sae = load_sae(path)
    if sae.name != "loca":
        raise BadInput(f"{path} holds a {sae.name} SAE, not LocA: give the folder that `repro loca train` wrote.")
    return {"as_released": converted(sae), "corrected": sae}
