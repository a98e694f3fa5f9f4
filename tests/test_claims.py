"""The ledger on tables whose answer is known: planted changes, controls, slopes, families, seeds and missing tables."""

import functools

import numpy as np
import pandas as pd
import pytest

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.sections import claims
from repro.sections.effects import FAMILIES, Effect, group_of, order_of, per_halving, refined
from repro.sections.shown import answered, shown
from repro.sections.verdict import NOT_RUN, OPEN, REFUTED, SUPPORTED

VARIANTS = {"standard": (0.02, 0.06), "topk": (16.0, 32.0), "batch_topk": (16.0, 32.0), "jumprelu": (16.0, 32.0)}
METRICS = ("NMSE", "NMSE_refit", "dead_rate", "dense@0.1", "dF1", "absorption")


def rows_of(changes, variants=VARIANTS, protocol="corrected", spread=0.001):
    """Rows of SAEs whose modes differ from the encoder by {mode: change or {metric: change}} in every metric.

    The change varies from variant to variant by ± spread, with mean 0 over each pair; the encoder has 0.5 everywhere.
    """
    out = []
    for i, (variant, sparsities) in enumerate(variants.items()):
        for j, s in enumerate(sparsities):
            sparse = j if variant == "standard" else 1 - j
            for mode, change in {"amortized": 0.0, **changes}.items():
                by_metric = change if isinstance(change, dict) else dict.fromkeys(METRICS, change)
                scatter = 0.0 if mode == "amortized" else spread * (-1) ** i + spread / 10 * (-1) ** j
                values = {m: 0.5 + by_metric.get(m, 0.0) + scatter for m in METRICS}
                facts = {"variant": variant, "sparsity": s, "protocol": protocol, "mode": mode}
                out.append(facts | {"L0": 40 / 2**sparse, "absorption_null": 0.5} | values)
    return pd.DataFrame(out)


def judged(**tables):
    return claims.ledger("tiny", tables=tables).set_index("claim")


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The ledger of a scale, computed once from the committed tables; those computed on this machine do not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield functools.cache(claims.ledger)


def verdicts(**tables):
    return judged(**tables)["verdict"]


def test_refinement_that_helps_beyond_its_control():
    table = rows_of({"semi": -0.1, "non": -0.1})
    controls = rows_of({"random_dictionary": 0.0, "pursuit": -0.1})
    v = verdicts(comparison=table, controls=controls[controls["mode"] != "amortized"])
    ours = ["C5a", "C5b", "C5c", "C5d", "C5e", "C5f", "C5h", "C5i", *(f"C8{p}" for p in "abcdefgh")]
    assert (v[ours] == SUPPORTED).all()


def test_what_a_random_dictionary_gives_away_is_no_effect():
    controls = rows_of({"random_dictionary": -0.1})
    ledger = judged(comparison=rows_of({"non": -0.1, "semi": -0.1}), controls=controls.query("mode != 'amortized'"))
    assert (ledger.loc[["C8a", "C8b", "C5i"], "verdict"] == REFUTED).all()
    assert "minus the encoder -0.100" in ledger.loc["C8a", "why"]


def test_no_effect_is_refuted_by_a_narrow_interval_and_open_under_a_wide_one():
    narrow = verdicts(comparison=rows_of({"semi": 0.0, "non": 0.0}))
    assert (narrow[["C5a", "C5b", "C5c", "C5d", "C8c", "C8d"]] == REFUTED).all()
    wide = judged(comparison=rows_of({"semi": 0.0, "non": 0.0}, spread=0.1))
    assert (wide.loc[["C5b", "C5d", "C8c", "C8d"], "verdict"] == OPEN).all()
    assert (wide.loc[["C5b", "C5d"], "needed"] > 3).all()


def test_absorption_that_changes_as_its_null_does_is_no_absorption():
    table = rows_of({"non": -0.2})
    table.loc[table["mode"] == "non", "absorption_null"] -= 0.2
    ledger = judged(comparison=table)
    assert ledger.loc["C8c", "verdict"] == REFUTED
    assert "absorption -0.200, absorption_null -0.200" in ledger.loc["C8c", "why"]


def test_an_effect_that_turns_round_between_families():
    both = pd.concat([rows_of({"non": -0.1}, {v: VARIANTS[v]}) if v == "standard" else rows_of({"non": 0.1}, {v: s})
                      for v, s in VARIANTS.items()])  # fmt: skip
    ledger = judged(comparison=both)
    assert ledger.loc["C5c", "verdict"] == SUPPORTED and ledger.loc["C5c", "unit"] == "SAEs"
    few = judged(comparison=rows_of({"non": 0.1}, {"topk": (16.0, 32.0)}))
    assert few.loc["C5d", "n"] == 2 and few.loc["C5d", "unit"] == "SAEs"
    assert ledger.loc["C5d", "value"] == pytest.approx(0.1, abs=0.002)


