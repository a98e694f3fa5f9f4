"""The price of every trained SAE of a scale: tables `price`, `price_parts` and `price_frontier`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from repro.activations.language_models.loss import LossMeter
from repro.base.config import MetricsConfig
from repro.base.errors import BadInput
from repro.base.files import cache_dir
from repro.evaluate import EvalData, open_data
from repro.price import PriceOptions, words
from repro.price import price as price_of
from repro.sections.scales import PRICE_SEEDS, PRICED, Scale
from repro.sections.setup import Prepared, prepare, trained_on
from repro.sections.tables import about, load_table, save_table
from repro.sections.types import DataFrame

TABLES = ("price", "price_parts", "price_frontier")
PARTS = ("values", "support", "dictionary", "share_of_increase")
SPLIT = ("encoder", "encoder_refit", "pursuit")
"""Kinds of codes that the parts need: all that earlier checkpoints are priced with."""
EARLIER = ("standard", "topk")
"""Variants of which one SAE is priced along training: one trained with L1, one with k."""
FRONTIER = "topk"
"""Variant of which one SAE is followed over its number of nonzeros."""
FOLLOWED = ("tiny", "small", "paper")
"""Scales at which one SAE is followed along training and over its number of nonzeros; at others only final SAEs."""
FIRST = 0.05
"""Share of training from which on earlier checkpoints are priced."""
SAMPLE = 500
"""Tokens on which lambda is calibrated, and of the frontier."""

Rows = dict[str, list[dict[str, Any]]]
"""Name of a table -> its rows."""


def setting_of(scale: Scale) -> Scale:
    """Where a scale has SAEs for this section, their setting with the seed of `scale`; else `scale` itself."""
    return dataclasses.replace(PRICED[scale.name], seed=scale.seed) if scale.name in PRICED else scale


def run(scale: Scale, tokens: int, seeds: Sequence[int] | None = None) -> list[DataFrame]:
    """Price all SAEs of a scale on whole held-out documents; writes and returns the three tables.

    `price`: a row an SAE, training step and kind of codes. `price_parts`: a row an SAE, step, metric (NMSE, CE or KL)
    and part of the encoder's increase. `price_frontier`: a row a point of one SAE. Each finished piece is a file in
    the cache, from which an interrupted run goes on. Checkpoints along training and the frontier are of the first seed,
    at the scales of FOLLOWED.

    seeds: of the SAEs; all those of the scale if not given. If given, the tables keep what they hold of other seeds.
    Raises BadInput if that is of another setting.
    """
    from repro.activations.held_out import open_meter

    started = time.perf_counter()
    setting = setting_of(scale)
    tables, facts = stored_rows(setting, tokens, seeds)
    meter = None
    for seed in every_seed(scale) if seeds is None else seeds:
        own = dataclasses.replace(setting, seed=seed)
        ready = prepare(own)
        data = held_out(ready, own, tokens)
        meter = meter or open_meter(data.tokens.x.rows, tokens, ready.device)
        first = seed == scale.seed and scale.name in FOLLOWED
        for checkpoint in tqdm(priced(ready) if first else ready.finals(), desc=f"SAEs, seed {seed}", unit="SAE"):
            result = price_one(checkpoint, own, first and checkpoint is _one(ready, FRONTIER), data, meter)
            head = {k: checkpoint[k] for k in ("variant", "sparsity", "step")} | {"seed": seed}
            tables["price"] += [head | {"mode": mode} | row for mode, row in result["modes"].items()]
            tables["price_parts"] += [head | row for row in rows_of(result, data)]
            tables["price_frontier"] += [head | row for row in result["frontier"]]
    facts |= {"tokens": tokens, "seeds": sorted({row["seed"] for row in tables["price"]})}
    seconds = time.perf_counter() - started
    return [save_table(name, setting, rows, seconds, **facts) for name, rows in tables.items() if rows]


def every_seed(scale: Scale) -> tuple[int, ...]:
    """Seeds of the SAEs of a scale; the first is its own."""
    return tuple(scale.seed + i for i in PRICE_SEEDS.get(scale.name, (0,)))


def stored_rows(setting: Scale, tokens: int, seeds: Sequence[int] | None) -> tuple[Rows, dict[str, Any]]:
    """Rows of stored tables that are not of these seeds, and when they were computed; nothing if no seeds are given.

    Raises BadInput for rows of another setting or number of tokens.
    """
    tables: Rows = {name: [] for name in TABLES}
    if seeds is None:
        return tables, {}
    facts: dict[str, Any] = {}
    for name in TABLES:
        table, origin = load_table(name, setting.name), about(name, setting.name)
        if table is None or (table := table[~table["seed"].isin(list(seeds))]).empty:
            continue
        here = json.loads(json.dumps(dataclasses.asdict(setting)))
        other = [key for key, value in here.items() if key != "seed" and origin["scale"].get(key) != value]
        if origin.get("tokens", tokens) != tokens:
            other.append("tokens")
        if other:
            raise BadInput(f"The stored table '{name}' has another {', '.join(other)}; price all seeds again.")
        tables[name] = table.to_dict("records")
        facts["kept"] = {key: origin[key] for key in ("commit", "finished", "seconds")}
    return tables, facts


def price_one(
    checkpoint: dict[str, Any], scale: Scale, followed: bool, data: EvalData, meter: LossMeter
) -> dict[str, Any]:
    """The price of one SAE: all kinds of codes if it is fully trained, else those of the parts.

    followed: with its frontier.
    """
    from repro.checkpoints import load_sae

    options = PriceOptions(
        sample_tokens=SAMPLE,
        tol=scale.tol,
        seed=scale.seed,
        kinds=tuple(words.NAMES) if checkpoint["final"] else SPLIT,
        frontier=followed,
    )
    sae = load_sae(checkpoint["path"]).to(meter.model.device)
    return price_of(sae, data, cache_dir() / "price", options, meter=meter)


def split_rows(
    saes: Sequence[dict[str, Any]], scale: Scale, data: EvalData, meter: LossMeter, label: str
) -> list[dict[str, Any]]:
    """Rows of `price_parts` of some checkpoints, which are priced with the kinds of codes in SPLIT alone."""
    from repro.checkpoints import load_sae

    options, rows = PriceOptions(tol=scale.tol, seed=scale.seed, kinds=SPLIT, frontier=False), []
    for checkpoint in tqdm(saes, desc=label, unit="SAE"):
        sae = load_sae(checkpoint["path"]).to(meter.model.device)
        result = price_of(sae, data, cache_dir() / "price", options, meter=meter)
        head = {key: checkpoint[key] for key in ("variant", "sparsity", "step")} | {"seed": scale.seed}
        rows += [head | row for row in rows_of(result, data)]
    return rows


def held_out(ready: Prepared, scale: Scale, tokens: int) -> EvalData:
    """The first tokens of the documents after the one in which training ended, left on disk."""
    store = ready.rows.store
    usable = store.select(max_norm_ratio=scale.max_norm_ratio)
    metrics = MetricsConfig(max_tokens=tokens, max_norm_ratio=scale.max_norm_ratio)
    return open_data(store.path, metrics, None, 0, trained_on(usable.docs, ready.rows), True)


def priced(ready: Prepared) -> list[dict[str, Any]]:
    """Fully trained SAEs, and the earlier checkpoints of one SAE of each variant in EARLIER."""
    along = [_one(ready, variant) for variant in EARLIER]
    earlier = [
        checkpoint
        for checkpoint in ready.checkpoints
        for final in along
        if final and not checkpoint["final"] and checkpoint["step"] >= FIRST * final["step"]
        if all(checkpoint[k] == final[k] for k in ("variant", "trainer"))
    ]
    return [*ready.finals(), *earlier]


def _one(ready: Prepared, variant: str) -> dict[str, Any] | None:
    """The first fully trained SAE of a variant."""
    return next(iter(ready.finals(variant)), None)


def rows_of(result: dict[str, Any], data: EvalData) -> list[dict[str, Any]]:
    """Rows of `price_parts` from the price of one SAE."""
    facts = {"n_tokens": len(data.tokens), "documents": int(data.tokens.docs.max()) + 1}
    return [
        {"metric": metric, "part": part, "value": split[part]}
        | {end: split[f"{part}_{end}"] for end in ("low", "high")}
        | facts
        for metric, split in result["price"].items()
        for part in PARTS
    ]
