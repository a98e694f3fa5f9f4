"""The comparison computed: every final SAE of a scale, three modes, both protocols."""

from __future__ import annotations

import time

from repro.evaluate import evaluate_checkpoints
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame


def run(scale: Scale) -> DataFrame:
    """Every final SAE of the scale x three modes x both protocols, one row each; writes the table `comparison`."""
    started = time.perf_counter()
    ready = prepare(scale)
    rows = evaluate_checkpoints(ready.finals(), ready.data, options(scale), ready.folder / "rows", ready.device)
    facts = {"data": ready.data.tokens.info, "key": ready.data.key}
    return save_table("comparison", scale, rows, time.perf_counter() - started, **facts)
