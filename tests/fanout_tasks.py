"""Tasks for test_fanout.py, importable by its workers."""

import os
import signal
import time
from pathlib import Path

from repro.base.errors import BadInput


def write(folder, name, seconds=0.0):
    """Leave a file that says who wrote it."""
    time.sleep(seconds)
    (Path(folder) / name).write_text(str(os.getpid()))


def own_gpu(folder, name):
    """Say which GPU this process was given, once a second process has said so too."""
    (Path(folder) / name).write_text(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}")
    end = time.monotonic() + 30
    while len({p.read_text().split()[0] for p in Path(folder).glob("gpu-*") if p.read_text()}) < 2:
        assert time.monotonic() < end, "there is only one worker"
        time.sleep(0.05)
    return f"{name} has one"


def alone(folder, name):
    """Fail where another of these tasks runs at the same time."""
    mark = Path(folder) / f"{name}.here"
    mark.touch()
    time.sleep(0.3)
    others = [p.name for p in Path(folder).glob("*.here") if p != mark]
    mark.unlink()
    if others:
        raise ValueError(f"{others} ran at the same time")


def die_once(folder, name):
    """Kill this process on the first call, succeed on the next."""
    mark = Path(folder) / f"{name}.died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, name)


def always_dies(folder, name):
    """Nobody survives this."""
    os.kill(os.getpid(), signal.SIGKILL)


def raises(folder, name):
    """Fail every time, and count how often it was tried."""
    with (Path(folder) / f"{name}.tries").open("a") as f:
        f.write("x")
    raise ValueError("this cannot be computed\nand more")


def leaves(folder, name):
    """End the process, as a program does that was told to."""
    raise SystemExit(3)


def refuses(folder, name):
    """Bad input does not get better by trying again."""
    with (Path(folder) / f"{name}.tries").open("a") as f:
        f.write("x")
    raise BadInput("The file is not an SAE; give one.")
