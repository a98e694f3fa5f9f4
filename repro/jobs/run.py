"""Fan-out: independent tasks on this machine's cores (joblib), on a dask cluster or on Slurm (submitit).

No scheduler of our own: each engine (`jobs.engines`) is a generator over tasks that says how each ended. A task is a
function that writes its own result (`evaluate` keeps a file a row), so nothing but success or a reason travels back,
and what was finished before a crash stays finished.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from repro.base.errors import BadInput
from repro.base.files import write_atomically
from repro.base.memory import memory_available, workers_that_fit

Engine = Literal["local", "dask", "slurm"]


@dataclass(frozen=True)
class Fanout:
    """Where tasks run, and what happens to those that fail."""

    engine: Engine = "local"
    """Processes here (local), a dask cluster, or Slurm jobs."""
    workers: int = 1
    """Processes (local), workers of a new local cluster (dask), jobs at a time (slurm)."""
    scheduler: str | None = None
    """dask: address of a running scheduler, tcp://…; slurm: local tries the jobs on this machine."""
    threads: int | None = None
    """Threads of each worker; the cores here divided by the workers if not given. Results are equal to the bit for
    equal threads, whatever the engine."""
    retries: int = 2
    """How often a task that raised, or whose worker died, is tried again elsewhere."""
    gpus: int = 0
    """GPUs of each host; every worker takes one for itself (CUDA_VISIBLE_DEVICES)."""
    minutes: int = 240
    """slurm: time limit of a job. Partition, account and the like come from SBATCH_* variables."""
    stage: str | None = None
    """Folder on a disk of each host, such as '$TMPDIR': its workers read one copy of the activations there."""

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise BadInput(f"engine is '{self.engine}'; it must be one of {', '.join(get_args(Engine))}.")
        if (
            min(self.workers, self.minutes, 1 if self.threads is None else self.threads) < 1
            or min(self.retries, self.gpus) < 0
        ):
            raise BadInput("workers, threads and minutes must be at least 1, retries and gpus at least 0.")
        if self.scheduler is not None and self.engine == "local":
            raise BadInput("--scheduler needs --engine dask (an address) or slurm (local).")
        if 0 < self.gpus < self.workers and self.engine != "slurm" and self.scheduler is None:
            raise BadInput(f"{self.workers} workers cannot have one of {self.gpus} GPUs each; lower --workers.")

    @property
    def apart(self) -> bool:
        """Do tasks run in other processes than this one?"""
        return self.workers > 1 or self.engine != "local"

    @property
    def here(self) -> bool:
        """Do all workers run on this machine?"""
        return self.engine == "local" or (self.scheduler == "local" if self.engine == "slurm" else not self.scheduler)

    def shared_out(self) -> Fanout:
        """With a number of threads: the cores of this machine, at most $OMP_NUM_THREADS, among the workers."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given = os.environ.get("OMP_NUM_THREADS", "")
        most = max(1, int(given)) if given.isdecimal() else cores
        return replace(self, threads=self.threads or max(1, min(cores // self.workers, most)))


@dataclass(frozen=True)
class Task:
    """function(*args), importable and picklable; `key` names it uniquely and safely as a file.

    A text that the function returns is printed when it has ended.
    """

    key: str
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    memory: int = 0
    """Bytes that it is estimated to take beyond what this process has taken; 0 = unknown."""


def most_memory(tasks: Sequence[Task]) -> int:
    """Bytes that the largest of them takes."""
    return max((task.memory for task in tasks), default=0)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: reason None = done."""

    key: str
    reason: str | None = None
    again: bool = False
    """May another try help?"""
    said: str | None = None
    """A line for whoever watches."""


def fan_out(tasks: Sequence[Task], how: Fanout, folder: str | Path, progress: bool = True) -> dict[str, str]:
    """Run all tasks -> {key: reason} of those that failed for good; the state of each is kept in folder/tasks.

    A task that raises, or whose worker dies, is tried again `how.retries` times after the others; input that is wrong
    (BadInput) is not. Where memory is not enough for all workers of a host, fewer run at a time (`Task.memory`). Ctrl-C
    ends the workers here, and takes back what waits elsewhere. Raises BadInput where the engine cannot start.
    """
    from repro.jobs.engines import ENGINES

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


def status(folder: str | Path) -> list[dict[str, Any]]:
    """What is known of every task below a folder: done, running, stopped, failed, or died = its process is gone."""
    found = []
    for path in sorted(Path(folder).rglob("tasks/*.json")):
        try:
            state = json.loads(path.read_text())
        except ValueError:
            raise BadInput(f"{path} is not a task's state; delete it and run again.") from None
        if state["state"] == "running" and state["host"] == socket.gethostname() and not _alive(state["pid"]):
            state["state"] = "died"
        found.append(state)
    return found


def note(folder: Path, task: Task, state: str, trial: int, **more: Any) -> None:
    """Keep the state of a task in folder/tasks, for `status`."""
    about = {"key": task.key, "name": task.name, "state": state, "trial": trial + 1, "host": socket.gethostname()}
    text = json.dumps(about | {"pid": os.getpid(), "time": round(time.time(), 1)} | more)
    write_atomically(folder / "tasks" / f"{task.key}.json", lambda path: path.write_text(text))


def is_running(folder: Path, key: str, trial: int) -> bool:
    """Was a task begun in this trial, and not ended?"""
    try:
        state = json.loads((folder / "tasks" / f"{key}.json").read_text())
    except (OSError, ValueError):
        return False
    return state["state"] == "running" and state["trial"] == trial + 1


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
