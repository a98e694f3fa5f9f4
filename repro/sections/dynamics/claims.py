"""Claims that the dynamics test: density early on, pathologies along training and with sparsity, and the gap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.metrics.names import PROTOCOLS
from repro.sections.comparison.claims import RAW, sparsity
from repro.sections.effects import (
    EARLY,
    FAMILIES,
    FAMILY_NAMES,
    LATE,
    QUANTITIES,
    Tables,
    along,
    listed,
    mean_over,
    over_training,
    trend,
)
from repro.sections.shown import answered, shown
from repro.sections.types import DataFrame, Series
from repro.sections.verdict import Claim, Finding

DENSE = 0.66
"""Dense@0.2 above which the paper calls a checkpoint very dense."""
PAPER_STEP, PAPER_BATCH = 244, 2048
"""The first trained checkpoint of the paper's trajectories, 0.1 % of training, and its tokens a step."""


def standard(tables: Tables, protocol: str) -> DataFrame:
    """Checkpoints of the Standard SAEs under a protocol."""
    table = along(tables)
    return table[(table["protocol"] == protocol) & (table["variant"] == "standard")]


def peaks(table: DataFrame) -> Series:
    """The highest Dense@0.2 of each SAE over all of its training, without step 0: each network counts once."""
    part = table[table["step"] > 0]
    return part.groupby([k for k in ("variant", "sparsity", "seed") if k in part])["dense@0.2"].max()


def very_dense(tables: Tables) -> Finding:
    """The test whether Standard SAEs are very dense at some checkpoint of their training."""
    effects = {}
    for protocol in PROTOCOLS:
        values = peaks(standard(tables, protocol))
        effects[protocol] = mean_over(values - DENSE, tokens=_tokens(standard(tables, protocol)))
    part = standard(tables, "corrected")
    return Finding(effects["corrected"], effects["as_released"], when(part))


def _tokens(table: DataFrame) -> int:
    return int(table["n_tokens"].max()) if "n_tokens" in table and len(table) else 0


def when(part: DataFrame) -> str:
    """How many SAEs are very dense, between which steps, and where the paper's first trained checkpoint lies."""
    trained = part[part["step"] > 0]
    dense = trained[trained["dense@0.2"] > DENSE]
    keys = ["variant", "sparsity"]
    saes, all_saes = (len(t[keys].drop_duplicates()) for t in (dense, trained))
    if dense.empty:
        return f"none of {all_saes} SAEs"
    batch = part.attrs.get("batch_size")
    first, last, end = int(dense["step"].min()), int(dense["step"].max()), int(trained["step"].max())

    def tokens(steps: int, size: int | None) -> str:
        return f" ({steps * size:,} tokens)" if size else ""

    return (
        f"{saes} of {all_saes} SAEs, from step {first}{tokens(first, batch)} to step {last}{tokens(last, batch)} of "
        f"{end:,}, and none later. The paper's first trained checkpoint is step {PAPER_STEP}"
        f"{tokens(PAPER_STEP, PAPER_BATCH)}"
    )


def denser_than_at_first(tables: Tables) -> Finding:
    """The test whether training itself makes Standard SAEs dense: the peak minus the initialisation."""
    effects = {}
    for protocol in PROTOCOLS:
        part = standard(tables, protocol)
        start = part[part["step"] == 0].set_index(list(peaks(part).index.names))["dense@0.2"]
        effects[protocol] = mean_over((peaks(part) - start).dropna(), tokens=_tokens(part))
    part = standard(tables, "corrected").sort_values("step")
    ends = part.groupby("sparsity")["dense@0.2"].agg(["first", "max", "last"]).mean()
    why = f"mean Dense@0.2: {ends['first']:.2f} at first, {ends['max']:.2f} at its peak, {ends['last']:.2f} at last"
    return Finding(effects["corrected"], effects["as_released"], why)


def grows(metric: str, period: str) -> Callable[[Tables], Finding]:
    """The test whether a metric of Standard SAEs rises in a period of training."""

    def test(tables: Tables) -> Finding:
        raw = RAW if metric == "excess" else ()
        table = along(tables)
        beside = {name: trend(table, name, period, FAMILIES["L1"]) for name in raw}
        released = mean_over(over_training(standard(tables, "as_released"), raw[0] if raw else metric, period))
        return Finding(trend(table, metric, period, FAMILIES["L1"]), released, listed(beside))

    return test


