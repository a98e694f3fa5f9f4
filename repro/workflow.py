"""The commands of the released workflow: index, evaluate, visualize, compare, sweep; the files that they write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.config import Device, MetricsConfig, ModelConfig, Protocol, RunConfig, write_atomically
from repro.errors import BadInput
from repro.evaluate import EvalData, EvalOptions, evaluate_checkpoints, evaluate_sae, open_data
from repro.experiments.setup import device_of

if TYPE_CHECKING:
    import pandas as pd

    from repro.sae import SAE

SEED_NAMES = {
    "NMSE": "NMSE",
    "dead_rate": "DeadRate",
    "dense@0.1": "DenseRate@0.1",
    "dense@0.2": "DenseRate@0.2",
    "F1@1": "F1@1",
    "F1@2": "F1@2",
    "dF1": "ΔF1",
    "absorption": "AbsorptionRate",
}
"""Our column -> the key of the released JSON files."""
SEED_MODES = {"amortized": "amortized", "semi": "semi_amortized", "non": "non_amortized"}


@dataclass(frozen=True)
class CompareConfig:
    """One SAE, three modes, both protocols."""

    model_name: str = "tiny"
    """Language model: a preset, a hub id or a folder; names the files."""
    sae_variant: str = "batch_topk"
    """Variant of the SAE; names the files, and finds a checkpoint where no path is given."""
    sae_path: str | None = None
    """Checkpoint file or folder, any supported format."""
    out_dir: str = "outputs"
    """Folder for the JSON file."""
    acts: str | None = None
    """Saved activations [n, d] or [sequences, seq_len, d] to evaluate instead of collecting them."""
    dataset: str | None = None
    """Text to collect from; the model's own if not given."""
    layer: int | None = None
    """Block whose output is read; the preset's if not given."""
    max_tokens: int = 10_000
    """Tokens to evaluate."""
    skip_documents: int = 0
    """Documents to skip first (those that the SAE was trained on)."""
    exclude: tuple[str, ...] = ("pad", "bos", "eos", "first")
    """Positions that are not evaluated, out of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Drop tokens beyond this many median norms; the preset's if not given."""
    eval_modes: tuple[str, ...] = ("amortized", "semi_amortized", "non_amortized")
    """Ways to codes: these three, and controls (corrected only): random_dictionary, random_encoder, pca, encoder_refit,
    pursuit."""
    protocol: Protocol = "both"
    """as_released, corrected, or both."""
    semi_steps: int = 30
    """ISTA steps of the semi mode."""
    non_steps: int = 200
    """ISTA steps of the released non mode."""
    tol: float = 1e-3
    """Relative duality gap of the certified optimum (corrected)."""
    seed: int = 0
    """Seed of every random draw."""
    device: Device = "auto"
    """auto = cuda where there is one."""


@dataclass(frozen=True)
class SweepConfig(CompareConfig):
    """Semi-amortized inference at several numbers of ISTA steps, both protocols."""

    steps: str = "5,10,15,20,25,30"
    """Numbers of steps, separated by commas."""


def protocols(word: str) -> tuple[str, ...]:
    """as_released, corrected, or both of them."""
    return ("as_released", "corrected") if word == "both" else (word,)


def acts_file(config: RunConfig) -> Path:
    """output_dir/acts_layer{L}.npy, which `repro collect` writes."""
    folder = Path(config.output_dir)
    layer = config.model.layer_index
    found = sorted(folder.glob("acts_layer*.npy"))
    found = [p for p in found if re.fullmatch(r"acts_layer\d+", p.stem)]
    if layer is not None:
        found = [p for p in found if p.stem == f"acts_layer{layer}"]
    if len(found) != 1:
        what = "no activations" if not found else "activations of several layers"
        raise BadInput(f"There are {what} in {folder}; run `repro collect` first and set model.layer_index.")
    return found[0]


def index(config: RunConfig) -> Path:
    """Write output_dir/checkpoint_index.parquet."""
    import pandas as pd

    from repro.checkpoints.index import index_checkpoints

    if not config.sae_checkpoints:
        raise BadInput("No sae_checkpoints in the config; add, say, sae_checkpoints: {topk: {roots: [FOLDER]}}.")
    roots = {entry.name or key: entry.roots for key, entry in config.sae_checkpoints.items()}
    table = pd.DataFrame(index_checkpoints(roots))
    out = Path(config.output_dir) / "checkpoint_index.parquet"
    return write_atomically(out, lambda path: table.to_parquet(path, index=False))


