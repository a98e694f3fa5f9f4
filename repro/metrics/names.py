"""Names that tables, files and figures share: protocols, modes, and the metrics' labels with their units."""

from __future__ import annotations

from repro.base.errors import BadInput

PROTOCOLS = ("as_released", "corrected")
PROTOCOL_NAMES = {"as_released": "released", "corrected": "corrected"}
MODES = ("amortized", "semi", "non")
MODE_NAMES = {"amortized": "encoder", "semi": "30 steps", "non": "optimum"}
"""The words of figures and tables for a mode, by the name that files have."""
CONTROLS = ("random_dictionary", "random_encoder", "pca", "encoder_refit", "pursuit", "semi_same_lambda")
"""Controls that `evaluate` computes like modes, corrected protocol only (`evaluate.modes`)."""
METRIC_COLUMNS = (
    "NMSE",
    "NMSE_refit",
    "FVE",
    "L0",
    "dead_rate",
    "dense@0.1",
    "dense@0.2",
    "F1@1",
    "F1@2",
    "dF1",
    "absorption",
    "CE",
    "KL",
    "loss_increase",
    "loss_recovered_mean",
    "loss_recovered_zero",
)
"""Columns that tables of the comparison and `repro visualize` show, in order."""
LABELS = {
    "NMSE": "NMSE (lower is better)",
    "NMSE_refit": "NMSE after least squares on the same support",
    "FVE": "FVE (higher is better)",
    "FVU": "1 − FVE (error over variance)",
    "L0": "L0 (mean nonzeros a token)",
    "dead_rate": "dead latents (share)",
    "amort_gap_mean": "amortization gap J(z) − J* (units of ‖x‖²)",
    "amort_gap_relative": "amortization gap, share of the objective",
    "dense@0.1": "latents firing on ≥ 10 % of tokens (share)",
    "dF1": "ΔF1 = F1@2 − F1@1",
    "absorption": "absorption (share of positives)",
    "CE": "cross-entropy of the patched model (nats a token)",
    "CE_clean": "cross-entropy of the clean model (nats a token)",
    "KL": "KL(clean ‖ patched) (nats a token)",
    "loss_increase": "loss increase (nats a token)",
    "loss_recovered_mean": "loss recovered (share, mean ablation = 0)",
    "loss_recovered_zero": "loss recovered (share, zero ablation = 0)",
}
"""Column -> its words with unit or direction, for an axis; a metric of your own adds its line here."""


def check_protocol(protocol: str) -> str:
    """The protocol itself. Raises BadInput for a name that is none."""
    if protocol not in PROTOCOLS:
        raise BadInput(f"protocol is '{protocol}'; it must be {' or '.join(PROTOCOLS)}.")
    return protocol