def gap(period: str, family: str | None) -> Callable[[Tables], Finding]:
    """The test whether the relative amortization gap falls in a period of training, for SAEs of a family."""

    def test(tables: Tables) -> Finding:
        table, metric = along(tables), "amort_gap_relative"
        variants = FAMILIES[family] if family else None
        part = table if variants is None else table[table["variant"].isin(variants)]
        each = over_training(part, metric, period).dropna()
        effect = trend(table, metric, period, variants)
        why = f"falls in {int((each < 0).sum())} and rises in {int((each > 0).sum())} SAEs"
        if family == "L1":
            gated = trend(table, metric, period, FAMILIES["gates"])
            why += f"; {listed({'gated': gated})}" if gated.n else ""
        return Finding(effect, why=why)

    return test


def stays(metric: str) -> Callable[[Tables], Finding]:
    """The test whether a pathology does not fall in the nine tenths of training in which the gap is at issue."""

    def test(tables: Tables) -> Finding:
        return Finding(trend(along(tables), metric, LATE))

    return test


SENTENCES = {
    "C2": "Early in training, Standard SAEs are very dense.",
    "C3": "Absorption and feature splitting grow with training and with sparsity.",
    "C4": "The amortization gap closes in training while the pathologies stay.",
}
LEADS = {
    "C2": "Dense@0.2 of Standard SAEs at its peak in training",
    "C3": "Absorption beyond chance and ΔF1 (Standard SAEs in training; all variants when L0 halves)",
    "C4": "In the first tenth of training (early) and after it (late)",
}

_along = partial(Claim, section="43_dynamics", needs=("dynamics",), uses=("trajectories",))
_sparser = partial(Claim, section="43_dynamics", claimed="rises", needs=("comparison",), uses=("trajectories",))
_absorbs = partial(_along, claimed="rises", paper="up to 0.92")
_splits = partial(_along, claimed="rises", paper="up to 0.50")
_PERIODS = {EARLY: "in the first tenth of training", LATE: "after the first tenth of training"}

CLAIMS = [
    _along(
        id="C2a",
        statement="Standard SAEs are very dense at some checkpoint of their training",
        paper="Dense@0.2 > 0.66 at several",
        metric="dense@0.2",
        claimed="rises",
        quantity="it",
        verbs=(f"exceeds {DENSE:g} by", f"stays below {DENSE:g} by"),
        test=very_dense,
    ),
    _along(
        id="C2b",
        statement="… and denser than they were at initialisation",
        metric="dense@0.2",
        claimed="rises",
        quantity="it",
        verbs=("exceeds the initialisation by", "stays below the initialisation by"),
        test=denser_than_at_first,
    ),
    *(
        claim(
            id=id,
            statement=f"{name} {_PERIODS[period]} (Standard)",
            metric=metric,
            quantity=f"{QUANTITIES[metric]} {period}",
            test=grows(metric, period),
        )
        for claim, id, metric, period, name in (
            (_absorbs, "C3a", "excess", EARLY, "Absorption beyond chance rises"),
            (_absorbs, "C3b", "excess", LATE, "Absorption beyond chance rises"),
            (_splits, "C3c", "dF1", EARLY, "ΔF1 rises"),
            (_splits, "C3d", "dF1", LATE, "ΔF1 rises"),
        )
    ),
    *(
        _sparser(
            id=id,
            statement=f"{name} when L0 halves",
            metric=metric,
            quantity=f"{QUANTITIES[metric]} when L0 halves",
            test=sparsity(metric, raw),
        )
        for id, metric, name, raw in (
            ("C3e", "excess", "Absorption beyond chance rises", RAW),
            ("C3f", "dF1", "ΔF1 rises", ()),
        )
    ),
    *(
        _along(
            id=id,
            statement=f"The relative amortization gap falls {_PERIODS[period]} ({name})",
            metric="amort_gap_relative",
            claimed="falls",
            quantity=f"the gap {period} ({name})",
            test=gap(period, family),
        )
        for id, period, family, name in (
            ("C4a", EARLY, None, "all variants"),
            ("C4b", LATE, "L1", FAMILY_NAMES["L1"]),
            ("C4c", LATE, "k", FAMILY_NAMES["k"]),
        )
    ),
    *(
        _along(
            id=id,
            statement=f"Meanwhile, {name} does not fall",
            metric=metric,
            claimed="does not fall",
            quantity=f"{QUANTITIES[metric]} late",
            test=stays(metric),
        )
        for id, metric, name in (
            ("C4d", "dead_rate", "the dead rate"),
            ("C4e", "dense@0.1", "the share of dense latents"),
            ("C4f", "excess", "absorption beyond chance"),
            ("C4g", "dF1", "ΔF1"),
        )
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""
