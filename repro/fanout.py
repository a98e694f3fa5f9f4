"""Fan-out: independent tasks on this machine's cores (joblib), on a dask cluster or on Slurm (submitit).

No scheduler of our own: each engine is a generator over tasks that says how each ended. A task is a function that
writes its own result (`evaluate` keeps a file a row), so nothing but success or a reason travels back, and what was
finished before a crash stays finished.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
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
    (BadInput) is not. Ctrl-C ends the workers here, and takes back what waits elsewhere. Raises BadInput where the
    engine cannot start.
    """
    folder, how = Path(folder), how.shared_out()
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
                            _note(folder, task, "failed", trial, reason=outcome.reason)
                left = [task for task in tasks if task.key in again]  # in their first order
                if not left:
                    break
        except BaseException:
            for task in left:
                if _is_running(folder, task.key, trial):
                    _note(folder, task, "stopped", trial)
            raise
    return failed


def attempt(task: Task, how: Fanout, folder: Path, trial: int) -> Outcome:
    """Run one task in this process; what it raises comes back as a reason."""
    _settle(how)
    begin = time.time()
    _note(folder, task, "running", trial)
    try:
        said = task.function(*task.args)
    except BadInput as error:
        return Outcome(task.key, str(error))
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        return Outcome(task.key, f"{type(error).__name__}: {lines[0] if lines else 'no message'}", again=True)
    _note(folder, task, "done", trial, seconds=round(time.time() - begin, 2))
    return Outcome(task.key, said=said if isinstance(said, str) else None)


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


# --- engines ------------------------------------------------------------------------------------------


def _local(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Generator[Outcome]:
    from joblib.externals.loky import ProcessPoolExecutor

    left = {task.key: task for task in tasks}
    workers = how.workers if trial == 0 else ALONE
    env = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(how.threads)) | {"OMP_WAIT_POLICY": "passive"}
    env["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"  # says what killed workers left
    while left:
        before, queue = len(left), list(left.values())[::-1]
        futures: dict[Future[Outcome], str] = {}
        pool = ProcessPoolExecutor(min(workers, len(left)), env=env, initializer=_leave_interrupts)
        try:
            while queue or futures:
                while queue and len(futures) <= workers:  # loky cannot stop a pool that many tasks wait for
                    task = queue.pop()
                    futures[pool.submit(attempt, task, how, folder, trial)] = task.key
                for future in sorted(wait(futures, return_when=FIRST_COMPLETED).done, key=_broke):
                    key, outcome = futures.pop(future), future.result()
                    del left[key]
                    yield outcome
            pool.shutdown()
        except BrokenProcessPool:
            pool.shutdown(kill_workers=True)
        except BaseException:
            pool.shutdown(kill_workers=True)
            raise
        # when one worker dies, all end; what was not running yet goes on in the next pool
        dead = [key for key in left if _is_running(folder, key, trial)]
        for key in dead if dead or len(left) < before else list(left):  # workers that cannot even start
            del left[key]
            yield Outcome(key, "its worker died (killed, or out of memory)", again=True)


def _broke(future: Future[Outcome]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _dask(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Generator[Outcome]:
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
        if any(threads > 1 for threads in client.nthreads().values()):  # threads and a GPU belong to a process
            raise BadInput(f"Workers of {where} run several tasks in a process; start them with --nthreads 1.")
        names = {
            client.submit(attempt, task, how, folder.resolve(), trial, key=f"{task.key}-{trial}-{time.time_ns()}"): task
            for task in tasks
        }
        for future in as_completed(list(names)):
            error = future.exception()
            key = names[future].key
            if isinstance(error, BadInput):  # a worker that has no GPU would fail every task it is given
                raise error
            yield (
                future.result()
                if error is None
                else Outcome(key, f"{type(error).__name__}: {_first(error)}", again=True)
            )


def _slurm(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Generator[Outcome]:
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
        try:
            for job in as_completed(jobs, poll_frequency=0.2 if cluster == "local" else 10):
                error, key = job.exception(), names[job.job_id].key
                died = Outcome(key, f"{type(error).__name__}: {_first(error)}" if error else None, again=True)
                yield died if error else job.result()
        finally:
            for job in jobs:
                if not job.done():
                    job.cancel(check=False)


ENGINES: dict[str, Callable[[Sequence[Task], Fanout, Path, int], Generator[Outcome]]] = {
    "local": _local,
    "dask": _dask,
    "slurm": _slurm,
}


# --- in a worker --------------------------------------------------------------------------------------


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that started the workers ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _settle(how: Fanout) -> None:
    """Threads and GPU of this process, before it does anything."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # read when torch and numba are imported
        os.environ[name] = str(how.threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(how.threads)
    if how.gpus and how.engine != "slurm" and not _GPU:
        _GPU.append(_own_gpu(how.gpus))


def _own_gpu(count: int) -> Any:
    """Show this process one of the first `count` GPUs it may see that no other worker of this host has; its lock."""
    from filelock import FileLock, Timeout

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(i) for i in range(count)] if given is None else [name.strip() for name in given.split(",")][:count]
    for name in filter(None, devices):
        lock = FileLock(Path(tempfile.gettempdir()) / f"repro-gpu-{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        return lock
    raise BadInput(f"There are more workers than the {count} GPUs of {socket.gethostname()}; lower --workers.")


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
