"""The engines of a fan-out: this machine's processes, dask, Slurm; and what each of their workers does with a task."""

from __future__ import annotations

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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from repro.errors import BadInput, missing_extra
from repro.fanout import Fanout, Outcome, Task, is_running, note

ALONE = 1  # retries run with so many workers, so that one that kills its pool takes nobody with it
_GPU: list[Any] = []  # this process's GPU lock, held until it ends


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
        dead = [key for key in left if is_running(folder, key, trial)]
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


def attempt(task: Task, how: Fanout, folder: Path, trial: int) -> Outcome:
    """Run one task in this process; what it raises comes back as a reason."""
    _settle(how)
    begin = time.time()
    note(folder, task, "running", trial)
    try:
        said = task.function(*task.args)
    except BadInput as error:
        return Outcome(task.key, str(error))
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        return Outcome(task.key, f"{type(error).__name__}: {lines[0] if lines else 'no message'}", again=True)
    note(folder, task, "done", trial, seconds=round(time.time() - begin, 2))
    return Outcome(task.key, said=said if isinstance(said, str) else None)


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


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
