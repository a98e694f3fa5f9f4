"""The ledger: each claim of the paper as a test on the tables, with its effect, interval, rule and verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repro.config import repo_root, write_atomically
from repro.errors import BadInput, nearest

if TYPE_CHECKING:
    import pandas as pd

HOLDS, FAILS, PART = "holds", "does not hold", "holds in part"
OPEN, UNTESTED = "not settled", "cannot be tested here"
NOT_RUN = "not yet run"
SCALES = ("tiny", "small", "paper")


@dataclass(frozen=True)
class Effect:
    """An estimate with its 95 % interval and what it was taken over."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0

    @classmethod
    def of(cls, values: Any) -> Effect:
        """Mean of independent values (one an SAE or a trajectory) with a t interval."""
        from scipy.stats import t

        v = np.asarray([x for x in values if np.isfinite(x)], dtype=float)
        if len(v) == 0:
            return cls(float("nan"))
        half = float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else float("nan")
        return cls(float(v.mean()), float(v.mean() - half), float(v.mean() + half), len(v))

    @property
    def below(self) -> bool:
        """The whole interval lies below 0."""
        return self.high < 0

    @property
    def above(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "–"
        if not np.isfinite(self.low):
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


@dataclass(frozen=True)
class Finding:
    """What one test found at one scale."""

    released: Effect | str
    corrected: Effect | str
    verdict: str
    why: str = ""


Tables = dict[str, "pd.DataFrame"]


@dataclass(frozen=True)
class Claim:
    """One line of the ledger."""

    id: str
    statement: str
    """The paper's claim in our words."""
    paper: str
    """The number that the paper reports for it."""
    needs: tuple[str, ...]
    """Tables that the test reads."""
    rule: str
    """How the verdict follows from the effect, in words."""
    section: str
    """Notebook that shows it."""
    test: Callable[[Tables], Finding]


def difference(table: pd.DataFrame, protocol: str, mode: str, metric: str) -> Effect:
    """Mean over SAEs of metric(mode) − metric(amortized) under one protocol."""
    part = table[table["protocol"] == protocol].set_index(["variant", "sparsity", "mode"])[metric].unstack("mode")
    if mode not in part or "amortized" not in part:
        return Effect(float("nan"))
    return Effect.of((part[mode] - part["amortized"]).to_numpy())


def sparsest_minus_densest(table: pd.DataFrame, protocol: str, metric: str) -> Effect:
    """Mean over variants of the metric of the sparsest minus that of the densest SAE (by measured corrected L0)."""
    amortized = table[table["mode"] == "amortized"]
    order = amortized[amortized["protocol"] == "corrected"].set_index(["variant", "sparsity"])["L0"]
    values = amortized[amortized["protocol"] == protocol].set_index(["variant", "sparsity"])[metric]
    out = []
    for variant in order.index.get_level_values(0).unique():
        l0 = order[variant]
        if len(l0) > 1 and variant in values.index:
            out.append(values[variant][l0.idxmin()] - values[variant][l0.idxmax()])
    return Effect.of(out)


def _c1(metric: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        released, corrected = (sparsest_minus_densest(tables["comparison"], p, metric) for p in PROTOCOLS)
        rises = HOLDS if corrected.above else FAILS if corrected.below else OPEN
        return Finding(released, corrected, rises)

    return test


def _c2(tables: Tables) -> Finding:
    found = {}
    for protocol in PROTOCOLS:
        table = tables["dynamics"]
        part = table[(table["protocol"] == protocol) & (table["variant"] == "standard")]
        dense = part["dense@0.2"] > 0.66
        early = part["step"] <= 0.01 * part["step"].max()
        found[protocol] = (int((dense & early & (part["step"] > 0)).sum()), int((dense & (part["step"] == 0)).sum()))
    trained, initial = found["corrected"]
    text = {p: f"{a} trained, {b} at initialisation" for p, (a, b) in found.items()}
    if trained == 0 and initial == 0:
        return Finding(text["as_released"], text["corrected"], FAILS)
    why = "initialisation: within the first 1 % of training weights have hardly moved"
    return Finding(text["as_released"], text["corrected"], "holds, explained by initialisation", why)


def _c3(metric: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        effects = {}
        for protocol in PROTOCOLS:
            table = tables["dynamics"]
            part = table[(table["protocol"] == protocol) & (table["variant"] == "standard") & (table["step"] > 0)]
            rho = [line["step"].corr(line[metric], method="spearman") for _, line in part.groupby("sparsity")]
            effects[protocol] = Effect.of(rho)
        c = effects["corrected"]
        if c.n < 3:
            return Finding(effects["as_released"], c, OPEN, FEW)
        return Finding(effects["as_released"], c, HOLDS if c.above else FAILS if c.below else OPEN)

    return test


FEW = "fewer than three trajectories: two rank correlations that happen to agree would pass for certainty"


def _c4(tables: Tables) -> Finding:
    effects = {}
    for protocol, gap in (("as_released", "amort_gap_mean"), ("corrected", "amort_gap_relative")):
        table = tables["dynamics"]
        part = table[(table["protocol"] == protocol) & (table["step"] > 0)].dropna(subset=[gap])
        lines = [line for _, line in part.groupby(["variant", "sparsity"]) if len(line) > 2]
        effects[protocol] = Effect.of([line["step"].corr(line[gap], method="spearman") for line in lines])
    c = effects["corrected"]
    if c.n < 3:
        return Finding(effects["as_released"], c, OPEN, FEW)
    return Finding(effects["as_released"], c, HOLDS if c.below else FAILS if c.above else OPEN)


def _c5(metric: str, mode: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        released, corrected = (difference(tables["comparison"], p, mode, metric) for p in PROTOCOLS)
        if corrected.below:
            return Finding(released, corrected, HOLDS)
        if released.value < 0 and corrected.above:
            why = "the drop appears only where density is not matched"
            shrunk = "; at matched L0 the L1 term shrinks the codes (C5e undoes it)" if metric == "NMSE" else ""
            return Finding(released, corrected, FAILS, why + shrunk)
        if corrected.above:
            return Finding(released, corrected, FAILS)
        if released.value < 0:
            return Finding(released, corrected, OPEN, "the released drop has no counterpart at matched L0")
        return Finding(released, corrected, OPEN)

    return test


def _c6_dead(tables: Tables) -> Finding:
    effects, starts = {}, {}
    for protocol in PROTOCOLS:
        part = tables["sweep"][tables["sweep"]["protocol"] == protocol].set_index(["sparsity", "steps"])["dead_rate"]
        part = part.unstack("steps")
        effects[protocol] = Effect.of((part[5] - part[0]).to_numpy())
        starts[protocol] = float(part[0].mean())
    if starts["corrected"] < 0.01:
        why = "the real encoder has almost no dead latents, so there is nothing to fix"
        return Finding(effects["as_released"], effects["corrected"], UNTESTED, why)
    c = effects["corrected"]
    return Finding(effects["as_released"], c, HOLDS if c.below else FAILS if c.above else OPEN)


def _c6_monotone(tables: Tables) -> Finding:
    shares = {}
    for protocol in PROTOCOLS:
        part = tables["sweep"][(tables["sweep"]["protocol"] == protocol) & (tables["sweep"]["steps"] >= 0)]
        falls = []
        for _, line in part.groupby("sparsity"):
            falls += list(np.diff(line.sort_values("steps")["NMSE"]) <= 0)
        shares[protocol] = float(np.mean(falls)) if falls else float("nan")
    text = {p: f"falls in {s:.0%} of the intervals" for p, s in shares.items()}
    verdict = HOLDS if shares["corrected"] == 1 else FAILS
    return Finding(text["as_released"], text["corrected"], verdict)


def _c7(tables: Tables) -> Finding:
    from repro.experiments.loca_view import differences

    table = tables["loca_ablations"]
    names = ("dead_rate", "dF1", "absorption")
    plain = {m: Effect.of(differences(table, "loca", "topk", m)) for m in (*names, "NMSE")}
    by_chance = {m: Effect.of(differences(table, "loca", "random", m)) for m in names}
    part = table[table["protocol"] == "as_released"]
    released = f"NMSE {part['NMSE'].mean():.3g} at L0 {part['L0'].mean():.0f}: training stops at its first step"
    corrected = "; ".join(f"{m} {effect}" for m, effect in plain.items())
    lowered = [m for m in names if plain[m].below]
    worse = ", at a higher error" if plain["NMSE"].above else ""
    if len(lowered) == len(names):
        if any(by_chance[m].below for m in names):
            return Finding(released, corrected, HOLDS)
        why = "random groups do as well: it is not the doing of angular variance"
        return Finding(released, corrected, PART, why)
    if lowered:
        why = f"against Top-K trained on for as long, only {', '.join(lowered)} falls{worse}"
        return Finding(released, corrected, PART, why)
    if plain["NMSE"].n < 3:
        return Finding(released, corrected, OPEN, "fewer than three seeds: no interval worth the name")
    why = f"no drop in any of the three is shown against Top-K trained on for as long{worse}"
    return Finding(released, corrected, FAILS, why)


def _c8(tables: Tables) -> Finding:
    parts = {m: _c5(m, "non")(tables) for m in ("dead_rate", "dense@0.1", "absorption", "dF1")}
    released = "; ".join(f"{m} {_short(f.released)}" for m, f in parts.items())
    corrected = "; ".join(f"{m} {_short(f.corrected)}" for m, f in parts.items())
    verdicts = [f.verdict for f in parts.values()]
    if all(v == HOLDS for v in verdicts):
        return Finding(released, corrected, HOLDS)
    if HOLDS not in verdicts:
        why = "the certified optimum of the same dictionary at the same L0 lowers none of the four"
        return Finding(released, corrected, FAILS, why)
    lowered = ", ".join(m for m, f in parts.items() if f.verdict == HOLDS)
    return Finding(released, corrected, PART, f"the certified optimum at the same L0 lowers only {lowered}")


def _c8_pursuit(tables: Tables) -> Finding:
    import pandas as pd

    both = pd.concat([tables["comparison"], tables["controls"]], ignore_index=True)
    parts = {m: difference(both, "corrected", "pursuit", m) for m in ("dead_rate", "dense@0.1", "absorption", "dF1")}
    effects = "; ".join(f"{m} {_short(e)}" for m, e in parts.items())
    lowered = [m for m, e in parts.items() if e.below]
    if len(lowered) == len(parts):
        return Finding("–", effects, HOLDS)
    if not lowered:
        return Finding("–", effects, FAILS, "pursuit under the encoder's own k lowers none of the four")
    return Finding("–", effects, PART, f"pursuit under the encoder's own k lowers only {', '.join(lowered)}")


def _short(effect: Effect | str) -> str:
    return effect if isinstance(effect, str) else f"{effect.value:+.3f}"


PROTOCOLS = ("as_released", "corrected")
_RISE = "holds if the 95 % interval of the corrected effect lies above 0, does not hold if below"
_FALL = "holds if the 95 % interval of the corrected effect lies below 0, does not hold if above"
_LOWERS = "lowers dead, dense, absorption and ΔF1 (95 % intervals below 0); in part if some; does not if none"

CLAIMS = [
    Claim("C1a", "More sparsity raises NMSE", "–", ("comparison",), _RISE, "50_comparison", _c1("NMSE")),
    Claim("C1b", "More sparsity raises the dead rate", "–", ("comparison",), _RISE, "50_comparison", _c1("dead_rate")),
    Claim(
        "C2",
        "Early Standard checkpoints are very dense",
        "Dense@0.2 > 0.66 at several",
        ("dynamics",),
        "counts Standard checkpoints with Dense@0.2 > 0.66 in the first 1 % of training",
        "43_dynamics",
        _c2,
    ),
    Claim(
        "C3a",
        "Absorption rises with training (Standard)",
        "up to 0.92",
        ("dynamics",),
        _RISE,
        "43_dynamics",
        _c3("absorption"),
    ),
    Claim("C3b", "ΔF1 rises with training (Standard)", "up to 0.50", ("dynamics",), _RISE, "43_dynamics", _c3("dF1")),
    Claim("C4", "The amortization gap falls in training", "–", ("dynamics",), _FALL, "43_dynamics", _c4),
    Claim(
        "C5a",
        "Semi-amortized inference lowers NMSE",
        "1.499 → 0.087",
        ("comparison",),
        _FALL,
        "50_comparison",
        _c5("NMSE", "semi"),
    ),
    Claim(
        "C5b", "… and the dead rate", "0.307 → 0.022", ("comparison",), _FALL, "50_comparison", _c5("dead_rate", "semi")
    ),
    Claim("C5c", "… and ΔF1", "0.053 → 0.036", ("comparison",), _FALL, "50_comparison", _c5("dF1", "semi")),
    Claim(
        "C5d", "… and absorption", "0.225 → 0.134", ("comparison",), _FALL, "50_comparison", _c5("absorption", "semi")
    ),
    Claim(
        "C5e",
        "… and NMSE once least squares on each code's support has undone the L1 shrinkage (optimum)",
        "–",
        ("comparison",),
        _FALL,
        "50_comparison",
        _c5("NMSE_refit", "non"),
    ),
    Claim(
        "C6a",
        "Five ISTA steps remove dead latents",
        "0.316 → 0",
        ("sweep",),
        _FALL + "; untestable if under 1 % are dead before",
        "52_semi_sweep",
        _c6_dead,
    ),
    Claim(
        "C6b",
        "NMSE falls monotonically with the steps",
        "0.477, 0.132, 0.046",
        ("sweep",),
        "holds if it falls in every interval of the corrected sweep",
        "52_semi_sweep",
        _c6_monotone,
    ),
    Claim(
        "C7",
        "LocA-SAE has few dead latents and lower absorption at amortized cost",
        "dead 0.000, absorption 0.055",
        ("loca_ablations",),
        "LocA minus Top-K of the same k and training, by seed: holds if dead, ΔF1 and absorption all fall (95 % "
        "intervals below 0) and one falls against random groups too; in part if some; does not if none, over 3 seeds",
        "60_loca",
        _c7,
    ),
    Claim(
        "C8a",
        "Amortized inference causes the pathologies",
        "–",
        ("comparison",),
        "holds if the certified optimum at the encoder's L0 " + _LOWERS,
        "50_comparison",
        _c8,
    ),
    Claim(
        "C8b",
        "… judged by refinement under the encoder's own constraint, k nonzeros and no L1 term (pursuit)",
        "–",
        ("comparison", "controls"),
        "holds if pursuit at the encoder's k " + _LOWERS,
        "51_controls",
        _c8_pursuit,
    ),
]


def ledger(scale: str, ids: tuple[str, ...] | None = None, tables: Tables | None = None) -> pd.DataFrame:
    """The claims (or those of `ids`) with their verdicts at one scale; tables are read where none are given."""
    import pandas as pd

    from repro.experiments.tables import load_table

    if scale not in SCALES:
        raise BadInput(f"No scale '{scale}'{nearest(scale, SCALES)}; there are {', '.join(SCALES)}.")
    rows = []
    for claim in CLAIMS:
        if ids is not None and claim.id not in ids and claim.id.rstrip("abcde") not in ids:
            continue
        known = {n: tables.get(n) if tables is not None else load_table(n, scale) for n in claim.needs}
        present = {n: t for n, t in known.items() if t is not None}
        finding = claim.test(present) if len(present) == len(known) else Finding("–", "–", NOT_RUN)
        rows.append(
            {
                "claim": claim.id,
                "statement": claim.statement,
                "paper": claim.paper,
                "scale": scale,
                "as_released": str(finding.released),
                "corrected": str(finding.corrected),
                "verdict": finding.verdict,
                "why": finding.why,
                "rule": claim.rule,
                "section": claim.section,
            }
        )
    return pd.DataFrame(rows)


def shown(ids: list[str], scale: str) -> pd.DataFrame:
    """The verdicts of some claims ("C5" = all its parts) at this scale and every other that has been run."""
    import pandas as pd

    scales = [scale, *(s for s in SCALES if s != scale)]
    table = pd.concat([ledger(s, tuple(ids)) for s in scales], ignore_index=True)
    table = table[(table["verdict"] != NOT_RUN) | (table["scale"] == scale)]
    columns = ["claim", "statement", "paper", "scale", "as_released", "corrected", "verdict", "why"]
    return table.sort_values("claim", kind="stable")[columns].set_index("claim")


def write(scale: str) -> Path:
    """Write data/results/claims/<scale>.csv."""
    table = ledger(scale)
    path = repo_root() / "data" / "results" / "claims" / f"{scale}.csv"
    return write_atomically(path, lambda p: table.to_csv(p, index=False))


def markdown(scales: tuple[str, ...] = SCALES) -> str:
    """The verdict table of the book's first page: a row a claim, linked to its section, a column a scale."""
    parts = {scale: ledger(scale).set_index("claim") for scale in scales}
    run = [s for s in scales if (parts[s]["verdict"] != NOT_RUN).any()] or list(scales[:1])
    first = parts[scales[0]]
    lines = [
        "| | claim | paper | " + " | ".join(NAMES[s] for s in run) + " |",
        "|---|---|---|" + "---|" * len(run),
    ]
    for claim in first.index:
        row = first.loc[claim]
        link = f"[{claim}](executed/{row['section']}.ipynb)"
        cells = [_cell(parts[s].loc[claim]) for s in run]
        lines.append(f"| {link} | {row['statement']} | {row['paper']} | {' | '.join(cells)} |")
    waiting = [NAMES[s] for s in scales if s not in run]
    if waiting:
        lines += ["", f"Not yet run: {', '.join(waiting)}; `repro report --scale paper` on a GPU."]
    return "\n".join(lines) + "\n"


NAMES = {"tiny": "bundled model", "small": "SmolLM2-135M", "paper": "Pythia-160M and Gemma-2-2B"}


def _cell(row: Any) -> str:
    """A verdict with its colour and shape (book.css), and the corrected effect below it."""
    verdict = str(row["verdict"])
    kind = (
        "explained"
        if "explained" in verdict or verdict == PART
        else {HOLDS: "holds", FAILS: "fails"}.get(verdict, "untested")
    )
    effect = str(row["corrected"]) if len(str(row["corrected"])) < 48 else str(row["why"])
    below = f"<br><small>{effect}</small>" if verdict != NOT_RUN else ""
    return f'<span class="verdict {kind}">{verdict}</span>{below}'
