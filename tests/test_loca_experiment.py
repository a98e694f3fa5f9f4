"""The ablation table's arithmetic: differences paired by seed, intervals over seeds, sentences, figures."""

import pandas as pd
import pytest

from repro.sections import loca
from repro.sections.loca.run import FORM_NAMES
from repro.sections.loca.words import COMPARED, differences, effects


@pytest.fixture
def table():
    rows = []
    for seed, shift in enumerate((0.0, 0.3, 0.1)):
        for k in (8, 16):
            for i, form in enumerate(FORM_NAMES):
                value = 0.2 + shift + 0.01 * i + (0.05 * seed if form == "random" else 0)
                metrics = dict.fromkeys((*COMPARED, "FVE", "absorption_null", "encode_us_per_token"), value)
                row = {"protocol": "corrected", "form": form, "k": k, "seed": seed, "L0": k, "m": 64, "extra_steps": 5}
                rows.append(row | metrics)
        rows.append(rows[-1] | {"protocol": "as_released", "form": "as_released", "L0": 32.0, "extra_steps": 1})
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed(table):
    assert differences(table, "loca", "topk", "NMSE").tolist() == pytest.approx([0.01] * 3)
    # random is two forms further: -0.02, less 0.05 a seed; mean of 0, .05, .1 = .05
    assert differences(table, "loca", "random").tolist() == pytest.approx([-0.02, -0.07, -0.12])
    found = effects(table).set_index(["against", "metric"])
    row = found.loc[(FORM_NAMES["random"], "absorption")]
    half = 4.302653 * 0.05 / 3**0.5  # t(.975, 2) s / sqrt(n)
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((-0.07, -0.07 - half, -0.07 + half), abs=1e-6)
    assert row["seeds"] == 3 and set(found.index.get_level_values(0)) == set(FORM_NAMES.values()) - {"LocA, corrected"}


def test_one_seed_has_no_interval_and_says_so(table):
    one = table[table["seed"] == 0]
    assert effects(one)["low"].isna().all()
    assert "[" not in "".join(loca.effects_table(one).to_numpy().ravel())
    assert "1 seed)" in loca.findings(one) and "3 seeds)" in loca.findings(table)
    loca.effect_figure(one), loca.metric_figure(one, "dead_rate")


def test_tables_and_figures_cover_every_form(table):
    shown = loca.overview(table)
    assert set(shown.index.get_level_values("form")) == set(FORM_NAMES.values())
    assert list(loca.effects_table(table).columns) == list(COMPARED)
    figure = loca.effect_figure(table)
    assert len(figure.data) == 4 and all(len(t.y) == len(FORM_NAMES) - 2 for t in figure.data)
    assert figure.layout.meta["caption"] and loca.metric_figure(table, "NMSE").layout.meta["caption"]
    assert list(loca.paper_rows().index) == ["S1", "S3", "S5", "S9"]
