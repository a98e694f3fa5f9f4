"""Names of the inference modes, and the numbers of steps of the released code."""

from __future__ import annotations

from repro.base.errors import BadInput, nearest
from repro.metrics.names import CONTROLS, MODES

ALIASES = {"semi_amortized": "semi", "non_amortized": "non"}
SEMI_STEPS, NON_STEPS = 30, 200  # of the released code


def check_mode(mode: str, controls: bool = False) -> str:
    """amortized, semi or non (or a control); the released names semi_amortized and non_amortized are understood."""
    mode, names = ALIASES.get(mode, mode), (*MODES, *CONTROLS) if controls else MODES
    if mode not in names:
        raise BadInput(f"No mode '{mode}'{nearest(mode, [*names, *ALIASES])}; there are {', '.join(names)}.")
    return mode
