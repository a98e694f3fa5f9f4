"""One process at a time on an output folder: a second one is refused with a sentence, or waits."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.base.errors import BadInput


@contextmanager
def only_one(folder: str | Path, command: str, wait: bool = False) -> Iterator[None]:
    """Hold folder/.lock, which is free again when the process ends, however it ends; the file itself stays.

    BadInput if another process holds it, unless `wait`. A folder that cannot be written to needs no lock.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise BadInput(
                f"Another `{command}` is writing to {folder}; wait for it, or choose another folder."
            ) from None
        print(f"Another `{command}` is writing to {folder}; waiting for it.", file=sys.stderr)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    try:
        yield
    finally:
        lock.release()