def test_gated_saes_are_named_beside_and_not_counted_as_l1_trained():
    both = pd.concat([rows_of({"non": -0.1}, {"standard": (0.02, 0.06)}), rows_of({"non": 0.1}, {"gated": (0.1, 0.2)})])
    row = judged(comparison=both).loc["C5c"]
    assert row["saes"] == 2 and row["value"] == pytest.approx(-0.1, abs=0.002) and "gated +0.1" in row["why"]


def test_a_mode_is_judged_by_its_own_rows():
    controls = rows_of({"random_dictionary": 0.0, "pursuit": -0.1}).query("mode != 'amortized'")
    v = verdicts(comparison=rows_of({"semi": 0.0, "non": 0.0}), controls=controls)
    assert (v[["C5e", "C5f", "C8e", "C8f", "C8g", "C8h"]] == SUPPORTED).all()
    assert (v[["C5a", "C5b", "C5c", "C5d", "C8a", "C8b", "C8c", "C8d"]] == REFUTED).all()


def test_the_row_over_all_saes_is_not_one_more_sae():
    row = {"mode": "semi", "metric": "NMSE", "tokens": 100, "documents": 9, "se": 0.01}
    saes = [row | {"variant": v, "sparsity": 1.0, "difference": 0.1} for v in ("standard", "topk", "gated")]
    table = pd.DataFrame([*saes, row | {"variant": "all SAEs", "sparsity": 1.0, "difference": -9.0}])
    effect = refined({"documents": table}, "semi", "NMSE")
    assert effect.value == pytest.approx(0.1) and effect.saes == 3 and effect.documents == 9


def test_a_rate_with_nothing_to_fall_is_open():
    controls = rows_of({"random_dictionary": 0.0}).query("mode != 'amortized'")
    table = rows_of({"non": 0.0, "semi": 0.0}).assign(dead_rate=0.001)
    ledger = judged(comparison=table, controls=controls.assign(dead_rate=0.001))
    assert ledger.loc["C8a", "verdict"] == OPEN and pd.isna(ledger.loc["C8a", "needed"])


def test_documents_go_before_the_few_saes_of_the_comparison_and_add_their_error():
    rows = [
        {"variant": v, "sparsity": s, "mode": "semi", "metric": "NMSE", "tokens": 100, "encoder": 0.5, "refined": 0.6}
        | {"difference": 0.1 + 0.001 * i, "low": 0.1 - 0.0196, "high": 0.1 + 0.0196, "documents": 9}
        for i, v in enumerate(FAMILIES["k"])
        for s in (16.0, 32.0)
    ]
    whole = {"variant": "all SAEs", "mode": "semi", "metric": "NMSE", "difference": -9.0, "low": -9.1, "high": -8.9}
    table = pd.DataFrame([*rows, whole])
    ledger = judged(comparison=rows_of({"semi": -0.1}), documents=table)
    assert ledger.loc["C5b", "verdict"] == REFUTED and ledger.loc["C5b", "saes"] == 8
    # variants at .1, .101, .102, .103: s / sqrt(4) = .000645; documents .01; t(.975, 3) = 3.182
    half = 3.18245 * (0.000645497**2 + 0.01**2) ** 0.5
    assert ledger.loc["C5b", "high"] - ledger.loc["C5b", "value"] == pytest.approx(half, rel=1e-4)
    assert ledger.loc["C5a", "value"] == pytest.approx(-0.1, abs=0.002)  # no Standard SAE in that table


def test_seeds_are_units():
    table = pd.concat([rows_of({"non": -0.1}, {"topk": (16.0, 32.0)}).assign(seed=seed) for seed in range(5)])
    row = judged(comparison=table).loc["C5d"]
    assert (row["n"], row["unit"], row["saes"]) == (5, "variants and seeds", 10)


def along_halvings(slope, protocol="corrected", order=1):
    """Four SAEs of each of four variants with L0 8, 16, 32, 64, whose metrics change by `slope` when L0 halves."""
    rows = []
    for i, variant in enumerate(VARIANTS):
        for halvings in range(4):
            values = dict.fromkeys(METRICS, 0.3 + (slope + 0.001 * i) * halvings)
            facts = {"variant": variant, "sparsity": float(halvings), "protocol": protocol, "mode": "amortized"}
            rows.append(facts | {"L0": 64.0 / 2 ** (order * halvings), "absorption_null": 0.3} | values)
    return pd.DataFrame(rows)


