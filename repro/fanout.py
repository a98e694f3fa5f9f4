"""Fan-out: independent tasks on this machine's cores (joblib), on a dask cluster or on Slurm (submitit).

No scheduler of our own: each engine is a generator over tasks that says how each ended. A task is a function that
writes its own result (`evaluate` keeps a file a row), so nothing but success or a reason travels back, and what was
finished before a crash stays finished.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from repro.config import write_atomically
from repro.errors import BadInput, missing_extra

Engine = Literal["local", "dask", "slurm"]
ALONE = 1  # retries run with so many workers, so that one that kills its pool takes nobody with it
_GPU: list[Any] = []  # this process's GPU lock, held until it ends


@dataclass(frozen=True)
class Fanout:
    """Where tasks run, and what happens to those that fail."""

    engine: Engine = "local"
    workers: int = 1
    """Processes (local), workers of a new local cluster (dask), jobs at a time (slurm)."""
    scheduler: str | None = None
    """dask: address of a running scheduler, tcp://…; slurm: "local" tries the jobs on this machine."""
    threads: int = 1
    """Threads of torch in each worker. Tables are equal to the bit for equal threads, whatever the engine."""
    retries: int = 2
    """How often a task that raised, or whose worker died, is tried again elsewhere."""
    gpus: int = 0
    """GPUs of each host; every worker takes one for itself (CUDA_VISIBLE_DEVICES)."""
    minutes: int = 240
    """slurm: time limit of a job. Partition, account and the like come from SBATCH_* variables."""

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise BadInput(f"engine is '{self.engine}'; it must be one of {', '.join(get_args(Engine))}.")
        if min(self.workers, self.threads, self.minutes) < 1 or min(self.retries, self.gpus) < 0:
            raise BadInput("workers, threads and minutes must be at least 1, retries and gpus at least 0.")
        if self.scheduler is not None and self.engine == "local":
            raise BadInput("--scheduler needs --engine dask (an address) or slurm (local).")


