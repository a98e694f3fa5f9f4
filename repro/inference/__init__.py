"""Codes under three inference modes and two protocols (`infer`), and the lambda for a mean L0."""

from repro.inference.calibration import CALIBRATION_TOKENS, calibrate_lambda, nearest_root, spread
from repro.inference.modes import Inference, infer, infer_blocks
from repro.inference.names import ALIASES, CONTROLS, MODES, NON_STEPS, SEMI_STEPS, check_mode
from repro.inference.released import (
    GRID9,
    GRID_EXP5,
    encode_as_released,
    grid_lambda,
    ista_of,
    released_codes,
)
from repro.inference.stored import StoredInference, infer_to, open_inference

__all__ = [
    "ALIASES",
    "CALIBRATION_TOKENS",
    "CONTROLS",
    "GRID9",
    "GRID_EXP5",
    "MODES",
    "NON_STEPS",
    "SEMI_STEPS",
    "Inference",
    "StoredInference",
    "calibrate_lambda",
    "check_mode",
    "encode_as_released",
    "grid_lambda",
    "infer",
    "infer_blocks",
    "infer_to",
    "ista_of",
    "nearest_root",
    "open_inference",
    "released_codes",
    "spread",
]
