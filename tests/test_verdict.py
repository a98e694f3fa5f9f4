"""The rule of verdicts in planted worlds: the right word, how often it is missed, what would settle an open part."""

import numpy as np
import pytest

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.sections.effects import Effect
from repro.sections.margins import MARGINS, margin_of
from repro.sections.tables import load_table, paper_numbers
from repro.sections.verdict import NOT_RUN, OPEN, REFUTED, SUPPORTED, Claim, Finding, judge, needed, whole

MARGIN = margin_of("dead_rate")


def claim(id="X1a", claimed="falls"):
    return Claim(
        id=id,
        section="s",
        statement="",
        metric="dead_rate",
        claimed=claimed,
        quantity="",
        test=lambda t: None,
        needs=(),
    )


def word(values, claimed="falls", shared=0.0):
    return judge([claim(claimed=claimed)], {"X1a": Finding(Effect.of(values, shared=shared))})["X1a"].word


@pytest.mark.parametrize(
    ("centre", "by_direction"),
    [
        (-3 * MARGIN, {"falls": SUPPORTED, "rises": REFUTED, "does not fall": REFUTED, "does not rise": SUPPORTED}),
        (0.0, {"falls": REFUTED, "rises": REFUTED, "does not fall": SUPPORTED, "does not rise": SUPPORTED}),
        (3 * MARGIN, {"falls": REFUTED, "rises": SUPPORTED, "does not fall": SUPPORTED, "does not rise": REFUTED}),
    ],
)
def test_every_direction(centre, by_direction):
    values = centre + MARGIN / 10 * np.array([-1, 0, 1, 0])
    assert {d: word(values, d) for d in by_direction} == by_direction


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_effect_on_the_margin_is_open(sign):
    values = sign * MARGIN + MARGIN / 10 * np.array([-1, 0, 1, 0])
    assert word(values, "falls" if sign < 0 else "rises") == OPEN


def test_two_values_are_hardly_ever_enough_and_one_never():
    assert word([-0.5]) == word([-0.5, -0.5]) == OPEN  # two that agree by chance have no width
    assert word([-0.5, -0.5, -0.5]) == SUPPORTED


def test_holm_counts_the_parts_of_a_claim():
    """p = .02 alone is below .05, as the first of three it is not; two small ones lift the bar for the third."""
    sd = MARGIN

    def effect(p):  # the effect whose t test against the margin has this p, 10 units
        from scipy.stats import t

        return Finding(Effect(-MARGIN - t.isf(p / 2, 9) * sd / 10**0.5, sd / 10**0.5, 10))

    parts = [claim(f"X1{x}") for x in "abc"]
    assert judge(parts[:1], {"X1a": effect(0.02)})["X1a"].word == SUPPORTED
    none = judge(parts, {"X1a": effect(0.02), "X1b": effect(0.5), "X1c": effect(0.6)})
    assert [v.word for v in none.values()] == [OPEN] * 3
    two = judge(parts, {"X1a": effect(0.04), "X1b": effect(0.001), "X1c": effect(0.02)})
    assert [v.word for v in two.values()] == [SUPPORTED] * 3
    missing = judge(parts, {"X1a": effect(0.02)})
    assert [v.word for v in missing.values()] == [SUPPORTED, NOT_RUN, NOT_RUN]
    # a table without the metric, and one network, which has no interval: neither was tested, so neither counts
    lacking = judge(parts, {"X1a": effect(0.02), "X1b": Finding(Effect(float("nan"))), "X1c": Finding(Effect(-1.0))})
    assert [v.word for v in lacking.values()] == [SUPPORTED, NOT_RUN, OPEN]


def test_what_would_settle_an_open_part():
    """Textbook: d = 0.5, two-sided 5 %, power 80 %: 34 in a one-sample t test (Cohen 1988; G*Power 3.1)."""
    effect = Effect(-MARGIN - 0.5, 1 / 5**0.5, 5)  # sd 1, half an sd beyond the margin
    assert needed(effect, -MARGIN) == 34
    # at the level of the first of ten tests: (z(0.9975) + z(0.8))² / d² + z(0.9975)² / 2 = 53.3 + 3.9 (Guenther 1981)
    assert needed(effect, -MARGIN, 10) == pytest.approx(57.2, abs=1)
    assert needed(Effect(-MARGIN, 1.0, 5), -MARGIN) > 1000
    assert needed(Effect(-1.0), -MARGIN) is None