@dataclass(frozen=True)
class Task:
    """function(*args), importable and picklable; `key` names it uniquely and safely as a file."""

    key: str
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended: reason None = done."""

    key: str
    reason: str | None = None
    again: bool = False
    """May another try help?"""


def fan_out(tasks: Sequence[Task], how: Fanout, folder: str | Path, progress: bool = True) -> dict[str, str]:
    """Run all tasks -> {key: reason} of those that failed for good; the state of each is kept in folder/tasks.

    A task that raises, or whose worker dies, is tried again `how.retries` times after the others; input that is wrong
    (BadInput) is not. Raises BadInput where the engine cannot start.
    """
    folder = Path(folder)
    left, failed = list(tasks), {}
    with tqdm(total=len(tasks), desc=f"{how.engine} × {how.workers}", unit="task", disable=not progress) as bar:
        for trial in range(how.retries + 1):
            by_key, again = {task.key: task for task in left}, set()
            for outcome in ENGINES[how.engine](left, how, folder, trial):
                task = by_key[outcome.key]
                if outcome.reason is not None and outcome.again and trial < how.retries:
                    again.add(task.key)
                    continue
                bar.update()
                if outcome.reason is not None:
                    failed[task.key] = outcome.reason
                    _note(folder, task, "failed", trial, reason=outcome.reason)
            left = [task for task in tasks if task.key in again]  # in their first order
            if not left:
                break
    return failed


def attempt(task: Task, how: Fanout, folder: Path, trial: int) -> Outcome:
    """Run one task in this process; what it raises comes back as a reason."""
    _settle(how)
    begin = time.time()
    _note(folder, task, "running", trial)
    try:
        task.function(*task.args)
    except BadInput as error:
        return Outcome(task.key, str(error))
    except Exception as error:
        lines = str(error).strip().splitlines()
        return Outcome(task.key, f"{type(error).__name__}: {lines[0] if lines else 'no message'}", again=True)
    _note(folder, task, "done", trial, seconds=round(time.time() - begin, 2))
    return Outcome(task.key)


def status(folder: str | Path) -> list[dict[str, Any]]:
    """What is known of every task below a folder, done, running, died or failed; died = its process is gone."""
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


# --- engines ------------------------------------------------------------------------------------------


def _local(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Iterator[Outcome]:
    from joblib.externals.loky import ProcessPoolExecutor, as_completed

    left = {task.key: task for task in tasks}
    workers = how.workers if trial == 0 else ALONE
    env = {"OMP_NUM_THREADS": str(how.threads), "OMP_WAIT_POLICY": "passive"}
    while left:
        before = len(left)
        pool = ProcessPoolExecutor(min(workers, len(left)), env=env)
        try:
            futures = {pool.submit(attempt, task, how, folder, trial): key for key, task in left.items()}
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    del left[futures[future]]
                    yield future.result()
        finally:
            pool.shutdown(kill_workers=True)
        # when one worker dies, all end; what was not running yet goes on in the next pool
        dead = [key for key in left if _is_running(folder, key, trial)]
        for key in dead if dead or len(left) < before else list(left):  # workers that cannot even start
            del left[key]
            yield Outcome(key, "its worker died (killed, or out of memory)", again=True)


def _dask(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Iterator[Outcome]:
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise missing_extra("distributed", "cluster") from None
    with ExitStack() as stack:
        where: Any = how.scheduler
        if where is None:
            where = stack.enter_context(
                LocalCluster(n_workers=how.workers, threads_per_worker=1, dashboard_address=None)
            )
        try:
            client = stack.enter_context(Client(where, timeout="20s"))
        except (OSError, TimeoutError, ValueError) as refused:
            raise BadInput(
                f"No dask scheduler answers at {where} ({type(refused).__name__}); check its address."
            ) from None
        names = {
            client.submit(attempt, task, how, folder.resolve(), trial, key=f"{task.key}-{trial}-{time.time_ns()}"): task
            for task in tasks
        }
        for future in as_completed(list(names)):
            error = future.exception()
            key = names[future].key
            yield (
                future.result()
                if error is None
                else Outcome(key, f"{type(error).__name__}: {_first(error)}", again=True)
            )


def _slurm(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Iterator[Outcome]:
    try:
        import submitit
        from submitit.helpers import as_completed
    except ImportError:
        raise missing_extra("submitit", "cluster") from None
    cluster = how.scheduler or "slurm"
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise BadInput("There is no Slurm here (no sbatch); run on a login node, or try --scheduler local.")
    executor = submitit.AutoExecutor(folder=folder / "jobs" / "%j", cluster=cluster)
    executor.update_parameters(
        name="repro", timeout_min=how.minutes, cpus_per_task=how.threads, slurm_array_parallelism=how.workers
    )
    if how.gpus:
        executor.update_parameters(gpus_per_node=1)
    size = how.workers if cluster == "local" else len(tasks)  # the local executor starts all at once
    for start in range(0, len(tasks), size):
        part = tasks[start : start + size]
        n = len(part)
        jobs = executor.map_array(attempt, part, [how] * n, [folder.resolve()] * n, [trial] * n)
        names = {job.job_id: task for job, task in zip(jobs, part, strict=True)}
        for job in as_completed(jobs, poll_frequency=0.2 if cluster == "local" else 10):
            error = job.exception()
            key = names[job.job_id].key
            yield (
                job.result() if error is None else Outcome(key, f"{type(error).__name__}: {_first(error)}", again=True)
            )


ENGINES: dict[str, Callable[[Sequence[Task], Fanout, Path, int], Iterator[Outcome]]] = {
    "local": _local,
    "dask": _dask,
    "slurm": _slurm,
}


# --- in a worker --------------------------------------------------------------------------------------


def _settle(how: Fanout) -> None:
    """Threads and GPU of this process, before it does anything."""
    os.environ["OMP_NUM_THREADS"] = str(how.threads)  # read when torch is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(how.threads)
    if how.gpus and how.engine != "slurm" and not _GPU:
        from filelock import FileLock, Timeout

        for number in range(how.gpus):
            lock = FileLock(Path(tempfile.gettempdir()) / f"repro-gpu-{number}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _GPU.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
            return
        raise BadInput(f"There are more workers than the {how.gpus} GPUs of {socket.gethostname()}; lower --workers.")


def _note(folder: Path, task: Task, state: str, trial: int, **more: Any) -> None:
    about = {"key": task.key, "name": task.name, "state": state, "trial": trial + 1, "host": socket.gethostname()}
    text = json.dumps(about | {"pid": os.getpid(), "time": round(time.time(), 1)} | more)
    write_atomically(folder / "tasks" / f"{task.key}.json", lambda path: path.write_text(text))


def _is_running(folder: Path, key: str, trial: int) -> bool:
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


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
