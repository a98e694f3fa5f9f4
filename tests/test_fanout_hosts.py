"""A dask cluster of separate hosts (network namespaces): one is killed, one cut off, and the run ends all the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]
HERE = Path(__file__).parent
TASKS = 14
DRIVER = """
import sys
sys.path.insert(0, sys.argv[3])
import fanout_tasks
from repro.jobs.run import fan_out
from repro.jobs.task import Fanout, Task
out, address = sys.argv[1:3]
tasks = [Task(f"t{i}", f"t{i}", fanout_tasks.write, (out, f"t{i}", 2.0)) for i in range(int(sys.argv[4]))]
print(fan_out(tasks, Fanout("dask", scheduler=address), out))
"""


def sh(*words):
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def hosts():
    """Names of a scheduler's host and three workers' hosts, each with a cable of its own to the scheduler."""
    pytest.importorskip("distributed")
    names = [f"repro-{os.getpid()}-{role}" for role in ("s", "a", "b", "c")]
    try:
        for name in names:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        for i, name in enumerate(names[1:], 1):
            sh("ip", "link", "add", f"rs{i}", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", name)
            for place, device, address in ((names[0], f"rs{i}", f"10.77.{i}.1/24"), (name, "eth0", f"10.77.{i}.2/24")):
                sh("ip", "-n", place, "addr", "add", address, "dev", device)
                sh("ip", "-n", place, "link", "set", device, "up")
            sh("ip", "-n", name, "route", "add", "default", "via", f"10.77.{i}.1")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"no network namespaces here: {error}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_host_that_dies_and_one_that_is_cut_off(hosts, tmp_path):
    env = os.environ | {
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "12s",  # a silent worker counts as gone; five minutes by default
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    }
    started = []

    def start(host, *words):
        command = ["ip", "netns", "exec", host, *words]
        log = open(tmp_path / f"{len(started)}.log", "w")  # noqa: SIM115
        started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
        return started[-1]

    python, address = sys.executable, "tcp://10.77.1.1:8786"
    try:
        start(hosts[0], python, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "8786")
        options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
        workers = []
        for i, host in enumerate(hosts[1:], 1):
            here = (f"tcp://10.77.{i}.1:8786", "--host", f"10.77.{i}.2", *options)
            workers.append(start(host, python, "-m", "distributed.cli.dask_worker", *here))
        out = tmp_path / "out"
        out.mkdir()
        driver = start(hosts[0], python, "-c", DRIVER, str(out), address, str(HERE), str(TASKS))
        until(lambda: len(list(out.glob("t*"))) >= 3, 120)
        os.killpg(workers[0].pid, signal.SIGKILL)
        sh("ip", "-n", hosts[0], "link", "set", "rs2", "down")
        assert driver.wait(timeout=180) == 0
        assert "{}" in (tmp_path / "4.log").read_text()
        assert sorted(p.name for p in out.glob("t*") if p.is_file()) == sorted(f"t{i}" for i in range(TASKS))
    finally:
        for process in started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


def until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
