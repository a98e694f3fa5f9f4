"""Every engine must end the same way: all that can be done is done, the rest is reported with its reason."""

import dataclasses
import json
import os
import socket
import sys
from pathlib import Path

import fanout_tasks
import pytest
import torch

from repro.base.errors import BadInput
from repro.base.memory import memory_available
from repro.jobs import engines, worker
from repro.jobs import task as fanout
from repro.jobs.run import fan_out
from repro.jobs.task import Fanout, Task, status

ENGINES = [
    pytest.param({"engine": "local"}, id="local"),
    pytest.param({"engine": "dask"}, id="dask"),
    pytest.param({"engine": "slurm", "scheduler": "local"}, id="slurm"),
]

SLOW = [pytest.param(*engine.values, id=engine.id, marks=pytest.mark.slow) for engine in ENGINES[1:]]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    for package in ("distributed", "submitit", "joblib"):
        pytest.importorskip(package)
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.syspath_prepend(here)


def task(function, folder, name):
    return Task(name, name, getattr(fanout_tasks, function), (str(folder), name))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_can_be_done_is_done_and_the_rest_is_reported(engine, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tasks = [task("write", out, f"good-{i}") for i in range(3)]
    tasks[1:1] = [task("raises", out, "bad"), task("refuses", out, "wrong"), task("leaves", out, "gone")]
    failed = fan_out(tasks, Fanout(**engine, workers=2, retries=1), tmp_path, progress=False)
    reasons = {"wrong": "The file is not an SAE; give one.", "gone": "SystemExit: 3"}
    assert failed == {"bad": "ValueError: this cannot be computed"} | reasons
    assert all((out / f"good-{i}").is_file() for i in range(3))
    assert (out / "bad.tries").read_text() == "xx"  # tried again once
    assert (out / "wrong.tries").read_text() == "x"
    states = {s["name"]: s["state"] for s in status(tmp_path)}
    assert states == dict.fromkeys(("good-0", "good-1", "good-2"), "done") | dict.fromkeys(failed, "failed")


@pytest.mark.parametrize("engine", [ENGINES[0], *SLOW])
def test_a_worker_that_is_killed_costs_one_more_try(engine, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tasks = [task("die_once", out, "victim"), *(task("write", out, f"good-{i}") for i in range(3))]
    assert fan_out(tasks, Fanout(**engine, workers=2, retries=1), tmp_path, progress=False) == {}
    assert (out / "victim").is_file() and all((out / f"good-{i}").is_file() for i in range(3))


def test_a_task_that_kills_every_worker_takes_nobody_with_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tasks = [task("always_dies", out, "poison"), *(task("write", out, f"good-{i}") for i in range(4))]
    failed = fan_out(tasks, Fanout(workers=2, retries=1), tmp_path, progress=False)
    assert failed == {"poison": "its worker died (killed, or out of memory)"}
    assert all((out / f"good-{i}").is_file() for i in range(4))


def test_workers_have_the_threads_and_the_gpu_that_they_were_given(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # locks of this test's own
    import fanout_torch

    asks = Task("t", "t", fanout_torch.threads, (str(tmp_path), "said"))
    threads = torch.get_num_threads() + 2  # not what a worker takes by itself
    assert fan_out([asks], Fanout(workers=1, threads=threads, gpus=1), tmp_path, progress=False) == {}
    assert (tmp_path / "said").read_text() == f"{threads} 0"


@pytest.mark.parametrize("engine", [ENGINES[0], SLOW[0]])
def test_two_workers_never_have_the_same_gpu(engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3,1")  # what this job may use; asked for are two of them
    tasks = [task("own_gpu", tmp_path, f"gpu-{i}") for i in range(2)]
    assert fan_out(tasks, Fanout(**engine, workers=2, gpus=2, retries=0), tmp_path) == {}
    said = [(tmp_path / f"gpu-{i}").read_text().split() for i in range(2)]
    assert len({pid for pid, _ in said}) == 2 and {gpu for _, gpu in said} == {"5", "3"}
    assert "gpu-0 has one" in capsys.readouterr().out  # what a task returns is for whoever watches


def test_a_worker_without_a_gpu_of_its_own_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="3 workers cannot have one of 2 GPUs each; lower --workers"):
        Fanout(workers=3, gpus=2)
    monkeypatch.setattr(worker.tempfile, "tempdir", str(tmp_path))
    held = []
    for expected in ("0", "1"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # as each new worker finds it
        held.append(worker._own_gpu(2))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(BadInput, match="more workers than the 2 GPUs of"):
        worker._own_gpu(2)
    held.pop().release()  # its process has ended
    held.append(worker._own_gpu(2))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(fanout.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [Fanout(workers=w).shared_out().threads for w in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [Fanout(workers=w).shared_out().threads for w in (1, 2, 4)] == [3, 3, 2]
    assert Fanout(workers=2, threads=7).shared_out().threads == 7


@pytest.mark.parametrize("engine", [ENGINES[0], *SLOW])
def test_tasks_whose_memory_does_not_fit_twice_run_one_at_a_time(engine, tmp_path, capfd):
    half = int(0.6 * memory_available())
    tasks = [dataclasses.replace(task("alone", tmp_path, f"t{i}"), memory=half) for i in range(3)]
    assert fan_out(tasks, Fanout(**engine, workers=2, retries=0), tmp_path, progress=False) == {}
    assert capfd.readouterr().err.count("are free: 1 of 2 run at a time.") == 1
    small = [dataclasses.replace(task("write", tmp_path, "t"), memory=1)]
    assert fan_out(small, Fanout(workers=2), tmp_path, progress=False) == {}
    assert "at a time" not in capfd.readouterr().err


@pytest.mark.slow
def test_workers_of_a_running_cluster_wait_for_memory_too(tmp_path, capfd):
    from distributed import LocalCluster

    half = int(0.6 * memory_available())
    tasks = [dataclasses.replace(task("alone", tmp_path, f"t{i}"), memory=half) for i in range(4)]
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=half, dashboard_address=None) as cluster:
        how = Fanout("dask", scheduler=cluster.scheduler_address, retries=0)
        assert fan_out(tasks, how, tmp_path, progress=False) == {}
    said = capfd.readouterr().err
    assert f"are free on {socket.gethostname()}: 1 of 2 run at a time." in said
    assert f"dask ends those of {socket.gethostname()} at" in said  # by its own limit, which it is given by default
    assert len({s["pid"] for s in status(tmp_path)}) == 2  # each had its turns


def test_slurm_is_asked_for_the_memory_of_the_largest_task(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun"):
        words = f'cp "$1" {tmp_path}/script\necho no partition >&2\nexit 1\n'
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{words}")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(engines, "resident", lambda: 2**29)
    asked = [dataclasses.replace(task("write", tmp_path, f"t{i}"), memory=m * 2**30) for i, m in enumerate((1, 6))]
    for given, expected in (({}, ["#SBATCH --mem=7GB"]), ({"SBATCH_MEM_PER_CPU": "9G"}, [])):
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Exception, match="no partition"):
            fan_out(asked, Fanout("slurm"), tmp_path, progress=False)
        assert [line for line in (tmp_path / "script").read_text().splitlines() if "--mem" in line] == expected


def test_a_process_that_is_gone_is_not_running(tmp_path):
    (tmp_path / "tasks").mkdir()
    state = {"key": "k", "name": "n", "state": "running", "trial": 1, "host": socket.gethostname(), "pid": 2**22 - 1}
    (tmp_path / "tasks" / "k.json").write_text(json.dumps(state))
    assert [s["state"] for s in status(tmp_path)] == ["died"]
    (tmp_path / "tasks" / "k.json").write_text("{")
    with pytest.raises(BadInput, match="is not a task's state"):
        status(tmp_path)


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"engine": "ray"}, "engine is 'ray'; it must be one of local, dask, slurm"),
        ({"workers": 0}, "workers, threads and minutes must be at least 1"),
        ({"threads": 0}, "workers, threads and minutes must be at least 1"),
        ({"scheduler": "tcp://x"}, "--scheduler needs --engine dask"),
    ],
)
def test_settings_that_make_no_sense(given, sentence):
    with pytest.raises(BadInput, match=sentence):
        Fanout(**given)


def test_dask_workers_that_run_several_tasks_in_a_process_are_refused(tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        how = Fanout("dask", scheduler=cluster.scheduler_address)
        with pytest.raises(BadInput, match="start them with --nthreads 1"):
            fan_out([task("write", tmp_path, "x")], how, tmp_path, progress=False)


def test_no_cluster_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="There is no Slurm here"):
        fan_out([task("write", tmp_path, "x")], Fanout("slurm"), tmp_path, progress=False)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BadInput, match=r"pip install 'repro\[cluster\]'"):
        fan_out([task("write", tmp_path, "x")], Fanout("slurm"), tmp_path, progress=False)
