"""Run one task in a worker of any engine: its threads, its GPU, its turn, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.base.files import digest
from repro.jobs.task import Fanout, Outcome, Task, note

_GPU: list[Any] = []  # this process's GPU lock, held until it ends


def attempt(task: Task, how: Fanout, folder: Path, trial: int, at_a_time: Mapping[str, int] | None = None) -> Outcome:
    """Run one task in this process; what it raises comes back as a reason.

    at_a_time: host -> how many of its workers may be at it at a time, of hosts where not all may.
    """
    _settle(how)
    with _in_turn(folder, (at_a_time or {}).get(socket.gethostname(), 0)):
        return _attempt(task, folder, trial)


def _attempt(task: Task, folder: Path, trial: int) -> Outcome:
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


def leave_interrupts() -> None:
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


@contextmanager
def _in_turn(folder: Path, most: int) -> Iterator[None]:
    """Wait until fewer than `most` other workers of this host are in here for the same folder; 0 = do not wait."""
    from filelock import FileLock, Timeout

    locks = [FileLock(Path(tempfile.gettempdir()) / f"repro-{digest(str(folder))}-{i}.lock") for i in range(most)]
    while locks and not any(lock.is_locked for lock in locks):
        for lock in locks:
            with suppress(Timeout):
                lock.acquire(timeout=0)
                break
        else:
            time.sleep(0.2)
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


def _own_gpu(count: int) -> Any:
    """Show this process one of the first `count` GPUs it may see that no other worker of this host has; its lock."""
    from filelock import FileLock, Timeout

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = map(str, range(count)) if visible is None else [name.strip() for name in visible.split(",")][:count]
    for name in filter(None, devices):
        lock = FileLock(Path(tempfile.gettempdir()) / f"repro-gpu-{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        return lock
    raise BadInput(f"There are more workers than the {count} GPUs of {socket.gethostname()}; lower --workers.")
