"""kill -9 at random moments of every long command: the same command again ends in the files of an undisturbed run.

What the kill leaves under a final name is whole, and what is in it does not change any more.
"""

import random
import sys
import time

import pytest
import runs
from runs import RUNS, contents

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork server and SIGKILL")

QUICK = {"collect": 1, "train": 1, "loca": 1}
LONG = {"collect": 9, "train": 12, "evaluate": 12, "loca": 12, "notebooks": 6, "report": 3}
KILLS = [
    pytest.param(name, seed, marks=[pytest.mark.slow] if seed >= QUICK.get(name, 0) else [], id=f"{name}-{seed}")
    for name, number in LONG.items()
    for seed in range(number)
]
assert len(KILLS) >= 50


@pytest.fixture(scope="module")
def undisturbed(shared, tmp_path_factory):
    """Kind of run -> (its files, the seconds from its first file on); each is done when it is first asked for."""
    done = {}

    def of(name):
        if name not in done:
            run, out = RUNS[name], tmp_path_factory.mktemp("whole") / "out"
            process = runs.start(run.function, *run.prepare(shared, out))
            runs.wait_for(process, out, run.begun)
            begin = time.perf_counter()
            runs.finish(process)
            done[name] = contents(out, run.parts), time.perf_counter() - begin
        return done[name]

    return of


@pytest.mark.parametrize("name, seed", KILLS)
def test_killed_runs_end_in_the_same_files(name, seed, shared, undisturbed, tmp_path, tally):
    tally.family = f"kill -9 of {name}"
    whole, seconds = undisturbed(name)
    run, out = RUNS[name], tmp_path / "out"
    args = run.prepare(shared, out)
    moment = random.Random(f"{name} {seed}").uniform(0, seconds)
    process = runs.start(run.function, *args)
    runs.wait_for(process, out, run.begun)
    time.sleep(moment)
    running = process.is_alive()
    process.kill()
    process.join(60)
    left = contents(out, run.parts, hidden=False)
    print(f"killed after {moment:.3f} of {seconds:.3f} s (running: {running}); left: {sorted(left)}")
    for file, content in left.items():
        assert file.endswith(runs.GROWS) or content == whole[file], f"{file} was not whole"
    rows = {p: p.read_bytes() for p in out.glob(runs.ROW)}
    runs.finish(runs.start(run.function, *args))
    after = contents(out, run.parts)
    assert sorted(after) == sorted(whole)
    for file, content in after.items():
        assert content == whole[file], f"{file} differs"
    assert all(p.read_bytes() == text for p, text in rows.items())  # seconds and all: none was done again
