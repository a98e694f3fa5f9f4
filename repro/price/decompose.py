"""The decomposition of an SAE's squared error: values, support, and what is left to the dictionary."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from repro.metrics.intervals import by_document
from repro.metrics.loss import parts


def decomposition(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{"NMSE": values, support, dictionary, share_of_increase, each with `_low` and `_high`}; {} where a row lacks."""
    names = {"encoder": "encoder", "refit": "encoder_refit", "pursuit": "pursuit"}
    if any("groups" not in rows[name] for name in names.values()):
        return {}
    sums: dict[str, np.ndarray] = {}
    for step, name in names.items():
        _, sse, sxx = np.array(rows[name]["groups"], dtype=float).T
        sums |= {f"{step}sse": sse, f"{step}sxx": sxx}
    return {"NMSE": by_document(sums, partial(parts, "NMSE"))}
