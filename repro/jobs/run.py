"""Fan-out: independent tasks on this machine's cores (joblib), on a dask cluster or on Slurm (submitit).

No scheduler of our own: each engine (`jobs.engines`) is a generator over tasks that says how each ended. A task is a
function that writes its own result (`evaluate` writes a file a row), so nothing but success or a reason travels back,
and what was finished before a crash stays finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from repro.base.memory import memory_available, workers_that_fit
from repro.jobs.engines import ENGINES
from repro.jobs.task import Fanout, Task, is_running, most_memory, note


def fan_out(tasks: Sequence[Task], how: Fanout, folder: str | Path, progress: bool = True) -> dict[str, str]:
    """Run all tasks -> {key: reason} of those that failed for good; the state of each is kept in folder/tasks.

    A task that raises, or whose worker dies, is tried again `how.retries` times after the others; input that is wrong
    (BadInput) is not. Where memory is not enough for all workers of a host, fewer run at a time (`Task.memory`). Ctrl-C
    ends the workers here, and takes back what waits elsewhere. Raises BadInput where the engine cannot start.
    """
    folder, how = Path(folder), how.shared_out()
    if how.here:
        workers, why = workers_that_fit(how.workers, most_memory(tasks), memory_available())
        how = replace(how, workers=workers)
        if why:
            print(why, file=sys.stderr)
    left, failed, trial = list(tasks), {}, 0
    with tqdm(total=len(tasks), desc=f"{how.engine} × {how.workers}", unit="task", disable=not progress) as bar:
        try:
            for trial in range(how.retries + 1):
                by_key, again = {task.key: task for task in left}, set()
                with closing(ENGINES[how.engine](left, how, folder, trial)) as outcomes:
                    for outcome in outcomes:
                        task = by_key[outcome.key]
                        if outcome.reason is not None and outcome.again and trial < how.retries:
                            again.add(task.key)
                            continue
                        if outcome.said and progress:
                            bar.write(outcome.said)
                        bar.update()
                        if outcome.reason is not None:
                            failed[task.key] = outcome.reason
                            note(folder, task, "failed", trial, reason=outcome.reason)
                left = [task for task in tasks if task.key in again]  # in their first order
                if not left:
                    break
        except BaseException:
            for task in left:
                if is_running(folder, task.key, trial):
                    note(folder, task, "stopped", trial)
            raise
    return failed
