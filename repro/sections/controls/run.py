"""The controls computed: codes that learned nothing, or not from this dictionary, at the encoder's own L0."""

from __future__ import annotations

import time

from repro.evaluate import evaluate_checkpoints
from repro.inference import CONTROLS
from repro.sections.scales import Scale
from repro.sections.setup import options, prepare
from repro.sections.tables import save_table
from repro.sections.types import DataFrame


def run(scale: Scale) -> DataFrame:
    """Every final SAE of the scale x every control, corrected protocol; writes the table `controls`."""
    started = time.perf_counter()
    ready = prepare(scale)
    o = options(scale, modes=CONTROLS, protocols=("corrected",))
    rows = evaluate_checkpoints(ready.finals(), ready.data, o, ready.folder / "rows", ready.device)
    return save_table("controls", scale, rows, time.perf_counter() - started, key=ready.data.key)
