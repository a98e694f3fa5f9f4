"""Two real processes on one output folder: one is refused with a sentence or waits, and the files are those of one."""

import os
import signal
import sys

import pytest
import runs

from repro.base.errors import BadInput
from repro.base.lock import only_one

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server")
FAMILY = "two processes on one folder"
WAITS = ("notebooks",)
HELD = {"collect": ".*/progress.json"}  # what the first one writes under its lock, where `begun` comes earlier


@pytest.mark.parametrize("name", ["collect", "train", "evaluate", "loca", "notebooks"])
def test_two_at_once(name, shared, tmp_path, tally):
    run = runs.RUNS[name]
    runs.finish(runs.start(run.function, *run.prepare(shared, tmp_path / "alone")))
    out = tmp_path / "out"
    args = run.prepare(shared, out)
    first = runs.start(run.function, *args, log=tmp_path / "first.txt")
    runs.wait_for(first, out, HELD.get(name, run.begun))
    os.kill(first.pid, signal.SIGSTOP)  # or it might be done before the second one begins
    second = runs.start(run.function, *args, log=tmp_path / "second.txt")
    second.join(2 if name in WAITS else 120)
    waited = second.is_alive()
    os.kill(first.pid, signal.SIGCONT)
    runs.finish(first)
    said = [line for line in (tmp_path / "second.txt").read_text().splitlines() if line.startswith("repro: ")]
    if name in WAITS:
        assert waited
        runs.finish(second)
    else:
        assert second.exitcode == 2 and len(said) == 1
        tally.refused()
        assert said[0].startswith("repro: Another `repro ") and "wait for it, or choose another" in said[0]
    assert runs.contents(out) == runs.contents(tmp_path / "alone")


def test_a_lock_ends_with_its_process_and_needs_no_room(tmp_path):
    with only_one(tmp_path / "a", "repro x"):
        with pytest.raises(BadInput, match="Another `repro x` is writing to"), only_one(tmp_path / "a", "repro x"):
            pass
        with only_one(tmp_path / "b", "repro x"):
            pass
    with only_one(tmp_path / "a", "repro x"):
        pass
