"""`repro evaluate` in several processes: the same table to the bit, and what fails is a row with its reason."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from repro.base.files import repo_root
from repro.base.memory import sae_bytes
from repro.cli import main
from repro.commands import many as tables
from repro.jobs.task import status

SHORT = ("--metrics.max-tokens", "60", "--semi-steps", "2", "--non-steps", "3")


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


def two_workers_make_the_same_table(engine, listed, alone, capsys):
    """Run `evaluate` to its end in two workers and look at the table, the states and what a second run does."""
    out, evaluate = listed
    words = [*evaluate, "--engine", engine, "--workers", "2", "--threads", "1"]
    main(words)
    pd.testing.assert_frame_equal(table(out), alone, check_exact=True)
    states = status(out)
    assert len(states) == alone["path"].nunique() and {s["state"] for s in states} == {"done"}
    assert all(s["pid"] != os.getpid() for s in states)
    main(words)  # nothing is left to do
    assert [s["time"] for s in status(out)] == [s["time"] for s in states]
    capsys.readouterr()
    main(["status", str(out)])
    assert capsys.readouterr().out.startswith(f"{len(states)} done")


@pytest.mark.slow
def test_dask_makes_the_same_table(listed, alone, capsys):
    """For processes of this machine test_ctrl_c_stops_and_the_same_command_goes_on asks the same."""
    fresh(listed[0])
    two_workers_make_the_same_table("dask", listed, alone, capsys)


@pytest.mark.slow
def test_workers_that_read_a_copy_make_the_same_table(listed, alone, tmp_path, monkeypatch):
    out, evaluate = listed
    fresh(out)
    main([*evaluate, "--workers", "2", "--threads", "1", "--stage", str(tmp_path)])
    pd.testing.assert_frame_equal(table(out), alone, check_exact=True)
    (copy,) = (p for p in tmp_path.iterdir() if p.is_dir())
    read, whole = [], tables.open_data
    monkeypatch.setattr(tables, "open_data", lambda acts, *a, **k: read.append(acts) or whole(acts, *a, **k))
    fresh(out)
    main([*evaluate, "--stage", str(tmp_path)])
    assert read == [copy / "acts_layer0.npy"]
    pd.testing.assert_frame_equal(table(out), alone, check_exact=True)


def test_the_estimated_memory_holds_what_benchmarks_took():
    for _, row in pd.read_csv(repo_root() / "data" / "bench" / "evaluate.csv").iterrows():
        if "threads" in row["device"]:  # on a CPU
            taken = row["peak_mib_beyond_weights"] * 2**20 + sae_bytes(row["d"], row["m"])
            assert taken < tables.memory_of({"d": row["d"], "m": row["m"]}) < 3 * taken
    assert tables.memory_of({"path": "somewhere"}) == 0  # unknown


PEAK = """
import sys, tempfile, torch
from pathlib import Path
import repro.cli, repro.commands.many
from repro.bench.evaluate import synthetic_sae, write_activations
from repro.base.config import MetricsConfig
from repro.evaluate import EvalOptions, open_data
from repro.evaluate.run import evaluate_sae
from repro.base.memory import resident
torch.set_num_threads(1)
d, m, n = map(int, sys.argv[1:])
begin = resident()
sae = synthetic_sae(d, m, 16, 0)
with tempfile.TemporaryDirectory() as folder:
    write_activations(Path(folder) / "acts.npy", sae, n, 0)
    data = open_data(Path(folder) / "acts.npy", MetricsConfig(max_tokens=n, exclude=()), stream=True)
    rows = list(evaluate_sae(sae, data, EvalOptions(semi_steps=2, non_steps=2)))
assert len(rows) == 6
print(1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) - begin)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("d, m, n", [(64, 1024, 500), (512, 8192, 60)])
def test_the_estimated_memory_holds_a_measured_peak(d, m, n):
    words = [sys.executable, "-c", PEAK, str(d), str(m), str(n)]
    taken = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    print(f"{d} x {m}: {taken / 2**20:.0f} MiB, estimated {tables.memory_of({'d': d, 'm': m}) / 2**20:.0f}")
    assert taken < tables.memory_of({"d": d, "m": m}) < 3 * taken


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
    words = [sys.executable, "-m", "repro", *evaluate, "--workers", "2", "--threads", "1", "--engine", *engine]
    for _ in range(3):  # a fast run may end before it is interrupted: then once more
        fresh(out)
        with (out / "log").open("w") as log:
            run = subprocess.Popen(words, stderr=log, start_new_session=True, preexec_fn=hear_ctrl_c)
            until(lambda: any("running" in p.read_text() for p in out.glob("tasks/*.json")))
            os.killpg(run.pid, signal.SIGINT)  # what a terminal does: every process of the group is told
            if run.wait(300):
                break
    assert run.returncode == 1
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
    two_workers_make_the_same_table("local", listed, alone, capsys)
    assert all(p.stat().st_mtime_ns == changed for p, changed in kept.items())


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def hear_ctrl_c():
    """A suite that a shell runs in the background ignores ctrl-c, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
