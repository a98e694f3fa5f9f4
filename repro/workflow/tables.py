"""Many checkpoints: `repro index` lists them, `repro evaluate` fills a row for each mode and protocol."""

from __future__ import annotations

import re
from pathlib import Path

from repro.activations.store import find_stores, open_store, store_name
from repro.config import RunConfig, write_atomically
from repro.errors import BadInput
from repro.evaluate import EvalOptions, evaluate_checkpoints, open_data
from repro.experiments.setup import device_of


def protocols(word: str) -> tuple[str, ...]:
    """as_released, corrected, or both of them."""
    return ("as_released", "corrected") if word == "both" else (word,)


def acts_file(config: RunConfig) -> Path:
    """The store that `repro collect` wrote into output_dir: acts_layer{L}.npy, or a folder of shards of that name."""
    folder, model = Path(config.output_dir), config.model
    layer = r"\d+" if model.layer_index is None else model.layer_index
    name = store_name(0, model.site).replace("0", f"{layer}", 1)
    found = [p for p in find_stores(folder) if re.fullmatch(name, p.stem)]
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
    for name, paths in roots.items():
        if not paths:
            raise BadInput(f"sae_checkpoints.{name} has no roots; name the folders of its checkpoints, or drop it.")
    table = pd.DataFrame(index_checkpoints(roots))
    for name in set(roots) - set(table["name"]):
        raise BadInput(
            f"No checkpoint of {name} below {', '.join(map(str, roots[name]))}; correct its roots, or drop it."
        )
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
    labelled = acts if open_store(acts).labels is not None else None
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
    names = {entry["path"]: entry["name"] for entry in entries if "name" in entry}
    out = pd.DataFrame(rows)
    out.insert(0, "name", out["path"].map(names.get))
    if "mode" in out:
        out["mode"] = out["mode"].map(lambda m: spelled.get(m, m))
    return write_atomically(folder / "metrics.parquet", lambda path: out.to_parquet(path, index=False))
