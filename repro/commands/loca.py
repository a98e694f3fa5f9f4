"""`repro loca train|convert|evaluate`: LocA-SAE on a language model's activations, in the files of the release."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.activations.language_models.presets import known_as, max_norm_ratio
from repro.base.errors import BadInput
from repro.commands.inputs import default_text, find_data, measure, name_of, safe
from repro.commands.training_flags import LocaConvert, LocaEvaluate, LocaTrain

if TYPE_CHECKING:
    from repro.sae import SAE

PAPER = {"m": 16_384, "steps": 50_000, "batch_size": 2048, "train_tokens": 10_000_000, "target_loss": 0.1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "tiny": {"m": 512, "steps": 400, "batch_size": 1024, "train_tokens": 180_000, "target_loss": 0.1},
    "smollm2-135m": {"m": 4096, "steps": 2000, "batch_size": 1024, "train_tokens": 500_000, "target_loss": 0.1},
    "gemma-2-2b": PAPER | {"batch_size": 1024, "target_loss": 0.001},
}
"""What is not given, by model; the paper's values for every other."""


def default_folder(model_name: str) -> Path:
    """Folder that `train` writes and `evaluate` reads by default."""
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
        language=language(rows, part.n, config.ce_tokens, config.device),
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
    from repro.base.files import write_json
    from repro.base.machine import pick_device
    from repro.commands.files import about, plain, released_keys
    from repro.commands.many import protocols
    from repro.commands.show import show
    from repro.evaluate import EvalOptions

    forms = load_forms(Path(config.sae_path) if config.sae_path else default_folder(config.model_name or "tiny"))
    wanted = [p for p in protocols(config.protocol) if p in forms]
    if not wanted:
        raise BadInput(
            f"{config.sae_path} is a converted LocA SAE without groups and biases, so only --protocol as_released can "
            "be had: give its folder with multi_encoder_sae.pt."
        )
    own = forms[wanted[-1]]
    data, name, rows = find_data(config, own), name_of(config, own), []
    device = pick_device(config.device)
    model = config.model_name or data.tokens.info.get("model") or own.source.lm_name
    out: dict[str, Any] = {"model_name": model, "sae_variant": "loc_amortized"}
    for protocol in wanted:
        sae = forms[protocol].to(device)
        sae.check_input(data.tokens.x[:1].to(device))
        options = EvalOptions(
            modes=("amortized",),
            protocols=(protocol,),
            gap=False,
            batch_evaluation=False,
            released_tokens=config.max_tokens,
            allow_mismatch=config.allow_mismatch,
            seed=config.seed,
        )
        (row,) = measure(sae, data, options, f"{name}, {protocol}")
        rows.append(row)
        if protocol == "as_released":
            out["amortized"] = released_keys(row)
        out[protocol] = {"amortized": plain(row)}
    out["provenance"] = about(config, own, data)
    show(rows, ("protocol", "NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "F1@1", "absorption"))
    return write_json(Path(config.out_dir) / f"{name}_loc_amt_sae_metrics.json", out)


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
