"""Many checkpoints: `repro index` lists them, `repro evaluate` fills a row for each mode and protocol."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from repro.activations.stage import staged
from repro.activations.store import find_stores, open_store, store_name
from repro.base.config import RunConfig, from_mapping
from repro.base.errors import BadInput, TasksFailed
from repro.base.files import digest, write_atomically
from repro.base.lock import only_one
from repro.base.machine import pick_device, provenance
from repro.base.memory import sae_bytes
from repro.checkpoints.match import Place, match
from repro.commands.files import read_table
from repro.commands.inputs import data_notes, say
from repro.evaluate import EvalData, EvalOptions, evaluate_checkpoints, open_data
from repro.evaluate.run import unfinished
from repro.inference.calibration import CALIBRATION_TOKENS
from repro.jobs.run import fan_out
from repro.jobs.task import Fanout, Task

LIBRARIES = 3 * 2**28  # numba, scikit-learn and scipy at work take this or less; tests hold it to measured peaks


def protocols(word: str) -> tuple[str, ...]:
    """as_released, corrected, or both of them."""
    return ("as_released", "corrected") if word == "both" else (word,)


def acts_file(config: RunConfig) -> Path:
    """The store that `repro collect` wrote into output_dir: acts_layer{L}.npy."""
    folder, model = Path(config.output_dir), config.model
    layer = r"\d+" if model.layer_index is None else model.layer_index
    name = store_name(0, model.site).replace("0", f"{layer}", 1)
    stores = [p for p in find_stores(folder) if re.fullmatch(name, p.stem)]
    if len(stores) != 1:
        what = "no activations" if not stores else "activations of several layers"
        raise BadInput(f"There are {what} in {folder}; run `repro collect` first and set model.layer_index.")
    return stores[0]


def index(config: RunConfig) -> Path:
    """Write output_dir/checkpoint_index.parquet; TasksFailed where it lists files that were refused."""
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
    written = write_atomically(out, lambda path: table.to_parquet(path, index=False))
    refused = table.loc[table["status"] == "refused", "reason"]
    if len(refused):
        raise TasksFailed(
            f"{len(refused)} of {len(table)} files are refused, the others can be evaluated; {written} has the reasons "
            f"in its column reason, such as: {refused.iloc[0]}"
        )
    return written


def evaluate(config: RunConfig) -> Path:
    """Write output_dir/metrics.parquet: a row a checkpoint x mode x protocol. Finished rows are kept and reused.

    `attrs` of the table, as pandas reads it: the config, which tokens were left out and how many, commit and machine.
    """
    import pandas as pd

    folder = Path(config.output_dir)
    listing = folder / "checkpoint_index.parquet"
    if not listing.is_file():
        raise BadInput(f"There is no {listing}; run `repro index` with the same config first.")
    listed = table = read_table(listing, ("path",))
    if "reason" in table:
        table = table[table["reason"].isna() | (table["reason"] == "")]
    if len(table) == 0:
        raise BadInput(f"{listing} lists no readable checkpoint; check sae_checkpoints.*.roots and run `repro index`.")
    if missing := len(listed) - len(table):
        say(f"No rows for {missing} of {len(listed)} files, which `repro index` refused: {listing} has the reasons.")
    entries = [{str(k): v for k, v in row.items() if pd.notna(v)} for row in table.to_dict("records")]
    for entry in entries:
        entry["path"] = str(Path(entry["path"]).absolute())
        for name in ("trainer", "seed", "step"):
            if name in entry:
                try:
                    entry[name] = int(entry[name])
                except ValueError:
                    raise BadInput(f"{listing} has '{entry[name]}' as a {name}; run `repro index` again.") from None
    asked, config = config, anywhere(config)
    with only_one(folder, "repro evaluate"):
        how = fanout_of(config)
        data, options = opened(config, None if how.apart else config.stage)
        todo = unfinished(entries, data, options, folder / "rows")
        failed = evaluate_apart(todo, config) if how.apart else {}
        rows = evaluate_checkpoints(entries, data, options, folder / "rows", pick_device(config.device), failed)
        spelled = {mode.removesuffix("_amortized"): mode for mode in config.eval_modes}
        out = pd.DataFrame(rows)
        out.insert(0, "name", out.pop("name") if "name" in out else None)
        out["mode"] = out["mode"].map(lambda m: spelled.get(m, m)) if "mode" in out else None
        out.attrs = {"config": dataclasses.asdict(asked), "tokens": data.tokens.info, **provenance()}
        written = write_atomically(folder / "metrics.parquet", lambda path: out.to_parquet(path, index=False))
    reasons = [row["note"] for row in rows if "mode" not in row]
    places = {tuple(row.get(f"sae_{name}") for name in ("layer", "site", "model")) for row in rows if "mode" in row}
    here = Place.of_data(data.tokens.info)
    say(*data_notes(data))
    say(*dict.fromkeys(note for p in places for note in match(Place(p[0], p[1] or "", p[2] or ""), here, allow=True)))
    if reasons:
        raise TasksFailed(
            f"{len(reasons)} of {len(entries)} checkpoints failed; {written} has the reasons in its column note, such "
            f"as: {reasons[0]}"
        )
    return written


def anywhere(config: RunConfig) -> RunConfig:
    """The config with absolute folders, for workers that run in another one; $VARIABLES are read where they run."""
    stage = config.stage
    if stage is not None and not stage.startswith(("$", "~")):
        stage = str(Path(stage).absolute())
    return dataclasses.replace(config, output_dir=str(Path(config.output_dir).absolute()), stage=stage)


def opened(config: RunConfig, stage: str | None = None) -> tuple[EvalData, EvalOptions]:
    """What a config evaluates on, left on disk, and how. stage: read a copy there (`activations.stage`)."""
    acts = acts_file(config)
    acts = staged(acts, stage) if stage else acts
    labelled = acts if open_store(acts).labels is not None else None
    data = open_data(acts, config.metrics, labelled, stream=True, device=config.device)
    options = EvalOptions(
        modes=config.eval_modes,
        protocols=protocols(config.protocol),
        semi_steps=config.semi_steps,
        non_steps=config.non_steps,
        target_dense=config.target_dense_semi_non,
        gap=config.metrics.amortization_gap,
        released_tokens=config.metrics.max_tokens,
        probe_ks=config.metrics.probe_ks,
        allow_mismatch=config.allow_mismatch,
        seed=config.seed,
    )
    return data, options


def fanout_of(config: RunConfig) -> Fanout:
    """Where a config evaluates."""
    return Fanout(
        config.engine,
        config.workers,
        config.scheduler,
        config.threads,
        config.retries,
        config.gpus,
        config.minutes,
        config.stage,
    )


def evaluate_apart(entries: list[dict[str, Any]], config: RunConfig) -> dict[str, str]:
    """Evaluate checkpoints in other processes, on this machine or others that see the same files.

    Each leaves its rows in output_dir/rows, where the table is put together afterwards; returns {path: reason} of
    those that failed every time.
    """
    folder = Path(config.output_dir)
    on_cpu = not config.gpus and pick_device(config.device) == "cpu"
    tasks = [Task(digest(e), _named(e), evaluate_entry, (e, config), memory_of(e) if on_cpu else 0) for e in entries]
    failed = fan_out(tasks, fanout_of(config), folder)
    return {entry["path"]: failed[task.key] for entry, task in zip(entries, tasks, strict=True) if task.key in failed}


def memory_of(entry: dict[str, Any]) -> int:
    """Bytes that evaluating it on a CPU takes beyond a process that has only started; 0 where its shape is unknown.

    What libraries take once they have compiled and fitted something, the SAE and what solvers keep of its dictionary,
    and dense blocks of codes: two at a time, of the default block or of the tokens that lambda is calibrated on.
    """
    if "d" not in entry or "m" not in entry:
        return 0
    d, m = int(entry["d"]), int(entry["m"])
    tokens = max(EvalOptions().block_of(m), CALIBRATION_TOKENS)
    return LIBRARIES + 2 * sae_bytes(d, m) + 2 * 4 * tokens * m


def evaluate_entry(entry: dict[str, Any], config: RunConfig) -> None:
    """All rows of one checkpoint, in this process (what a worker does). BadInput where it cannot be evaluated."""
    data, options = _opened_once(json.dumps(dataclasses.asdict(config)))
    rows = Path(config.output_dir) / "rows"
    for row in evaluate_checkpoints([entry], data, options, rows, pick_device(config.device), progress=False):
        if "mode" not in row:
            raise BadInput(row["note"])


@lru_cache(maxsize=1)
def _opened_once(config: str) -> tuple[EvalData, EvalOptions]:
    read = from_mapping(RunConfig, json.loads(config))
    return opened(read, read.stage)


def _named(entry: dict[str, Any]) -> str:
    return f"{entry.get('variant', 'SAE')} {entry.get('sparsity', '')} step {entry.get('step', 'final')}"
