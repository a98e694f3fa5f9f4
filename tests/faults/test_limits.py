"""A closed folder, too few open files, too little memory: one sentence and exit 1 or 2, and what was done stays."""

import ctypes
import os
import random
import resource
import sys
from pathlib import Path

import pandas as pd
import pytest
import runs
from runs import RUNS, contents

from repro.base.errors import exhausted
from repro.commands.files import read_table

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server and Linux's limits")
NAMES = ("collect", "train", "evaluate")
DAC_OVERRIDE = 1  # root's right to write where it may not
ROOM = {"files": (0, 12), "memory": (0, 80 * 2**20)}  # between these: open files, bytes beyond what the start takes


@pytest.fixture(scope="module")
def undisturbed(shared, tmp_path_factory):
    """Name -> the files of a run without limits."""
    done = {}

    def of(name):
        if name not in done:
            out = tmp_path_factory.mktemp("whole") / "out"
            runs.finish(runs.start(runs.command, *RUNS[name].prepare(shared, out)))
            done[name] = contents(out)
        return done[name]

    return of


def as_anybody(*args):
    """The command without root's right to write anywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << DAC_OVERRIDE)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    runs.command(*args)


def limited(kind, room, *args):
    """The command with a limit so far above what the process has taken already."""
    if kind == "files":
        taken, which = len(os.listdir("/proc/self/fd")), resource.RLIMIT_NOFILE  # noqa: PTH208
    else:
        taken, which = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize(), resource.RLIMIT_AS
    resource.setrlimit(which, (taken + room, resource.getrlimit(which)[1]))
    runs.command(*args)


def said(log):
    return [line for line in log.read_text().splitlines() if line.startswith("repro: ")]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_may_not_be_written_to(name, shared, undisturbed, tmp_path, tally):
    tally.family = "read-only folder"
    out = tmp_path / "out"
    args = RUNS[name].prepare(shared, out)
    out.mkdir(exist_ok=True)
    before = contents(out)
    out.chmod(0o555)
    process = runs.start(as_anybody, *args, log=tmp_path / "log")
    process.join(120)
    out.chmod(0o755)
    assert process.exitcode in (1, 2), (tmp_path / "log").read_text()
    assert len(said(tmp_path / "log")) == 1 and str(out) in said(tmp_path / "log")[0]
    assert contents(out) == before
    tally.refused()
    runs.finish(runs.start(runs.command, *args))
    assert contents(out) == undisturbed(name)


CASES = [
    pytest.param(kind, name, seed, marks=[pytest.mark.slow] if seed else [], id=f"{kind}-{name}-{seed}")
    for kind in ROOM
    for name in NAMES
    for seed in range(6)
]


@pytest.mark.parametrize("kind, name, seed", CASES)
def test_limits(kind, name, seed, shared, undisturbed, tmp_path, tally):
    tally.family = {"files": "limit of open files", "memory": "limit of memory"}[kind]
    whole, out, log = undisturbed(name), tmp_path / "out", tmp_path / "log"
    args = RUNS[name].prepare(shared, out)
    room = random.Random(f"{kind} {name} {seed}").randint(*ROOM[kind]) if seed else 0
    process = runs.start(limited, kind, room, *args, log=log)
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    print(f"{kind} + {room}: exit {process.exitcode}, {said(log)}")
    if process.exitcode:
        assert process.exitcode in (1, 2) and len(said(log)) == 1, log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
        tally.refused()
    for file, content in contents(out, hidden=False).items():
        assert file.endswith(runs.GROWS) or content == whole[file], f"{file} was not whole"
    runs.finish(runs.start(runs.command, *args))
    assert contents(out) == whole


def read_within(path, room):
    """Read a table with so little memory to spare that no thread can be started."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        assert list(read_table(path)["path"]) == ["a", "b"]
    except BaseException as error:
        assert exhausted(error), error


@pytest.mark.parametrize("room", [4_000_000, 8_000_000, 20_000_000])
def test_a_table_is_read_or_refused_where_no_thread_can_be_started(room, tmp_path):
    pd.DataFrame({"path": ["a", "b"]}).to_parquet(tmp_path / "table.parquet")
    process = runs.start(read_within, tmp_path / "table.parquet", room, log=tmp_path / "log")
    process.join(60)
    hung = process.exitcode is None
    process.kill()
    assert not hung and process.exitcode == 0, (tmp_path / "log").read_text()
