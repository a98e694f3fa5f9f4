"""The semi sweep: its points are the solvers' own steps, costs by hand, tables with and without the new columns."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted

from repro.evaluate import EvalData, EvalOptions, Tokens, steps
from repro.evaluate.steps import Clock, fista, ista
from repro.sections import sweep
from repro.sections.sweep.words import costs
from repro.solvers import Fista, Ista, Lasso, solve

D, M, STEPS = 8, 24, (0, 1, 4)


@pytest.fixture(scope="module")
def sae():
    return planted(d=D, m=M, k=3)


@pytest.fixture(scope="module")
def rows(sae):
    x = torch.randn(120, D, generator=torch.Generator().manual_seed(1)) * 2
    data = EvalData(Tokens(x, torch.arange(120) // 10), None, "key")
    o = EvalOptions(released_tokens=50, block=64)
    return list(steps.sweep(sae, data, STEPS, o, momentum=True)), x


@pytest.mark.parametrize(("walk", "solver"), [(ista, Ista()), (fista, Fista())])
def test_points_of_a_walk_are_the_solvers_own_steps(sae, walk, solver):
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(2))
    clock = Clock()
    problem = Lasso(sae.target(x), sae.W_dec, 0.1)
    found = dict(walk(problem, lambda: sae.encode_sparse(x), STEPS, clock))
    for count in STEPS:
        known = solve(problem, solver, sae.encode_sparse(x), count, tol=None, proof=False).codes
        assert torch.allclose(found[count].to_dense(), known.to_dense(), atol=1e-6)
    times = [clock.ms(count, x) for count in STEPS]
    assert times == sorted(times) and times[0] > 0


def test_costs_are_counted_by_hand(rows):
    by = {(r["protocol"], r["solver"], r["steps"]): r for r in rows[0]}
    ways = [("as_released", "ista"), ("corrected", "ista"), ("corrected", "fista")]
    assert set(by) == {(p, s, k) for p, s in ways for k in STEPS} | {("corrected", "certified", -1)}
    # a product of one token with 24 atoms of width 8: 2 · 8 · 24 = 384; four steps are 1 + 2 · 4 = 9 of them
    assert by["corrected", "ista", 0]["flops_per_token"] == 384
    assert by["corrected", "fista", 4]["flops_per_token"] == 9 * 384
    assert all(np.isfinite(r["ms_per_token"]) and r["ms_per_token"] > 0 for r in rows[0])
    best = by["corrected", "certified", -1]["NMSE"]
    assert by["corrected", "ista", 0] == pytest.approx(
        by["corrected", "ista", 0] | {k: by["corrected", "fista", 0][k] for k in ("NMSE", "L0", "F1@1", "absorption")}
    )
    assert abs(by["corrected", "fista", 4]["NMSE"] - best) < abs(by["corrected", "ista", 1]["NMSE"] - best)


def test_figures_draw_new_tables_and_the_committed_ones(rows):
    table = pd.DataFrame(rows[0]).assign(variant="batch_topk", sparsity=3, m=M, d=D)
    momentum = table["solver"] == "fista"
    new, other = table[~momentum], table[momentum]
    figure = sweep.cost_figure(new, other, "NMSE", "ms_per_token")
    assert [t.name for t in figure.data] == ["ISTA, released", "ISTA", "FISTA", "certified optimum"]
    assert figure.layout.meta["caption"]
    ista = costs(new, other).query("way == 'ista' and steps == 4").iloc[0]
    assert ista["flops_per_token"] == 9 * 2 * ista["d"] * ista["m"]
    assert " ms" in sweep.findings(new, other)
    assert list(sweep.paper_rows().index) == ["W5", "W25", "W50", "V5", "V25", "V50"]
    drawn = sweep.step_figure({"a model": new, "another": new}, "NMSE")
    names = {"ISTA steps, released", "ISTA steps, corrected", "certified optimum", "encoder"}
    assert {trace.name for trace in drawn.data} == names and len(sweep.overview(new))
    assert drawn.layout.title.text.startswith("a model, NMSE from the encoder to ")
    lines = new[(new["protocol"] == "corrected") & (new["steps"] >= 0)]
    assert sorted(len(t.y) for t in drawn.data if t.name == "ISTA steps, corrected" and t.xaxis == "x2") == sorted(
        lines.groupby("sparsity").size()
    )
    from repro.sections.notebook import paragraphs

    said = paragraphs(sweep.findings, {"a model": new, "another": new}, {"a model": other}).data
    assert said == f"**a model.** {sweep.findings(new, other)}"


def test_the_first_steps_within_the_interval_of_the_optimum():
    """NMSE .10, .18, .21 after 0, 1 and 5 steps; the interval [.17, .23] begins at one step, [.3, .4] is far."""
    walk = pd.DataFrame({"steps": [5, 0, 1, -1], "NMSE": [0.21, 0.10, 0.18, 0.2], "cost": [11, 1, 3, np.nan]})
    walk = walk.assign(variant="batch_topk", protocol="corrected", NMSE_low=0.17, NMSE_high=0.23)
    far = walk.assign(NMSE_low=0.3, NMSE_high=0.4, sparsity=32)
    without = walk[walk["steps"] >= 0].assign(sparsity=64)
    table = sweep.first_near(pd.concat([walk.assign(sparsity=16), far, without]))
    assert table.loc["batch_topk 16", ["steps", "passes"]].tolist() == [1, 3]
    assert table.loc["batch_topk 32", ["steps", "passes"]].isna().all() and len(table) == 2
