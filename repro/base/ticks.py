"""Ticks of logarithmic axes at round numbers."""

from __future__ import annotations

import math
from typing import Any

DECADES = (1.3, 2.5)
"""Spans up to which an axis has ticks at 1, 2, 5 and at 1, 3."""


def round_ticks(figure: Any) -> None:
    """Label logarithmic axes that say nothing of their own with whole numbers: 1, 2, 5; 1, 3; or powers of ten."""
    for letter, select in (("x", figure.select_xaxes), ("y", figure.select_yaxes)):
        values = [float(v) for trace in figure.data for v in _numbers(getattr(trace, letter, None)) if v > 0]
        axes = [a for a in select() if a.type == "log" and a.dtick is None and a.tickvals is None]
        if not values or not axes:
            continue
        low, high = math.log10(min(values)), math.log10(max(values))
        wide = high - low > DECADES[1]
        digits = (1,) if wide else (1, 3) if high - low > DECADES[0] else (1, 2, 5)
        exponents = range(math.floor(low) - 1, math.ceil(high) + 1)
        ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
        for axis in axes:
            axis.update({"dtick": 1, "exponentformat": "power"} if wide else {"tickvals": ticks})


def _numbers(values: Any) -> Any:
    """Those entries of a trace's coordinates that are numbers."""
    return (v for v in (() if values is None else values) if isinstance(v, int | float) or hasattr(v, "dtype"))
