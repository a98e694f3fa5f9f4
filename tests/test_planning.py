"""The plan of a full run, worked out by hand for a table of six rows."""

import pandas as pd
import pytest

from repro.sections.performance import plan_figure
from repro.sections.performance import scale as planning
from repro.sections.scales import SCALES


@pytest.fixture
def measured(monkeypatch):
    """One SAE of 100 × 1,000: 4 d m = 0.0004 GFLOP; each row took 2 s over 1,000 tokens, 5 s per GFLOP a token."""
    rows = [
        {"protocol": p, "mode": m, "n_tokens": 1000, "d": 100, "m": 1000, "seconds": 2.0}
        for p in planning.PROTOCOLS
        for m in (*planning.MODES, "pursuit")
    ]
    monkeypatch.setattr(planning, "need_table", lambda name, scale: pd.DataFrame(rows))


def test_hours_follow_tokens_shape_and_rows(measured, monkeypatch):
    monkeypatch.setattr(planning, "bench", lambda name, folder=None: None)
    assert planning.costs()["seconds_per_gflop"].tolist() == pytest.approx([5.0] * 6)
    grid = planning.Grid("one", d=200, each=2, m=(1000, 4000))
    table = planning.plan(grids=(grid,), seeds=3).set_index("workers")
    assert SCALES["paper"].eval_tokens == SCALES["paper"].released_tokens == 10_000
    small, large = 6 * 20 * 2, 6 * 20 * 8  # seconds of six rows: 10,000 tokens take 20 s at the measured shape
    assert table.loc[1, "worker hours"] * 3600 == pytest.approx(6 * (small + large))
    assert table.loc[1, "hours"] == table.loc[1, "worker hours"]
    assert table.loc[8, "hours"] * 3600 == pytest.approx(small + large)  # four of eight workers get a second, large one
    assert table.loc[64, "hours"] * 3600 == pytest.approx(large)  # no task is divided
    assert (table["tasks"] == 12).all() and (table["rows"] == 72).all()
    assert (table["hours on as many GPUs"] == "not measured").all()
    bits = 8 * 1e9 * table.loc[8, "GB read"] / (3600 * table.loc[8, "hours"])
    assert table.loc[8, "mean Mbit/s"] == pytest.approx(bits / 1e6)


def test_gpu_hours_need_every_protocol_and_mode_measured_on_one(measured, monkeypatch):
    rows = [
        {"protocol": p, "mode": m, "d": 100, "m": 1000, "tokens_per_second": 5000.0, "device": "NVIDIA H100"}
        for p in planning.PROTOCOLS
        for m in planning.MODES
    ]
    monkeypatch.setattr(planning, "bench", lambda name, folder=None: pd.DataFrame(rows))
    assert planning.gpu_hours([3600.0, 3600.0], "small", 1) == pytest.approx(0.2)  # 500 tokens a second here
    rows.pop()
    assert planning.gpu_hours([3600.0], "small", 1) == "not measured"


def test_the_last_task_ends_when_its_worker_does():
    assert planning.makespan([3, 3, 2, 2, 2], 2) == 7
    assert planning.makespan([1.0] * 5, 8) == 1


def test_the_committed_tables_give_a_plan():
    text = planning.page()
    assert "| 252 | 1,512 | 64 | " in text and "nan" not in text
    assert set(planning.check()["source"]) >= {"tiny/comparison"}
    assert plan_figure().layout.meta["caption"]


def test_better_codes_are_planned_from_rows_of_that_shape_alone(monkeypatch):
    d, m, k = planning.CODES
    rows = [
        {"d": d, "m": m, "k": k, "method": "x @ W_enc", "device": "two threads", "ms_per_token": 3.6},
        {"d": d, "m": m, "k": k, "method": "ompr", "device": "two threads", "ms_per_token": 36.0, "extra_mib": 512.0},
        {"d": d, "m": m // 4, "k": k, "method": "ompr", "device": "two threads", "ms_per_token": 1.0},
    ]
    table = pd.DataFrame(rows).assign(times_the_encoder=1.0)
    monkeypatch.setattr(planning, "bench", lambda name, folder=None: table)
    plan = planning.codes_plan().set_index("codes")
    assert list(plan.index) == ["encoder's product", "ompr"]
    assert plan["worker hours"].tolist() == pytest.approx([10.0, 100.0])  # 10 layers x 10^6 tokens x 3.6 ms = 10 hours
    assert plan.loc["ompr", "hours on 10 workers"] == pytest.approx(10.0)
    weights = 4 * (2 * d * m + m + d)  # float32: encoder, decoder, two biases
    assert plan.loc["ompr", "GiB a worker"] == pytest.approx(weights / 2**30 + 0.5, rel=1e-3)
    assert plan.loc["ompr", "GB read"] == pytest.approx(10 * (weights + 4 * d * 1e6) / 1e9, rel=1e-3)
    monkeypatch.setattr(planning, "bench", lambda name, folder=None: None)
    assert planning.codes_plan() is None
