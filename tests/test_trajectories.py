"""Trajectories of all variants: a tiny real run, and figures of a table whose content is known."""

import pandas as pd
import pytest

from repro.base.errors import BadInput
from repro.sae import VARIANTS
from repro.sections import dynamics
from repro.sections.dynamics.run import PAPER_VARIANTS
from repro.sections.scales import TRAJECTORIES, scale_of
from repro.training.recipe import TRAINED, Job, Recipe

SUITE = tuple(v for v in TRAINED if VARIANTS[v].trainer_class)  # what SAEBench trained
METRICS = ("NMSE", "FVE", "L0", "dead_rate", "dense@0.1", "dF1", "absorption", "amort_gap_relative")


@pytest.fixture
def known():
    """Metric = step in thousands + sparsity, gap the opposite; a row of another protocol that must not be drawn."""
    rows = []
    for variant, sparsities in (("standard", (0.1, 0.4)), ("topk", (4.0, 16.0)), ("gated", (0.2, 0.3))):
        for s in sparsities:
            for step in (0, 10, 100, 1000):
                row = dict.fromkeys(METRICS, step / 1000 + s) | {"amort_gap_relative": -float(step)}
                rows.append(row | {"variant": variant, "sparsity": s, "step": step, "protocol": "corrected"})
    rows.append(rows[0] | {"protocol": "as_released"})
    return pd.DataFrame(rows)


def test_a_row_a_family_with_the_means_of_both_halves(known):
    figure = dynamics.trajectory_figure({"real": known, "small one": known}, "NMSE")
    assert [a.text for a in figure.layout.annotations][:2] == ["real", "small one"]
    thick = [t for t in figure.data if t.line.width == 3 and t.xaxis in ("x", "x3", "x5")]  # the first column
    assert [(t.line.dash, t.text[-1], t.y[-1]) for t in thick] == [
        ("solid", "sparser", 1.4),  # Standard: the larger penalty
        ("dash", "denser", 1.1),
        ("solid", "sparser", 1.3),  # Gated
        ("dash", "denser", 1.2),
        ("solid", "sparser", 5.0),  # Top-K: the smaller k
        ("dash", "denser", 17.0),
    ]
    assert list(thick[4].x) == [0.3333, None, 1.0, 10.0, 100.0] and list(thick[4].y) == [4.0, None, 4.01, 4.1, 5.0]
    assert figure.layout.title.text.replace("<br>", " ").count("0 of 2 L1-trained and 0 of 2 k-trained SAEs") == 2


def test_one_sae_of_a_variant_is_no_half(known):
    table = known[known["sparsity"].isin([0.4, 4.0])]
    figure = dynamics.trajectory_figure({"a model": table}, "NMSE")
    assert [(t.text[-1], t.line.width) for t in figure.data] == [("", 3), ("", 3)]


def test_what_came_of_it(known):
    last = dynamics.as_configured({"a": known, "b": known})
    assert list(last.loc["b", "asked"]) == ["l1_penalty", "l1_penalty", "k", "k", "l1_penalty", "l1_penalty"]
    assert list(last.loc["a", "L0"]) == [1.1, 1.4, 5.0, 17.0, 1.2, 1.3]
    figure = dynamics.frontier_figure({"a": known})
    assert [list(t.x) for t in figure.data if t.name == "topk"] == [[5.0, 17.0]]


def test_metrics_that_move_against_the_gap_lie_at_minus_one(known):
    figure = dynamics.gap_figure({"a model": known})
    assert all(x == -1 for trace in figure.data for x in trace.x)


def test_what_no_step_has_trained_is_no_point_of_a_correlation(known):
    wild = known.assign(amort_gap_relative=known["amort_gap_relative"].where(known["step"] > 0, 9000.0))
    wild.loc[wild["step"] == 0, "NMSE"] = 500.0
    assert all(x == -1 for trace in dynamics.gap_figure({"a model": wild}).data for x in trace.x)


def test_no_trajectories_for_a_scale():
    with pytest.raises(BadInput, match="No trajectories are set up for scale 'paper'"):
        dynamics.run_variants("paper")


@pytest.mark.parametrize("scale", TRAJECTORIES)
def test_settings_can_be_trained(scale):
    setting = TRAJECTORIES[scale]
    assert set(setting.grid) == set(SUITE)
    d = {"tiny": 256, "small": 576}[scale]
    for variant, values in setting.grid.items():
        assert len(values) == (6 if scale == "tiny" or variant in PAPER_VARIANTS else 2)
        for value in values:
            Job(variant, value, setting.m).config(d)
    assert len(Recipe.scaled(setting.steps, setting.batch_size).checkpoint_steps()) == 8
    assert setting.steps * setting.batch_size >= {"tiny": 5_000_000, "small": 2_000_000}[scale]


def test_every_variant_is_trained_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    grid = {v: [0.2] if v in ("standard", "gated") else [8] for v in SUITE}
    nano = {"train_tokens": 2000, "eval_tokens": 80, "released_tokens": 60, "label_docs": 40, "bootstrap": 5}
    setting = scale_of("tiny", **nano, m=128, steps=3, batch_size=128, tol=1e-2, grid=grid)
    table = dynamics.run(setting, "trajectories", SUITE)
    corrected = table[table["protocol"] == "corrected"]
    assert set(corrected["variant"]) == set(SUITE)
    assert set(table.loc[table["protocol"] == "as_released", "variant"]) == set(PAPER_VARIANTS)
    assert (corrected.groupby("variant")["step"].nunique() == len(Recipe.scaled(3, 128).checkpoint_steps())).all()
    assert corrected[["NMSE", "L0"]].notna().all(axis=None)
    # after three steps Standard and Gated use more latents than any optimum has: there is no lambda to match
    matched = corrected[~corrected["variant"].isin(["standard", "gated"])]
    assert matched["amort_gap_relative"].between(0, 1).all()
