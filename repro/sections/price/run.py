"""The price of every trained SAE of a scale: tables `price`, `price_parts` and `price_frontier`."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from tqdm import tqdm

from repro.base.config import MetricsConfig
from repro.base.files import cache_dir
from repro.evaluate import EvalData, open_data
from repro.price import PriceOptions, words
from repro.price import price as price_of
from repro.sections.scales import PRICED, Scale
from repro.sections.setup import Prepared, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame

PARTS = ("values", "support", "dictionary", "share_of_increase")
SPLIT = ("encoder", "encoder_refit", "pursuit")
"""Kinds of codes that the parts need: all that earlier checkpoints are priced with."""
EARLIER = ("standard", "topk")
"""Variants of which one SAE is priced along training: one trained with L1, one with k."""
FRONTIER = "topk"
"""Variant of which one SAE is followed over its number of nonzeros."""
FIRST = 0.05
"""Share of training from which on earlier checkpoints are priced."""
SAMPLE = 500
"""Tokens on which lambda is calibrated, and of the frontier."""


def setting_of(scale: Scale) -> Scale:
    """Where a scale has SAEs for this section, their setting with the seed of `scale`; else `scale` itself."""
    return dataclasses.replace(PRICED[scale.name], seed=scale.seed) if scale.name in PRICED else scale


def run(scale: Scale, tokens: int) -> list[DataFrame]:
    """Price all SAEs of a scale on whole held-out documents; writes and returns the three tables.

    `price`: a row an SAE, training step and kind of codes. `price_parts`: a row an SAE, step, metric (NMSE, CE or KL)
    and part of the encoder's increase. `price_frontier`: a row a point of one SAE. Each finished piece is a file in
    the cache, from which an interrupted run goes on.
    """
    from repro.activations.held_out import open_meter
    from repro.checkpoints import load_sae

    started = time.perf_counter()
    setting = setting_of(scale)
    ready = prepare(setting)
    data = held_out(ready, setting, tokens)
    meter = open_meter(data.tokens.x.rows, tokens, ready.device)
    modes, parts, points = [], [], []
    for checkpoint in tqdm(priced(ready), desc="SAEs", unit="SAE"):
        final, followed = checkpoint["final"], checkpoint is _one(ready, FRONTIER)
        options = PriceOptions(
            sample_tokens=SAMPLE,
            tol=setting.tol,
            seed=setting.seed,
            kinds=tuple(words.NAMES) if final else SPLIT,
            frontier=followed,
        )
        sae = load_sae(checkpoint["path"]).to(ready.device)
        result = price_of(sae, data, cache_dir() / "price", options, meter=meter)
        head = {k: checkpoint[k] for k in ("variant", "sparsity", "step")} | {"seed": setting.seed}
        modes += [head | {"mode": mode} | row for mode, row in result["modes"].items()]
        parts += [head | row for row in rows_of(result, data)]
        points += [head | row for row in result["frontier"]]
    seconds = time.perf_counter() - started
    tables = {"price": modes, "price_parts": parts, "price_frontier": points}
    return [save_table(name, setting, rows, seconds) for name, rows in tables.items()]


def held_out(ready: Prepared, scale: Scale, tokens: int) -> EvalData:
    """The first tokens of the documents after the one in which training ended, left on disk."""
    store = ready.rows.store
    usable = store.select(max_norm_ratio=scale.max_norm_ratio)
    skip = int((usable.docs <= ready.rows.docs[-1]).sum())
    return open_data(
        store.path, MetricsConfig(max_tokens=tokens, max_norm_ratio=scale.max_norm_ratio), None, 0, skip, True
    )


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
