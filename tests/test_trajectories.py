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


def test_a_panel_a_variant_and_the_sparsest_line_darkest(known):
    figure = dynamics.trajectory_figure(known, "NMSE")
    names = [trace.hovertext[0].split(",")[0] for trace in figure.data]
    assert names == ["standard 0.4", "standard 0.1", "topk 4", "topk 16", "gated 0.3", "gated 0.2"]
    shades = [trace.line.color for trace in figure.data]
    assert len(set(shades)) == 2 and shades[::2] == [shades[0]] * 3
    assert list(figure.data[2].y) == [4.0, 4.01, 4.1, 5.0]
    assert list(figure.data[2].x) == [0.5, 1.0, 10.0, 100.0]
    legend = [(trace.name, trace.line.color) for trace in figure.data if trace.showlegend]
    assert legend == [("sparsest SAE", shades[0]), ("densest SAE", shades[1])]


def test_sparsities_between_have_no_entry_and_one_variant_of_one_sparsity_no_second_colour(known):
    between = known[known["variant"] == "topk"].assign(sparsity=8.0)
    table = pd.concat([known[(known["variant"] != "standard") | (known["sparsity"] == 0.4)], between])
    figure = dynamics.trajectory_figure(table, "NMSE")
    assert [trace.name for trace in figure.data][:4] == ["sparsest SAE", "sparsest SAE", "", "densest SAE"]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["sparsest SAE", "densest SAE"]


def test_what_came_of_it(known):
    last = dynamics.as_configured(known)
    assert list(last["asked"]) == ["l1_penalty", "l1_penalty", "k", "k", "l1_penalty", "l1_penalty"]
    assert list(last["L0"]) == [1.1, 1.4, 5.0, 17.0, 1.2, 1.3]
    assert [list(t.x) for t in dynamics.frontier_figure(known).data if t.name == "topk"] == [[5.0, 17.0]]


def test_metrics_that_move_against_the_gap_lie_at_minus_one(known):
    figure = dynamics.gap_figure(known)
    assert all(y == -1 for trace in figure.data for y in trace.y)


def test_what_no_step_has_trained_is_no_point_of_a_correlation(known):
    wild = known.assign(amort_gap_relative=known["amort_gap_relative"].where(known["step"] > 0, 9000.0))
    wild.loc[wild["step"] == 0, "NMSE"] = 500.0
    assert all(y == -1 for trace in dynamics.gap_figure(wild).data for y in trace.y)


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