def test_sparsity():
    assert (verdicts(comparison=along_halvings(0.05))[["C1a", "C1b", "C1c", "C3e", "C3f"]] == SUPPORTED).all()
    v = verdicts(comparison=along_halvings(-0.05))
    assert (v[["C1a", "C1b", "C1c", "C3e", "C3f"]] == REFUTED).all()


def test_released_metrics_go_by_the_corrected_l0_and_are_their_own():
    released = along_halvings(0.03, "as_released", order=-1)  # the released L0 rises where the corrected one falls
    table = pd.concat([along_halvings(0.05), released])
    assert per_halving(table, "NMSE", "as_released").value == pytest.approx(0.0315)
    assert judged(comparison=table).loc["C1a", "as_released"].startswith("+0.032")


def test_trajectories_of_all_variants_go_before_the_two_of_the_section():
    end = along_halvings(-0.05).assign(step=10)
    start = along_halvings(9.0).assign(step=1)
    assert verdicts(comparison=along_halvings(0.05), trajectories=pd.concat([start, end]))["C1a"] == REFUTED
    assert verdicts(trajectories=end)["C1a"] == NOT_RUN  # they add to the section's own table, not replace it


STEPS = (0, 1, 10, 100, 1000)


def training(slopes, dense=(0.7, 0.9, 0.9, 0.4, 0.0)):
    """Trajectories on a logarithmic axis; {metric: (change in the first tenth, change after it)}, linear in steps."""
    rows = []
    for i, variant in enumerate(("standard", "gated", "topk", "batch_topk", "jumprelu", "matryoshka_batch_topk")):
        for sparsity in (1.0, 2.0, 3.0):
            for step, share in zip(STEPS, dense, strict=True):
                early, late = min(step, 100) / 100, max(step - 100, 0) / 900
                values = {"absorption_null": 0.3} | {
                    m: 0.5 + a * early + (b + 0.0001 * (i + sparsity)) * late for m, (a, b) in slopes.items()
                }
                facts = {"variant": variant, "sparsity": sparsity, "protocol": "corrected", "mode": "amortized"}
                rows.append(facts | {"step": step, "dense@0.2": share + 0.001 * sparsity * (step > 0)} | values)
    return pd.DataFrame(rows)


FLAT = dict.fromkeys(("absorption", "dF1", "dead_rate", "dense@0.1", "amort_gap_relative"), (0.0, 0.0))


def test_a_gap_that_falls_first_and_then_rises():
    v = verdicts(dynamics=training(FLAT | {"amort_gap_relative": (-0.4, 0.1)}))
    assert v["C4a"] == SUPPORTED and (v[["C4b", "C4c"]] == REFUTED).all()


def test_pathologies_along_training():
    v = verdicts(dynamics=training(FLAT | {"absorption": (0.1, -0.2), "dF1": (0.0, 0.2)}))
    assert v[["C3a", "C3b", "C3c", "C3d"]].tolist() == [SUPPORTED, REFUTED, REFUTED, SUPPORTED]
    assert v[["C4d", "C4e", "C4f", "C4g"]].tolist() == [SUPPORTED, SUPPORTED, REFUTED, SUPPORTED]


def test_early_checkpoints_do_not_outvote_the_rest_of_training():
    """Ranks over a logarithmic axis would see a fall: four of five checkpoints lie in the first tenth."""
    table = training(FLAT | {"amort_gap_relative": (-0.05, 0.3)})
    ledger = judged(dynamics=table)
    assert ledger.loc["C4c", "value"] == pytest.approx(0.3, abs=0.01) and ledger.loc["C4c", "verdict"] == REFUTED


def test_initialisation_is_not_training():
    v = verdicts(dynamics=training(FLAT))
    assert (v[["C2a", "C2b"]] == SUPPORTED).all()
    v = verdicts(dynamics=training(FLAT, dense=(0.9, 0.9, 0.8, 0.4, 0.0)))
    assert v["C2a"] == SUPPORTED and v["C2b"] == REFUTED  # dense as it was drawn
    v = verdicts(dynamics=training(FLAT, dense=(0.9, 0.1, 0.1, 0.1, 0.0)))
    assert (v[["C2a", "C2b"]] == REFUTED).all()  # step 0 is not a trained network
    late = judged(dynamics=training(FLAT, dense=(0.1, 0.1, 0.1, 0.1, 0.9))).loc["C2a"]
    assert late["verdict"] == SUPPORTED and "3 of 3 SAEs, from step 1000" in late["why"]  # over all of training


