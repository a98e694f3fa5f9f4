"""The one rule for all verdicts: an effect against its margin, corrected for the number of parts of a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from repro.sections.effects import Effect, Tables
from repro.sections.margins import margin_of

SUPPORTED, REFUTED, OPEN, NOT_RUN = "supported", "refuted", "open", "not yet run"
LEVEL, POWER = 0.05, 0.8
MOST = 1000  # replications: a number above it is printed as such

RULE = (
    "Supported: the 95 % interval lies beyond the margin in the claimed direction. Refuted: it excludes every effect "
    "beyond the margin in that direction, so it lies within the margins or beyond them the other way. Open: anything "
    f"else, with the number of units that would settle it (power {POWER:.0%} at the observed effect). Open, too: a "
    "fall of what lies below the margin already. Within a claim the tests of its parts are corrected by Holm's method: "
    "a part may stay open whose own interval, the one that is printed, would settle it."
)
WHOLE = "A claim with parts says that all of them are true: supported if every part is, refuted if any is, else open."

Direction = Literal["rises", "falls", "does not rise", "does not fall"]


def bound_of(claimed: str, margin: float) -> float:
    """The value beyond which a claim's effect has to lie: above zero if it is about a rise, below if about a fall."""
    return margin if claimed in ("rises", "does not rise") else -margin


@dataclass(frozen=True)
class Finding:
    """The effect that a claim is about, at one scale."""

    corrected: Effect
    """Under the corrected protocol, with its null or control subtracted."""
    released: Effect | str = "–"
    why: str = ""
    """What else a reader has to know: the raw value, the null, what the control alone gives."""
    level: float | None = None
    """What the encoder has of a share that is claimed to fall: below the margin, no fall can be beyond it."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the ledger."""

    id: str
    """A claim and its part: C5a is part a of claim C5."""
    section: str
    """Notebook that shows it."""
    statement: str
    """The paper's claim in our words."""
    metric: str
    """What changes; its margin is in `margins.MARGINS`."""
    claimed: Direction
    """The direction that the claim asserts."""
    quantity: str
    """The metric in the sentence of the first page."""
    verbs: tuple[str, str] = ("rises by", "falls by")
    """Words of that sentence for an effect above and below the margins."""
    test: Callable[[Tables], Finding]
    needs: tuple[str, ...]
    """Tables that the test needs."""
    uses: tuple[str, ...] = ()
    """Tables that it prefers where they exist: more variants and sparsities."""
    paper: str = "–"
    """The number that the paper reports for it."""

    @property
    def sign(self) -> int:
        """1 where the claim is about an effect above a bound, −1 where below."""
        return 1 if self.claimed in ("rises", "does not fall") else -1

    @property
    def bound(self) -> float:
        """The claim is that the effect lies beyond this value: a margin above or below zero."""
        return bound_of(self.claimed, margin_of(self.metric))


@dataclass(frozen=True)
class Verdict:
    """One of the words above, and for an open part the number of units that would settle it."""

    word: str
    needed: int | None = None


def judge(claims: Sequence[Claim], findings: Mapping[str, Finding]) -> dict[str, Verdict]:
    """Verdicts of the parts of one claim; parts without a finding, or of a metric that tables lack, have not been run.

    Holm 1979: the smallest p is multiplied by the number of tests, the next by one less, until one is above the level.
    """
    effects = {c.id: e for c in claims if c.id in findings and (e := findings[c.id].corrected).value == e.value}
    out = {c.id: Verdict(OPEN if c.id in effects else NOT_RUN) for c in claims}
    ps = {c.id: effects[c.id].p(c.bound) for c in claims if c.id in effects and _has_room(c, findings[c.id])}
    tested = {name: p for name, p in ps.items() if p == p}  # without an interval there is no test
    by_id = {c.id: c for c in claims}
    order = sorted((p, name) for name, p in tested.items())
    for i, (p, name) in enumerate(order):
        if p * (len(tested) - i) >= LEVEL:
            break
        claim = by_id[name]
        supported = claim.sign * (effects[name].value - claim.bound) > 0
        out[name] = Verdict(SUPPORTED if supported else REFUTED)
    for name, verdict in out.items():
        if verdict.word == OPEN and name in tested:
            out[name] = Verdict(OPEN, needed(effects[name], by_id[name].bound, len(tested)))
    return out


def _has_room(claim: Claim, finding: Finding) -> bool:
    return claim.claimed != "falls" or finding.level is None or finding.level > margin_of(claim.metric)


def needed(effect: Effect, bound: float, tests: int = 1) -> int | None:
    """Units at which a t test against the bound has 80 % power at the observed effect; None where documents are fewer.

    The level is that of the first of `tests` tests under Holm's method. Never below the units that there are and one.
    """
    from scipy.stats import nct, t

    if effect.n < 2 or effect.freedom < effect.n - 1 or not effect.se > 0:
        return None
    shift = abs(effect.value - bound) / (effect.se * effect.n**0.5)

    def power(n: int) -> float:
        return float(nct.sf(t.isf(LEVEL / tests / 2, n - 1), n - 1, shift * n**0.5))

    low, high = effect.n, MOST + 1
    if not shift > 0 or power(MOST) < POWER:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def whole(words: Sequence[str]) -> str:
    """The word of a claim from those of its parts (`WHOLE`)."""
    if set(words) == {NOT_RUN}:
        return NOT_RUN
    if REFUTED in words:
        return REFUTED
    return SUPPORTED if set(words) == {SUPPORTED} else OPEN
