"""A task, where it may run (`Fanout`), how it ended (`Outcome`), and its state on disk for `repro status`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from repro.base.errors import BadInput
from repro.base.files import write_atomically

Engine = Literal["local", "dask", "slurm"]


@dataclass(frozen=True)
class Fanout:
    """Engine, workers and limits of a fan-out, and how often a failed task is tried again."""

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
        """True if tasks run in other processes than this one."""
        return self.workers > 1 or self.engine != "local"

    @property
    def here(self) -> bool:
        """True if all workers run on this machine."""
        return self.engine == "local" or (self.scheduler == "local" if self.engine == "slurm" else not self.scheduler)

    def shared_out(self) -> Fanout:
        """With a number of threads: the cores of this machine, at most $OMP_NUM_THREADS, among the workers."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = os.environ.get("OMP_NUM_THREADS", "")
        most = max(1, int(limit)) if limit.isdecimal() else cores
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
    """End of a task: reason None = done."""

    key: str
    reason: str | None = None
    again: bool = False
    """May another try help?"""
    said: str | None = None
    """A line for whoever watches."""


def status(folder: str | Path) -> list[dict[str, Any]]:
    """State of every task below a folder: done, running, stopped, failed, or died = its process is gone."""
    states = []
    for path in sorted(Path(folder).rglob("tasks/*.json")):
        try:
            state = json.loads(path.read_text())
        except ValueError:
            raise BadInput(f"{path} is not a task's state; delete it and run again.") from None
        if state["state"] == "running" and state["host"] == socket.gethostname() and not _alive(state["pid"]):
            state["state"] = "died"
        states.append(state)
    return states


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
