"""A task for test_stage.py: copy a store at the same time as another worker."""

import json
import os
import time
from pathlib import Path

from repro.activations import stage


def copy(path, folder, name):
    """Leave which file this process reads, and how many copies it made itself."""
    made, whole = [], stage._copy

    def counted(*args):
        made.append(args)
        time.sleep(0.5)
        whole(*args)

    stage._copy = counted
    (Path(folder) / f"{name}.here").touch()
    end = time.monotonic() + 30
    while len(list(Path(folder).glob("*.here"))) < 2:
        assert time.monotonic() < end, "there is only one worker"
        time.sleep(0.02)
    found = stage.staged(path, Path(folder) / "disk")
    about = {"pid": os.getpid(), "inode": found.stat().st_ino, "copies": len(made)}
    (Path(folder) / name).write_text(json.dumps(about))