def evaluate(config: RunConfig) -> Path:
    """Write output_dir/metrics.parquet: a row a checkpoint x mode x protocol. Finished rows are kept and reused."""
    import pandas as pd

    folder = Path(config.output_dir)
    listing = folder / "checkpoint_index.parquet"
    if not listing.is_file():
        raise BadInput(f"There is no {listing}; run `repro index` with the same config first.")
    table = pd.read_parquet(listing)
    if "reason" in table:
        table = table[table["reason"].isna() | (table["reason"] == "")]
    if len(table) == 0:
        raise BadInput(f"{listing} lists no readable checkpoint; check sae_checkpoints.*.roots and run `repro index`.")
    entries = [{str(k): v for k, v in row.items() if pd.notna(v)} for row in table.to_dict("records")]
    for entry in entries:
        for name in ("trainer", "step"):
            if name in entry:
                entry[name] = int(entry[name])
    acts = acts_file(config)
    labelled = acts if acts.with_name(f"{acts.stem}.labels.npy").is_file() else None
    data = open_data(acts, config.metrics, labelled, stream=True)
    options = EvalOptions(
        modes=config.eval_modes,
        protocols=protocols(config.protocol),
        semi_steps=config.semi_steps,
        non_steps=config.non_steps,
        target_dense=config.target_dense_semi_non,
        gap=config.metrics.amortization_gap,
        released_tokens=config.metrics.max_tokens,
        probe_ks=config.metrics.probe_ks,
        bootstrap=config.metrics.bootstrap,
        seed=config.seed,
    )
    rows = evaluate_checkpoints(entries, data, options, folder / "rows", device_of(config.device))
    spelled = {mode.removesuffix("_amortized"): mode for mode in config.eval_modes}
    out = pd.DataFrame(rows)
    if "mode" in out:
        out["mode"] = out["mode"].map(lambda m: spelled.get(m, m))
    return write_atomically(folder / "metrics.parquet", lambda path: out.to_parquet(path, index=False))


def visualize(config: RunConfig) -> list[Path]:
    """Draw output_dir/metrics.parquet: fig_<metric>_<mode>_<protocol>.html and .png, a line a variant and sparsity."""
    import importlib.util

    import pandas as pd

    from repro.experiments.comparison import METRICS

    source = Path(config.output_dir) / "metrics.parquet"
    if not source.is_file():
        raise BadInput(f"There is no {source}; run `repro evaluate` with the same config first.")
    table = pd.read_parquet(source)
    written = []
    for metric in (*METRICS, "amort_gap_mean"):
        for (mode, protocol), part in table.groupby(["mode", "protocol"]):
            if metric not in part or part[metric].isna().all():
                continue
            figure = metric_over_steps(part, metric, f"{mode}, {protocol}")
            stem = Path(config.output_dir) / f"fig_{metric}_{mode}_{protocol}"
            html = Path(f"{stem}.html")
            write_atomically(html, lambda path, figure=figure: figure.write_html(path, include_plotlyjs="directory"))
            written.append(html)
            if importlib.util.find_spec("kaleido"):
                png = Path(f"{stem}.png")
                write_atomically(
                    png, lambda path, figure=figure: figure.write_image(path, width=900, height=500, scale=2)
                )
                written.append(png)
    if not importlib.util.find_spec("kaleido"):
        raise BadInput("The .html figures are written; for .png too, pip install 'repro[png]' and run this again.")
    return written


def metric_over_steps(part: pd.DataFrame, metric: str, title: str) -> Any:
    """One metric against the training step (final checkpoints: against sparsity), a line a variant and sparsity."""
    import plotly.graph_objects as go

    from repro.experiments.comparison import LABELS, groups
    from repro.report.theme import use_theme

    use_theme()
    figure = go.Figure()
    moving = part["step"].nunique() > 1
    along = "step" if moving else "sparsity"
    keys = ["variant", "sparsity"] if moving else ["variant"]
    for values, line in groups(part, *keys):
        line = line.sort_values(along)
        name = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
        figure.add_trace(go.Scatter(x=line[along], y=line[metric], mode="lines+markers", name=name))
    figure.update_layout(title=title, xaxis_title=f"training {along}" if moving else along)
    figure.update_yaxes(title_text=LABELS.get(metric, metric))
    if moving:
        figure.update_xaxes(type="log")
    return figure


def find_sae(config: CompareConfig) -> SAE:
    """The SAE of a comparison: the given path, the bundled recipe's for `tiny`, or SAEBench's for its models."""
    from repro.activations.presets import PRESETS
    from repro.checkpoints import load_sae
    from repro.checkpoints.hub import find_sae as find_released

    if config.sae_path is not None:
        return load_sae(config.sae_path, layer=None)
    if config.model_name == "tiny":
        from repro.config import scale_of
        from repro.experiments.setup import prepare

        finals = prepare(scale_of("tiny")).finals(config.sae_variant)
        if finals:
            return load_sae(finals[0]["path"])
    preset = PRESETS.get(config.model_name)
    if preset is not None and preset.kind == "hub":
        return load_sae(find_released(config.model_name, config.sae_variant, layer=config.layer))
    raise BadInput(
        f"Which {config.sae_variant} SAE of {config.model_name}? Give --sae-path a checkpoint file or folder "
        "(`repro train` writes them, `repro fetch-sae` downloads them)."
    )


