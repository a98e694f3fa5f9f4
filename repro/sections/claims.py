"""The claims of the paper, one entry each: the sentence in our words, the paper's number, the rule and its test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from repro.sections import checks
from repro.sections.effects import Finding, Tables


@dataclass(frozen=True)
class Claim:
    """One line of the ledger."""

    id: str
    statement: str
    """The paper's claim in our words."""
    paper: str
    """The number that the paper reports for it."""
    needs: tuple[str, ...]
    """Tables that the test needs."""
    rule: str
    """How the verdict follows from the effect, in words."""
    section: str
    """Notebook that shows it."""
    test: Callable[[Tables], Finding]
    uses: tuple[str, ...] = ()
    """Tables that it prefers where they exist: more variants and sparsities."""


_RISE = "holds if the 95 % interval of the corrected effect lies above 0, does not hold if below"
_FALL = "holds if the 95 % interval of the corrected effect lies below 0, does not hold if above"
_LOWERS = "lowers dead, dense, absorption and ΔF1 (95 % intervals below 0); in part if some; does not if none"
_LABELS = (
    "95 % intervals over resampled documents, latents picked anew in each: holds if below 0 for every label, in part "
    "if for some, does not hold if above 0 for some and below for none"
)

ALL = ("trajectories",)
MORE = ("documents",)

CLAIMS = [
    Claim(
        "C1a",
        "More sparsity raises NMSE",
        "–",
        ("comparison",),
        _RISE,
        "50_comparison",
        checks.sparsity("NMSE"),
        ALL,
    ),
    Claim(
        "C1b",
        "… and the dead rate",
        "–",
        ("comparison",),
        _RISE,
        "50_comparison",
        checks.sparsity("dead_rate"),
        ALL,
    ),
    Claim(
        "C1c",
        "… and does not reliably remove dense latents",
        "–",
        ("comparison",),
        _RISE,
        "50_comparison",
        checks.sparsity("dense@0.1"),
        ALL,
    ),
    Claim(
        "C2",
        "Early Standard checkpoints are very dense",
        "Dense@0.2 > 0.66 at several",
        ("dynamics",),
        "counts Standard checkpoints with Dense@0.2 > 0.66 in the first 1 % of training",
        "43_dynamics",
        checks.c2,
        ALL,
    ),
    Claim(
        "C3a",
        "Absorption rises with training (Standard)",
        "up to 0.92",
        ("dynamics",),
        _RISE,
        "43_dynamics",
        checks.c3("absorption"),
        ALL,
    ),
    Claim(
        "C3b",
        "… and ΔF1",
        "up to 0.50",
        ("dynamics",),
        _RISE,
        "43_dynamics",
        checks.c3("dF1"),
        ALL,
    ),
    Claim(
        "C3c",
        "Absorption rises with sparsity",
        "–",
        ("comparison",),
        _RISE,
        "43_dynamics",
        checks.sparsity("absorption"),
        ALL,
    ),
    Claim("C3d", "… and ΔF1", "–", ("comparison",), _RISE, "43_dynamics", checks.sparsity("dF1"), ALL),
    Claim("C4a", "The amortization gap falls in training", "–", ("dynamics",), _FALL, "43_dynamics", checks.c4, ALL),
    Claim(
        "C4b",
        "… while dead, dense, absorption and ΔF1 do not follow it",
        "–",
        ("dynamics",),
        "rank correlation with the gap along each trajectory: holds if no interval lies above 0, in part if some do, "
        "does not hold if all four do",
        "43_dynamics",
        checks.c4_others,
        ALL,
    ),
    Claim(
        "C5a",
        "Semi-amortized inference lowers NMSE",
        "1.499 → 0.087",
        ("comparison",),
        _FALL,
        "50_comparison",
        checks.c5("NMSE", "semi"),
        MORE,
    ),
    Claim(
        "C5b",
        "… and the dead rate",
        "0.307 → 0.022",
        ("comparison",),
        _FALL,
        "50_comparison",
        checks.c5("dead_rate", "semi"),
        MORE,
    ),
    Claim("C5c", "… and ΔF1", "0.053 → 0.036", ("comparison",), _FALL, "50_comparison", checks.c5("dF1", "semi")),
    Claim(
        "C5d",
        "… and absorption",
        "0.225 → 0.134",
        ("comparison",),
        _FALL,
        "50_comparison",
        checks.c5("absorption", "semi"),
    ),
    Claim(
        "C5e",
        "… and NMSE once least squares on each code's support has undone the L1 shrinkage (optimum)",
        "–",
        ("comparison",),
        _FALL,
        "50_comparison",
        checks.c5("NMSE_refit", "non"),
    ),
    Claim(
        "C5f",
        "… and ΔF1 whatever the probes' label: real held-out ones and the norm's",
        "0.053 → 0.036",
        ("probe_means",),
        _LABELS,
        "54_probes",
        checks.c5_labels("dF1", "semi"),
        ("comparison",),
    ),
    Claim(
        "C5g",
        "… and absorption, whatever the label",
        "0.225 → 0.134",
        ("probe_means",),
        _LABELS,
        "54_probes",
        checks.c5_labels("absorption", "semi"),
        ("comparison",),
    ),
    Claim(
        "C6a",
        "Five ISTA steps remove dead latents",
        "0.316 → 0",
        ("sweep",),
        _FALL + "; untestable if under 1 % are dead before",
        "52_semi_sweep",
        checks.c6_dead,
    ),
    Claim(
        "C6b",
        "NMSE falls monotonically with the steps",
        "0.477, 0.132, 0.046",
        ("sweep",),
        "holds if it falls in every interval of the corrected sweep",
        "52_semi_sweep",
        checks.c6_monotone,
    ),
    Claim(
        "C7",
        "LocA-SAE has few dead latents and lower absorption at amortized cost",
        "dead 0.000, absorption 0.055",
        ("loca_ablations",),
        "LocA minus Top-K of the same k and training, by seed: holds if dead, ΔF1 and absorption all fall (95 % "
        "intervals below 0) and one falls against random groups too; in part if some; does not if none, over 3 seeds",
        "60_loca",
        checks.c7,
    ),
    Claim(
        "C8a",
        "Amortized inference causes the pathologies",
        "–",
        ("comparison",),
        "holds if the certified optimum at the encoder's L0 " + _LOWERS,
        "50_comparison",
        checks.c8,
        MORE,
    ),
    Claim(
        "C8b",
        "… judged by refinement under the encoder's own constraint, k nonzeros and no L1 term (pursuit)",
        "–",
        ("comparison", "controls"),
        "holds if pursuit at the encoder's k " + _LOWERS,
        "51_controls",
        checks.c8_pursuit,
        MORE,
    ),
]