def test_what_no_step_has_trained_counts_for_nothing():
    """Wild values at step 0, in one metric after the other, change no number of a claim about training."""
    table = training(FLAT | {"absorption": (0.1, -0.2), "dF1": (0.0, 0.2), "amort_gap_relative": (-0.4, 0.1)})
    wild = table.copy()
    wild.loc[wild["step"] == 0, [*FLAT, "absorption_null"]] = [-5.0, 7.0, 9.0, -3.0, 8.0, 2.0]
    kept = [f"C3{p}" for p in "abcd"] + [f"C4{p}" for p in "abcdefg"]
    first, second = (judged(dynamics=t).loc[kept, ["value", "low", "high", "why"]] for t in (table, wild))
    pd.testing.assert_frame_equal(first, second)
    at_first = training(FLAT, dense=(0.95, 0.1, 0.9, 0.4, 0.0))
    assert "3 of 3 SAEs, from step 10 " in judged(dynamics=at_first).loc["C2a", "why"]


def sweep(dead, nmse, ks=(16.0, 32.0, 64.0, 128.0)):
    rows = []
    for protocol in ("as_released", "corrected"):
        for j, k in enumerate(ks):
            for i, steps in enumerate((0, 5, 50)):
                scatter = 0.0002 * j * (steps > 0) + 0.0003 * j * (steps > 5)
                facts = {"variant": "batch_topk", "protocol": protocol, "sparsity": k, "steps": steps}
                rows.append(facts | {"dead_rate": dead[i] + scatter, "NMSE": nmse[i] + scatter})
    return pd.DataFrame(rows)


def test_sweep():
    v = verdicts(sweep=sweep((0.3, 0.1, 0.1), (0.5, 0.2, 0.1)))
    assert v["C6a"] == SUPPORTED and v["C6b"] == SUPPORTED
    v = verdicts(sweep=sweep((0.3, 0.3, 0.3), (0.5, 0.2, 0.3)))
    assert v["C6a"] == REFUTED and v["C6b"] == REFUTED
    assert verdicts(sweep=sweep((0.0, 0.0, 0.0), (0.5, 0.2, 0.3)))["C6a"] == OPEN  # nothing that could fall


def loca(topk=0.0, simpler=0.0, seeds=4):
    """LocA whose metrics differ by these amounts from Top-K and from simpler groups; scatter by seed."""
    rows = []
    forms = {"loca": 0.5, "topk": 0.5 - topk, "random": 0.5 - simpler, "frequency": 0.5, "equal": 0.5 - simpler}
    for seed in range(seeds):
        for form, value in forms.items():
            scatter = 0.002 * (seed - (seeds - 1) / 2) * (form == "loca")
            metrics = dict.fromkeys(("dead_rate", "dF1", "absorption", "NMSE"), value + scatter)
            facts = {"form": form, "k": 16, "seed": seed, "protocol": "corrected", "L0": 16.0, "absorption_null": 0.5}
            rows.append(facts | metrics)
    return pd.DataFrame(rows)


def test_loca():
    v = verdicts(loca_ablations=loca(topk=-0.1, simpler=-0.1))
    assert v[["C7a", "C7b", "C7c", "C7d"]].tolist() == [SUPPORTED] * 4
    assert v["C7e"] == REFUTED  # groups by frequency do as well
    v = verdicts(loca_ablations=loca(topk=0.1))
    assert v[["C7a", "C7b", "C7c", "C7d"]].tolist() == [REFUTED] * 4
    assert (verdicts(loca_ablations=loca(0.1, seeds=1))[["C7a", "C7d"]] == OPEN).all()


def test_labels():
    table = pd.concat([rows_of({"semi": -0.1}).assign(label=label) for label in ("topic", "letter")])
    means = pd.DataFrame(
        {"label": "topic", "mode": "semi", "metric": m, "change": -0.1, "change_low": -0.1, "change_high": -0.1 + w}
        for m, w in (("dF1", 0.0), ("excess", 0.5))
    )
    ledger = judged(probes=table, probe_means=means)
    assert ledger.loc["C5j", "verdict"] == SUPPORTED and ledger.loc["C5j", "value"] == pytest.approx(-0.1)
    assert ledger.loc["C5k", "verdict"] == OPEN  # the documents leave it open


def test_missing_tables_are_not_yet_run():
    table = claims.ledger("tiny", tables={})
    assert (table["verdict"] == NOT_RUN).all()
    assert set(claims.summary(table)["sentence"]) == {"Not computed yet."}


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
    assert len(set(listed)) == len(listed) and listed[:3] == ["C1a", "C1b", "C1c"]


