"""The engines of a fan-out: processes of this machine (joblib), a dask cluster, Slurm jobs (submitit)."""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput, optional
from repro.base.memory import memory_available, resident, workers_that_fit
from repro.jobs.task import Fanout, Outcome, Task, is_running, most_memory
from repro.jobs.worker import attempt, leave_interrupts

ALONE = 1  # retries run with so many workers, so that one that kills its pool takes nobody with it


def _local(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Generator[Outcome]:
    from joblib.externals.loky import ProcessPoolExecutor

    left = {task.key: task for task in tasks}
    workers = how.workers if trial == 0 else ALONE
    env = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(how.threads)) | {"OMP_WAIT_POLICY": "passive"}
    env["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"  # says what killed workers left
    while left:
        before, queue = len(left), list(left.values())[::-1]
        futures: dict[Future[Outcome], str] = {}
        pool = ProcessPoolExecutor(min(workers, len(left)), env=env, initializer=leave_interrupts)
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
    with optional():
        from distributed import Client, LocalCluster, as_completed
    with ExitStack() as stack:
        where: Any = how.scheduler
        if where is None:
            where = stack.enter_context(
                LocalCluster(n_workers=how.workers, threads_per_worker=1, memory_limit=0, dashboard_address=None)
            )  # its own limit, a core's share of the memory, kills workers that fit
        try:
            client = stack.enter_context(Client(where, timeout="20s"))
        except (OSError, TimeoutError, ValueError) as refused:
            raise BadInput(
                f"No dask scheduler answers at {where} ({type(refused).__name__}); check its address."
            ) from None
        if any(threads > 1 for threads in client.nthreads().values()):  # threads and a GPU belong to a process
            raise BadInput(f"Workers of {where} run several tasks in a process; start them with --nthreads 1.")
        common = how, folder.resolve(), trial, {} if how.here else _at_a_time(client, tasks)
        names = {
            client.submit(attempt, task, *common, key=f"{task.key}-{trial}-{time.time_ns()}"): task for task in tasks
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


def _at_a_time(client: Any, tasks: Sequence[Task]) -> dict[str, int]:
    """Host -> how many of its workers may run a task at a time, of hosts whose memory is not enough for all."""
    if not most_memory(tasks):
        return {}
    each, most = resident() + most_memory(tasks), {}
    workers_of = client.run(_host, on_error="ignore").values()
    for host, free, limit in {host: (host, free, limit) for host, free, limit in workers_of}.values():
        n_workers = sum(name == host for name, _, _ in workers_of)
        fit, why = workers_that_fit(n_workers, most_memory(tasks), free, host)
        if why:
            print(why, file=sys.stderr)
        if limit and each > 0.95 * limit:  # where dask's nannies end them
            worker = (
                f"A worker takes about {each / 1e9:.1f} GB, and dask ends those of {host} at {0.95e-9 * limit:.1f} GB"
            )
            print(f"{worker}: start them with `--memory-limit 0`.", file=sys.stderr)
        if fit < n_workers:
            most[host] = fit
    return most


def _host(dask_worker: Any) -> tuple[str, int | None, int | None]:
    return socket.gethostname(), memory_available(), dask_worker.memory_manager.memory_limit


def _slurm(tasks: Sequence[Task], how: Fanout, folder: Path, trial: int) -> Generator[Outcome]:
    with optional():
        import submitit
        from submitit.helpers import as_completed
    cluster = how.scheduler or "slurm"
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise BadInput("There is no Slurm here (no sbatch); run on a login node, or try --scheduler local.")
    executor = submitit.AutoExecutor(folder=folder / "jobs" / "%j", cluster=cluster)
    executor.update_parameters(
        name="repro", timeout_min=how.minutes, cpus_per_task=how.threads, slurm_array_parallelism=how.workers
    )
    if how.gpus:
        executor.update_parameters(gpus_per_node=1)
    if most_memory(tasks) and not any(name.startswith("SBATCH_MEM_PER_") for name in os.environ):
        executor.update_parameters(mem_gb=math.ceil((resident() + most_memory(tasks)) / 2**30))
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


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


ENGINES: dict[str, Callable[[Sequence[Task], Fanout, Path, int], Generator[Outcome]]] = {
    "local": _local,
    "dask": _dask,
    "slurm": _slurm,
}
