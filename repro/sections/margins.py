"""Margins: the smallest change of each metric that counts, and the reason for it; every verdict uses this one table."""

from __future__ import annotations

from typing import NamedTuple

from repro.base.errors import BadInput, nearest


class Margin(NamedTuple):
    """Changes up to `value` in either direction count as none."""

    value: float
    reason: str


_ERROR = "about a quarter of what half as many nonzeros cost on SmolLM2, a tenth on the bundled model (C1a)"
MARGINS: dict[str, Margin] = {
    "NMSE": Margin(0.005, _ERROR),
    "NMSE_refit": Margin(0.005, _ERROR),
    "dead_rate": Margin(0.02, "two latents in a hundred: less than what twice as many tokens would wake"),
    "dense@0.1": Margin(0.01, "one latent in a hundred"),
    "dense@0.2": Margin(0.01, "one latent in a hundred"),
    "precision": Margin(0.02, "two in a hundred of the latents that are on: of fifty, one more that is wrong"),
    "excess": Margin(0.02, "less than a quarter of the drop in absorption that the paper reports"),
    "dF1": Margin(0.005, "less than a third of the drop in ΔF1 that the paper reports"),
    "share_of_increase": Margin(0.05, "one part in twenty of the damage: below it nobody would pay for better codes"),
    "share_of_price": Margin(0.05, "one part in twenty of what the guess costs"),
    "F1@1": Margin(0.03, "the difference, .69 against .72, that Korznikov et al. (2026) call comparable"),
    "loss": Margin(0.01, "nats a token: perplexity changes by one per cent"),
    "amort_gap_relative": Margin(0.01, "ten times the tolerance of the optima that the gap is measured against"),
}
"""Metric -> its margin. excess = absorption − what latents of the same firing rates absorb by chance."""

UNITS = {
    "NMSE": "share of the energy",
    "NMSE_refit": "share of the energy",
    "dead_rate": "share of latents",
    "dense@0.1": "share of latents",
    "dense@0.2": "share of latents",
    "precision": "share of active latents",
    "excess": "share of positives",
    "share_of_increase": "share of the encoder's increase",
    "share_of_price": "share of the price",
    "loss": "nats a token",
    "amort_gap_relative": "share of the objective",
}
"""Metric -> the unit of its margin, where the metric's name does not say it."""


def margin_of(metric: str) -> float:
    """The margin of a metric. BadInput for a metric without one: nothing is judged without a margin and its reason."""
    if metric not in MARGINS:
        raise BadInput(
            f"'{metric}' has no margin in repro/sections/margins.py{nearest(metric, MARGINS)}; add one with its reason."
        )
    return MARGINS[metric].value
