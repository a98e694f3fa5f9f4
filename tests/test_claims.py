"""The ledger must give the right verdict on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from repro.base.errors import BadInput
from repro.sections import claims
from repro.sections.effects import FAILS, HOLDS, NOT_RUN, OPEN, PART, UNTESTED, Effect, group_of, order_of
from repro.sections.ledger import shown

VARIANTS = {"standard": (0.02, 0.06), "topk": (16.0, 32.0), "batch_topk": (16.0, 32.0)}
METRICS = ("NMSE", "NMSE_refit", "dead_rate", "dense@0.1", "dF1", "absorption")


def comparison(corrected=(0.0, 0.0), released=(0.0, 0.0), sparsity=0.0):
    """A table whose semi and non modes differ from the encoder by the given amounts in every metric.

    Scatter over SAEs is plus and minus 0.003, so its mean is exactly 0 and no verdict hangs on a draw.
    """
    rows = []
    for variant, sparsities in VARIANTS.items():
        for i, s in enumerate(sparsities):
            sparse = i if variant == "standard" else 1 - i
            for protocol, change in (("as_released", released), ("corrected", corrected)):
                for mode, delta in (("amortized", 0.0), ("semi", change[0]), ("non", change[1])):
                    scatter = 0.0 if mode == "amortized" else 0.003 * (-1) ** i
                    values = dict.fromkeys(METRICS, 0.5 + delta + sparsity * sparse + scatter)
                    row = {
                        "variant": variant,
                        "sparsity": s,
                        "protocol": protocol,
                        "mode": mode,
                        "L0": 40 - 20 * sparse,
                    }
                    rows.append(row | values)
    return pd.DataFrame(rows)


def verdicts(**tables):
    return claims.ledger("tiny", tables=tables).set_index("claim")["verdict"]


def test_refinement_that_helps():
    v = verdicts(comparison=comparison(corrected=(-0.1, -0.1), released=(-0.1, -0.1)))
    assert (v[["C5a", "C5b", "C5c", "C5d", "C8a"]] == HOLDS).all()


def test_refinement_that_helps_only_as_released():
    table = comparison(corrected=(0.1, 0.1), released=(-0.3, -0.3))
    ledger = claims.ledger("tiny", tables={"comparison": table}).set_index("claim")
    assert (ledger.loc[["C5a", "C5b", "C8a"], "verdict"] == FAILS).all()
    assert "density is not matched" in ledger.loc["C5b", "why"]


def test_refinement_that_wakes_latents_and_does_nothing_else_holds_in_part():
    table = comparison()
    best = (table["mode"] == "non") & (table["protocol"] == "corrected")
    table.loc[best, "dead_rate"] -= 0.2
    ledger = claims.ledger("tiny", tables={"comparison": table}).set_index("claim")
    assert ledger.loc["C8a", "verdict"] == PART
    assert ledger.loc["C8a", "why"].endswith("lowers only dead_rate")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"norm": -0.1, "pos": -0.2}, HOLDS),
        ({"norm": -0.1, "pos": 0.2, "topic": 0.0}, PART),
        ({"norm": 0.1, "pos": 0.0}, FAILS),
        ({"norm": 0.0, "pos": 0.0}, OPEN),
    ],
)
def test_a_change_under_several_labels(changes, verdict):
    rows = [
        {"label": label, "mode": mode, "metric": metric, "change": c, "change_low": c - 0.05, "change_high": c + 0.05}
        for label, c in changes.items()
        for mode in ("amortized", "semi")
        for metric in ("dF1", "absorption")
    ]
    ledger = claims.ledger("tiny", tables={"probe_means": pd.DataFrame(rows).assign(saes=6)}).set_index("claim")
    assert (ledger.loc[["C5f", "C5g"], "verdict"] == verdict).all()
    if verdict == PART:
        assert ledger.loc["C5f", "why"] == "of 3 labels, falls for norm and rises for pos"


def test_no_effect_is_not_a_verdict():
    v = verdicts(comparison=comparison())
    assert (v[["C5a", "C5b", "C5c", "C5d"]] == OPEN).all()
    assert v["C8a"] == FAILS  # nothing is lowered


def test_sparsity():
    assert (verdicts(comparison=comparison(sparsity=0.2))[["C1a", "C1b"]] == HOLDS).all()
    assert (verdicts(comparison=comparison(sparsity=-0.2))[["C1a", "C1b"]] == FAILS).all()


def dynamics(dense_step0, dense_early, slope):
    rows = []
    for protocol in ("as_released", "corrected"):
        for variant, sparsities in list(VARIANTS.items())[:2]:
            for s in sparsities:
                for i, step in enumerate((0, 1, 5, 50, 500, 5000)):
                    dense = dense_step0 if step == 0 else dense_early if step <= 50 else 0.0
                    gap = 1 + slope * i
                    rows.append(
                        {"protocol": protocol, "variant": variant, "sparsity": s, "step": step, "dense@0.2": dense}
                        | {"amort_gap_mean": gap, "amort_gap_relative": gap, "absorption": 0.1 * i, "dF1": -0.1 * i}
                    )
    return pd.DataFrame(rows)


def test_dynamics():
    v = verdicts(dynamics=dynamics(0.9, 0.9, -0.1))
    assert v["C2"].startswith("holds, explained by") and v["C4a"] == HOLDS
    v = verdicts(dynamics=dynamics(0.1, 0.1, 0.1))
    assert v["C2"] == FAILS and v["C4a"] == FAILS
    assert v["C3a"] == OPEN  # both Standard trajectories rise, but two are too few


def following(**slopes):
    """Six trajectories whose gap falls; each metric moves along or against it by its slope, 0 = back and forth."""
    table = dynamics(0.0, 0.0, -0.1)
    more = table.assign(sparsity=table["sparsity"] * 5)
    table = pd.concat([table, more, more.assign(variant="gated")], ignore_index=True)
    order = table.groupby(["protocol", "variant", "sparsity"]).cumcount()
    wave = np.array([0, 2, 1, 3, 0, 2])[order] + 0.1 * (table["sparsity"] % 3) * (-1.0) ** order
    return table.assign(**{m: -order * slopes[m] if slopes.get(m) else wave for m in METRICS if m != "NMSE_refit"})


def test_what_follows_the_gap():
    none = following(dead_rate=-1, absorption=-1, dF1=-1, **{"dense@0.1": -1})
    assert verdicts(dynamics=none)["C4b"] == HOLDS  # all four rise while the gap falls
    every = following(dead_rate=1, absorption=1, dF1=1, **{"dense@0.1": 1})
    assert verdicts(dynamics=every)["C4b"] == FAILS
    some = following(dead_rate=1, absorption=-1, dF1=-1, **{"dense@0.1": -1})
    ledger = claims.ledger("tiny", tables={"dynamics": some}).set_index("claim")
    assert ledger.loc["C4b", "verdict"] == PART and ledger.loc["C4b", "why"].startswith("dead_rate falls")


def test_resampled_documents_go_before_the_few_saes_of_the_comparison():
    row = {"variant": "all SAEs", "mode": "semi", "metric": "dead_rate", "difference": 0.1, "low": 0.05, "high": 0.2}
    resampled = pd.DataFrame([row | {"saes": 36}])
    falls = comparison(corrected=(-0.1, -0.1), released=(-0.3, -0.3))
    v = verdicts(comparison=falls, documents=resampled)
    assert v["C5b"] == FAILS and v["C5a"] == HOLDS  # NMSE is not in that table


def test_trajectories_of_all_variants_go_before_the_two_of_the_section():
    falls, rises = dynamics(0.1, 0.1, -0.1), dynamics(0.1, 0.1, 0.1)
    assert verdicts(dynamics=falls, trajectories=rises)["C4a"] == FAILS
    assert verdicts(trajectories=rises)["C4a"] == NOT_RUN  # they add to the section's own table, not replace it


def sweep(dead0, dead5, nmse):
    rows = []
    for protocol in ("as_released", "corrected"):
        for j, k in enumerate((16.0, 32.0)):
            for steps, error in zip((0, 5, 50), nmse):
                dead = dead0 if steps == 0 else dead5
                rows.append(
                    {
                        "protocol": protocol,
                        "sparsity": k,
                        "steps": steps,
                        "dead_rate": dead + 0.001 * j * (steps > 0),
                        "NMSE": error,
                    }
                )
    return pd.DataFrame(rows)


def test_sweep():
    v = verdicts(sweep=sweep(0.3, 0.0, (0.5, 0.2, 0.1)))
    assert v["C6a"] == HOLDS and v["C6b"] == HOLDS
    v = verdicts(sweep=sweep(0.0, 0.0, (0.5, 0.2, 0.3)))
    assert v["C6a"] == UNTESTED and v["C6b"] == FAILS


def test_missing_tables_are_not_yet_run():
    assert (verdicts() == NOT_RUN).all()


def test_t_interval():
    effect = Effect.of([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, s / sqrt(3) = 0.57735
    assert (effect.low, effect.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert np.isnan(Effect.of([]).value) and np.isnan(Effect.of([1.0]).low)


def test_ten_claims_do_not_merge_with_one():
    ids = ["C10b", "C2", "C1a", "C10a", "C1b", "T1"]
    assert sorted(ids, key=order_of) == ["C1a", "C1b", "C2", "C10a", "C10b", "T1"]
    assert [group_of(i) for i in ids] == ["C10", "C2", "C1", "C10", "C1", "T1"]
    listed = [claim.id for claim in claims.CLAIMS]
    assert len(set(listed)) == len(listed) and listed[:3] == ["C1a", "C1b", "C1c"] and listed[-1] == "C8b"


def test_every_claim_names_a_rule_and_a_notebook():
    from repro.base.files import repo_root

    for claim in claims.CLAIMS:
        assert claim.rule and (repo_root() / "notebooks" / f"{claim.section}.ipynb").is_file()


def test_a_notebook_shows_whole_sentences():
    some = [claim for claim in claims.CLAIMS if claim.id in ("C5a", "C5g", "C8a")]
    html = shown(some, "tiny").to_html().replace("&#x27;", "'")
    assert all((claim.statement in html) == (claim in some) for claim in claims.CLAIMS if len(claim.statement) > 30)
    assert html == shown(some, "tiny").to_html().replace("&#x27;", "'")


def test_unknown_scale():
    with pytest.raises(BadInput, match="did you mean 'tiny'"):
        claims.ledger("tinny")


@pytest.mark.parametrize(("change", "verdict"), [(-0.1, HOLDS), (0.1, FAILS)])
def test_refinement_under_the_encoders_own_k_has_a_verdict_of_its_own(change, verdict):
    table = comparison()
    controls = comparison(corrected=(change, 0.0))
    controls = controls[(controls["mode"] == "semi") & (controls["protocol"] == "corrected")].assign(mode="pursuit")
    assert verdicts(comparison=table, controls=controls)["C8b"] == verdict
    assert verdicts(comparison=table)["C8b"] == NOT_RUN


def loca(topk=0.0, chance=0.0, seeds=3):
    """LocA whose three pathologies differ by these amounts from Top-K and from random groups; scatter by seed."""
    rows = []
    for seed in range(seeds):
        for form, value in (("loca", 0.5), ("topk", 0.5 - topk), ("random", 0.5 - chance)):
            scatter = 0.002 * (seed - (seeds - 1) / 2) * (form == "loca")
            metrics = dict.fromkeys(("dead_rate", "dF1", "absorption", "NMSE"), value + scatter)
            rows.append({"form": form, "k": 16, "seed": seed, "protocol": "corrected", "L0": 16.0, **metrics})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (loca(-0.1, -0.1), HOLDS),
        (loca(-0.1, 0.0), PART),
        (loca(0.1, 0.1), FAILS),
        (loca(0.1, 0.1, seeds=1), OPEN),
    ],
)
def test_loca(table, verdict):
    assert verdicts(loca_ablations=table)["C7"] == verdict
