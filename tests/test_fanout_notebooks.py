"""`repro report` and `repro claims --recompute` on every engine: the real notebooks, smaller than tiny, same tables."""

import os
import sys

import pandas as pd
import pytest
from test_notebooks import NANO

from repro import cli
from repro.base.errors import BadInput
from repro.book import runner
from repro.commands import report as commands
from repro.jobs.task import Fanout, status
from repro.sections import claims
from repro.sections.tables import fresh

NAMES = ("00_start", "50_comparison", "52_semi_sweep")
SMALLER = NANO | {"eval_tokens": 150, "released_tokens": 60, "sweep_steps": [0, 5], "bootstrap": 4}
ENGINES = {"dask": ("--engine", "dask"), "slurm": ("--engine", "slurm", "--scheduler", "local")}
ALONE = {}  # command -> tables and ledger of one worker, made by the first test that needs them
CLOCK = ("second", "ms_per", "time")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Both commands run three notebooks with the changes of this test, and write nothing into the checkout."""
    for package in ("distributed", "submitit", "papermill", "transformers"):
        pytest.importorskip(package)
    whole = runner.execute_all

    def some(parameters, scale, how, out, *rest, **more):
        wanted = {n: {**values, "changes": SMALLER} for n, values in parameters.items() if n in NAMES}
        assert list(wanted) == list(NAMES)
        return whole(wanted, scale, how, tmp_path / "executed", *rest, **more)

    monkeypatch.setattr(commands, "execute_all", some)
    monkeypatch.setattr(runner, "execute_all", some)
    monkeypatch.setattr(commands, "build", lambda: tmp_path)
    ledger = tmp_path / "ledger.csv"
    monkeypatch.setattr(claims, "write", lambda scale: claims.ledger(scale).to_csv(ledger, index=False) or ledger)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def tables(monkeypatch, cache, *words):
    """The tables that a command leaves in a cache of its own."""
    monkeypatch.setenv("REPRO_CACHE", str(cache))
    cli.main([*words, "--threads", "1"])
    found = {p.stem: pd.read_csv(p) for p in sorted((fresh() / "tiny").glob("*.csv"))}
    return {name: t.drop(columns=[c for c in t if any(word in c for word in CLOCK)]) for name, t in found.items()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="submitit needs a POSIX system")
@pytest.mark.parametrize("command", [("report",), ("claims", "--recompute")], ids=["report", "claims"])
@pytest.mark.parametrize("engine", ENGINES)
def test_notebooks_make_the_same_tables_on_every_engine(command, engine, small, monkeypatch):
    ledger = small / "ledger.csv"
    if command not in ALONE:
        made = tables(monkeypatch, small / "alone", *command, "--workers", "1")
        assert {"comparison", "sweep", "exclusions"} <= set(made) and len(made["comparison"]) == 18
        ALONE[command] = made, ledger.read_text() if ledger.is_file() else ""
        for file in (small / "executed").rglob("*.ipynb"):
            file.unlink()
    alone, judged = ALONE[command]
    found = tables(monkeypatch, small / "apart", *command, *ENGINES[engine], "--workers", "2")
    assert found.keys() == alone.keys()
    for name, table in alone.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)
    states = status(small / "executed")
    assert [s["name"] for s in states] == list(NAMES) and {s["state"] for s in states} == {"done"}
    assert os.getpid() not in {s["pid"] for s in states}
    if judged:
        assert ledger.read_text() == judged and judged.count("\n") > 10


def test_notebooks_make_their_own_activations(tmp_path):
    with pytest.raises(BadInput, match="set REPRO_CACHE to a fast disk, and leave out --stage"):
        runner.execute_all({"00_start": {}}, "tiny", Fanout(stage="$TMPDIR"), tmp_path)