def find_data(config: CompareConfig) -> EvalData:
    """Evaluation tokens: the given activations, or collected ones under out_dir."""
    from repro.activations.collect import collect
    from repro.activations.presets import PRESETS
    from repro.config import DatasetConfig

    preset = PRESETS.get(config.model_name)
    ratio = config.max_norm_ratio
    if ratio is None and preset is not None:
        ratio = preset.max_norm_ratio
    metrics = MetricsConfig(max_tokens=config.max_tokens, exclude=config.exclude, max_norm_ratio=ratio)
    if config.acts is not None:
        return open_data(config.acts, metrics, stream=True)
    text = config.dataset or ("monology/pile-uncopyrighted" if preset and preset.kind == "hub" else "tiny")
    dataset = DatasetConfig(
        name=text, max_tokens=int(config.max_tokens * 1.1) + 128, skip_documents=config.skip_documents
    )
    run = RunConfig(
        output_dir=str(Path(config.out_dir) / f"acts-{safe(config.model_name)}"),
        model=ModelConfig(name=config.model_name, layer_index=config.layer),
        dataset=dataset,
        device=config.device,
    )
    return open_data(collect(run), metrics, stream=True)


def safe(name: str) -> str:
    """A model or variant name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or name)


def _options(config: CompareConfig) -> EvalOptions:
    return EvalOptions(
        modes=config.eval_modes,
        protocols=protocols(config.protocol),
        semi_steps=config.semi_steps,
        non_steps=config.non_steps,
        target_dense=float("nan"),
        released_k=False,
        released_tokens=config.max_tokens,
        tol=config.tol,
        seed=config.seed,
    )


def _checked(config: CompareConfig) -> tuple[SAE, EvalData]:
    sae = find_sae(config)
    data = find_data(config)
    sae.check_input(data.tokens.x[:1])
    return sae.to(device_of(config.device)), data


def _about(config: CompareConfig, sae: SAE, data: EvalData) -> dict[str, Any]:
    from repro.experiments.tables import provenance

    source = {k: v for k, v in vars(sae.source).items() if v not in (None, "", {})}
    source["path"] = Path(str(source.get("path", ""))).name
    return {"sae": {"variant": sae.name, "d": sae.config.d, "m": sae.config.m, **source}, "data": data.tokens.info} | {
        "seed": config.seed,
        **provenance(),
    }


def compare(config: CompareConfig) -> Path:
    """Write out_dir/{model}_{variant}_3modes.json: the released keys per mode, and everything corrected beside them."""
    sae, data = _checked(config)
    out: dict[str, Any] = {"model_name": config.model_name, "sae_variant": config.sae_variant}
    for row in evaluate_sae(sae, data, _options(config)):
        mode = SEED_MODES.get(row["mode"], row["mode"])
        if row["protocol"] == "as_released":
            out[mode] = {name: row[key] for key, name in SEED_NAMES.items()}
            out.setdefault("as_released", {})[mode] = _plain(row)
        else:
            out.setdefault("corrected", {})[mode] = _plain(row)
    out["provenance"] = _about(config, sae, data)
    return _write_json(Path(config.out_dir) / f"{safe(config.model_name)}_{safe(config.sae_variant)}_3modes.json", out)


def sweep(config: SweepConfig) -> Path:
    """Write out_dir/{model}_{variant}_semi_sweep.json: the released keys by number of steps, corrected beside them."""
    from repro.experiments.sweep import sweep as rows_of

    try:
        steps = sorted({int(s) for s in config.steps.replace(",", " ").split()})
    except ValueError:
        raise BadInput(f"--steps is '{config.steps}'; give whole numbers separated by commas, say 5,10,30.") from None
    if not steps or steps[0] < 0:
        raise BadInput(f"--steps is '{config.steps}'; give at least one number of steps, none below 0.")
    sae, data = _checked(config)
    out: dict[str, Any] = {"model_name": config.model_name, "sae_variant": config.sae_variant, "semi_amortized": {}}
    wanted = protocols(config.protocol)
    for row in rows_of(sae, data, [0, *steps], _options(config)):
        if row["protocol"] not in wanted:
            continue
        if row["protocol"] == "corrected":
            count = {None: "note", -1: "certified"}.get(row.get("steps"), str(row.get("steps")))
            out.setdefault("corrected", {})[count] = _plain(row)
            continue
        named = {name: row[key] for key, name in SEED_NAMES.items()} | {"lambda": row["lam"]}
        if row["steps"] == 0:
            out["amortized"] = named
        if row["steps"] in steps:
            out["semi_amortized"][str(row["steps"])] = named
    out["provenance"] = _about(config, sae, data)
    name = f"{safe(config.model_name)}_{safe(config.sae_variant)}_semi_sweep.json"
    return _write_json(Path(config.out_dir) / name, out)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if v is not None and v == v and k not in ("protocol", "mode", "sha256")}


def _write_json(path: Path, value: Any) -> Path:
    return write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))