def test_the_word_of_a_claim_with_parts():
    assert whole([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert whole([SUPPORTED, OPEN]) == whole([SUPPORTED, NOT_RUN]) == OPEN
    assert whole([SUPPORTED, OPEN, REFUTED]) == REFUTED
    assert whole([NOT_RUN, NOT_RUN]) == NOT_RUN


def test_no_margin_no_verdict():
    with pytest.raises(BadInput, match="has no margin"):
        margin_of("happiness")


def test_the_reasons_of_the_margins_are_true():
    paper, small = paper_numbers(), load_table("loca_latents", "small")
    before, after = paper.loc["S1"], paper.loc["S2"]
    assert MARGINS["excess"].value < (before["absorption"] - after["absorption"]) / 4
    assert MARGINS["dF1"].value < (before["dF1"] - after["dF1"]) / 3
    silent = ((1 - small["firing_rate"].to_numpy()[:, None]) ** np.array([4000, 8000])).mean(0)
    assert MARGINS["dead_rate"].value < silent[0] - silent[1]
    assert (repo_root() / "repro" / "sections" / "margins.py").read_text().count("Margin(0.") == len(MARGINS)


WORLDS = {
    "present": (-4 * MARGIN, SUPPORTED),
    "absent": (0.0, REFUTED),
    "reversed": (4 * MARGIN, REFUTED),
}
"""World -> (true effect, the right word for "it falls")."""


@pytest.mark.parametrize("world", WORLDS)
def test_the_right_word_in_planted_worlds(world):
    """200 draws of six variants: a wrong word at most 5 times in 100, the right one nearly always."""
    truth, right = WORLDS[world]
    rng = np.random.default_rng(1)
    words = [word(truth + MARGIN / 2 * rng.normal(size=6)) for _ in range(200)]
    wrong = {SUPPORTED: REFUTED, REFUTED: SUPPORTED}[right]
    assert words.count(wrong) <= 10 and words.count(right) >= 180, {w: words.count(w) for w in set(words)}


def test_an_effect_equal_to_its_null_is_never_supported():
    """The control falls as much as the effect, and both by far more than the margin."""
    rng = np.random.default_rng(2)
    words = []
    for _ in range(200):
        control = -0.3 + 0.05 * rng.normal(size=6)
        words.append(word(control + MARGIN / 2 * rng.normal(size=6) - control))
    assert words.count(SUPPORTED) <= 10 and words.count(REFUTED) >= 100


def test_on_the_margin_a_wrong_word_is_as_rare_as_promised():
    """The hardest world: the truth is the margin itself, so any settled word is a miss; 5 % of draws may be."""
    rng = np.random.default_rng(3)
    words = [word(-MARGIN + MARGIN * rng.normal(size=6)) for _ in range(1000)]
    assert words.count(OPEN) >= 930


def test_three_documents_do_not_settle_what_they_differ_on():
    """SAEs agree to the digit, but three documents do not: their error is all that there is, and it is shared."""
    rng = np.random.default_rng(4)
    words = []
    for _ in range(200):
        documents = MARGIN * 4 * rng.normal(size=3)  # truth 0
        values = documents.mean() + MARGIN / 20 * rng.normal(size=6)
        words.append(word(values, shared=documents.std(ddof=1) / 3**0.5))
    assert words.count(SUPPORTED) <= 20, words.count(SUPPORTED)


def test_few_documents_widen_an_interval_as_few_saes_do():
    """t(0.975) with 2 and with 9 degrees of freedom: 4.302653, 2.262157."""
    few, many, one = (Effect(-0.1, 0.01, 10, documents=d) for d in (3, 16, 1))
    assert few.high == pytest.approx(-0.1 + 0.04302653) and many.high == pytest.approx(-0.1 + 0.02262157)
    assert np.isnan(one.high) and np.isnan(one.p(0.0)) and few.p(0.0) > many.p(0.0)
    assert needed(few, -0.09) is None and needed(many, -0.09) is not None
