"""`repro evaluate` in several processes: the same table to the bit, and what fails is a row with its reason."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from repro.cli import main
from repro.fanout import status
from repro.workflow import tables

SHORT = ("--metrics.max-tokens", "60", "--metrics.bootstrap", "4", "--semi-steps", "2", "--non-steps", "3")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A folder with activations, three small SAEs and their index; the arguments of evaluate."""
    pytest.importorskip("pandas")
    out = tmp_path_factory.mktemp("grid")
    np.save(out / "acts_layer0.npy", np.random.default_rng(0).normal(size=(400, 8)).astype("float32"))
    train = ["train", "--acts", str(out / "acts_layer0.npy"), "--output-dir", str(out / "saes"), "--steps", "3"]
    main([*train, "--m", "24", "--batch-size", "64", "--held-out-tokens", "16", "--variant", "topk"])
    config = out / "config.yaml"
    roots = f"sae_checkpoints: {{topk: {{roots: [{out}/saes]}}}}\n"
    config.write_text(
        f"output_dir: {out}\n{roots}protocol: corrected\ndevice: cpu\neval_modes: [amortized, semi, non]\n"
    )
    main(["index", "--config", str(config)])
    return out, ["evaluate", "--config", str(config), *SHORT]


def table(out):
    found = pd.read_parquet(out / "metrics.parquet")
    return found.drop(columns=[c for c in found if "second" in c])


def fresh(out):
    for file in (*out.glob("rows/*"), *out.glob("tasks/*")):
        file.unlink()


@pytest.fixture(scope="module")
def alone(listed):
    """The table that one process makes."""
    out, evaluate = listed
    main([*evaluate, "--engine", "local", "--workers", "1"])
    return table(out)


@pytest.mark.parametrize(
    "engine", [("local", "2"), pytest.param(("dask", "2"), marks=pytest.mark.slow)], ids=["local", "dask"]
)
def test_two_workers_make_the_same_table(engine, listed, alone, capsys):
    out, evaluate = listed
    fresh(out)
    main([*evaluate, "--engine", engine[0], "--workers", engine[1], "--threads", "1"])
    pd.testing.assert_frame_equal(table(out), alone, check_exact=True)
    states = status(out)
    assert len(states) == alone["path"].nunique() and {s["state"] for s in states} == {"done"}
    assert all(s["pid"] != os.getpid() for s in states)
    main([*evaluate, "--engine", engine[0], "--workers", engine[1], "--threads", "1"])  # nothing is left to do
    assert [s["time"] for s in status(out)] == [s["time"] for s in states]
    capsys.readouterr()
    main(["status", str(out)])
    assert capsys.readouterr().out.startswith(f"{len(states)} done")


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(("local",), id="local"),
        pytest.param(("dask",), id="dask", marks=pytest.mark.slow),
        pytest.param(("slurm", "--scheduler", "local"), id="slurm", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_stops_and_the_same_command_goes_on(engine, listed, alone, capsys):
    out, evaluate = listed
    fresh(out)
    words = [sys.executable, "-m", "repro", *evaluate, "--workers", "2", "--threads", "1", "--engine", *engine]
    with (out / "log").open("w") as log:
        run = subprocess.Popen(words, stderr=log, start_new_session=True)
        until(lambda: any("running" in p.read_text() for p in out.glob("tasks/*.json")))
        os.killpg(run.pid, signal.SIGINT)  # what a terminal does: every process of the group is told
        assert run.wait(60) == 1
    said = (out / "log").read_text()
    assert "repro: stopped; what was finished is kept" in said
    assert "Traceback" not in said or engine != ("local",)  # processes of dask and submitit may print their own
    until(lambda: not alive(run.pid))
    capsys.readouterr()
    main(["status", str(out)])
    said = capsys.readouterr().out
    assert "stopped topk" in said or (engine != ("local",) and "done" in said)  # elsewhere it may just have ended
    kept = {p: p.stat().st_mtime_ns for p in out.glob("rows/*.json")}
    assert len(kept) < len(alone)
    main([*evaluate, "--workers", "2", "--threads", "1"])
    pd.testing.assert_frame_equal(table(out), alone, check_exact=True)
    assert all(p.stat().st_mtime_ns == changed for p, changed in kept.items())
    assert {s["state"] for s in status(out)} == {"done"}


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def until(true, seconds=90):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_checkpoint_that_failed_everywhere_is_a_row_with_its_reason(listed, monkeypatch, capsys):
    out, evaluate = listed
    fresh(out)
    reason = "its worker died (killed, or out of memory)"
    first = sorted(pd.read_parquet(out / "checkpoint_index.parquet")["path"])[0]
    monkeypatch.setattr(tables, "evaluate_apart", lambda entries, config: {first: reason})
    with pytest.raises(SystemExit) as stopped:
        main([*evaluate, "--workers", "2"])
    assert stopped.value.code == 1
    assert "1 of " in capsys.readouterr().err
    found = pd.read_parquet(out / "metrics.parquet")
    bad = found[found["path"] == first]
    assert list(bad["note"]) == [reason] and bad["NMSE"].isna().all()
    assert found.loc[found["path"] != first, "NMSE"].notna().all()


def test_settings_are_checked_before_anything_runs(listed, capsys):
    _, evaluate = listed
    with pytest.raises(SystemExit) as stopped:
        main([*evaluate, "--workers", "2", "--scheduler", "tcp://nowhere:1"])
    assert stopped.value.code == 2 and "--scheduler needs --engine dask" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["status", "nowhere"])
    assert stopped.value.code == 2 and "No tasks were run in nowhere" in capsys.readouterr().err