def test_every_claim_has_a_margin_and_a_notebook():
    for claim in claims.CLAIMS:
        assert abs(claim.bound) > 0 and (repo_root() / "notebooks" / f"{claim.section}.ipynb").is_file()


def test_a_notebook_shows_whole_sentences():
    some = [claim for claim in claims.CLAIMS if claim.id in ("C5a", "C5k", "C8a")]
    html = shown(some).data.replace("&#x27;", "'")
    assert all((claim.statement in html) == (claim in some) for claim in claims.CLAIMS if len(claim.statement) > 30)
    assert html == shown(some).data.replace("&#x27;", "'")


def test_a_page_opens_with_the_sentences_of_its_claims(committed):
    """Those of `claims.summary`, real language models first, whatever parts the section itself tests."""
    text = answered([claim for claim in claims.CLAIMS if claim.id in ("C5j", "C8a")]).data
    assert [line[2:5] for line in text.splitlines() if line.startswith("**")] == ["C5.", "C8."]
    said = [line for line in text.splitlines() if line.startswith("- ")]
    assert said[0].startswith("- smollm2-135m: *") and said[1].startswith("- tiny (bundled): *")
    for scale, line in zip(("small", "tiny"), said):
        row = claims.summary(committed(scale)).set_index("claim").loc["C5"]
        assert f"*{row['verdict']}*. {row['sentence']}" in line


def test_unknown_scale():
    with pytest.raises(BadInput, match="did you mean 'tiny'"):
        claims.ledger("tinny")


@pytest.mark.parametrize("scale", ["tiny", "small", "gemma", "small-late"])
def test_the_committed_ledger_follows_from_the_committed_tables(scale, committed, tmp_path):
    """Every cell, as `repro claims` writes it."""
    table = committed(scale)
    for name, part in ((scale, table), (f"{scale}_sentences", claims.summary(table))):
        written = pd.read_csv(repo_root() / "data" / "results" / "claims" / f"{name}.csv", dtype=str)
        part.to_csv(tmp_path / "now.csv", index=False)
        pd.testing.assert_frame_equal(written, pd.read_csv(tmp_path / "now.csv", dtype=str))


def test_the_price_in_nats_is_what_both_parts_of_the_guess_add_up_to():
    rows = [
        {
            "variant": v,
            "sparsity": s,
            "seed": 0,
            "step": 9,
            "metric": metric,
            "part": part,
            "n_tokens": 500,
            "documents": 9,
        }
        | {"value": value + 0.001 * i, "low": value - 0.01, "high": value + 0.01}
        for i, (v, sparsities) in enumerate(VARIANTS.items())
        for s in sparsities
        for metric, by_part in {
            "CE": {"values": 0.05, "support": 0.07, "dictionary": 0.2, "share_of_increase": 0.375},
            "KL": {"values": 0.5, "support": 0.5, "dictionary": 0.5, "share_of_increase": 0.5},
            "NMSE": {"values": 0.5, "support": 0.5, "dictionary": 0.5, "share_of_increase": 0.5},
        }.items()
        for part, value in by_part.items()
    ]
    found = judged(price_parts=pd.DataFrame(rows)).loc["P1d"]
    by_hand = -np.mean([0.12 + 0.002 * i for i in range(4)])
    assert found["value"] == pytest.approx(by_hand, abs=1e-9) and found["n"] == 4
    assert found["verdict"] == SUPPORTED


def test_the_forest_shows_the_ledger_and_what_refutes_a_claim(committed):
    from repro.sections.forest import PANELS, SYMBOLS, forest_figure

    table = committed("small")
    figure = forest_figure(table, "a model")
    rows = table.set_index("claim").loc[[part for panel in PANELS for part in panel.parts]]
    drawn = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [trace.x[0] for trace in drawn] == list(rows["value"])
    assert [trace.marker.symbol for trace in drawn] == [SYMBOLS[verdict] for verdict in rows["verdict"]]
    for trace, (part, row) in zip(drawn, rows.iterrows()):
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row["low"], abs=1e-5)
        assert (f"refutes {part[:-1]}" in trace.text[0]) == (row["verdict"] == "refuted")
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    margins = [table.set_index("claim").loc[next(iter(panel.parts)), "margin"] for panel in PANELS]
    assert bands == [(-margin, margin) for margin in margins]
    titles = [note.text for note in figure.layout.annotations]
    assert all(panel.unit in title and f"±{m:g}" in title for panel, m, title in zip(PANELS, margins, titles))
