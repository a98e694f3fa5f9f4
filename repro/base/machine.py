"""What a result ran on: commit, device, versions, time; and the device that a flag means. No torch at import."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repro.base.errors import BadInput
from repro.base.files import ROOT, in_clone


def commit() -> str:
    """Short hash of the clone's commit, with -dirty where files have changed since; elsewhere the package's version."""
    if not in_clone():
        return f"repro {importlib.metadata.version('repro')}"
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def processor() -> str:
    """The processor's model name as Linux reports it, elsewhere what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def pick_device(name: str) -> str:
    """Resolve auto to cuda where there is one, else cpu; BadInput for a CUDA device on a machine without any."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput("There is no CUDA device here; use --device cpu (or auto).")
    return name


def versions(libraries: Iterable[str] = ("torch",)) -> dict[str, str]:
    """Versions of Python and of those of the libraries that are installed."""
    installed = {"python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[library] = importlib.metadata.version(library)
    return installed


def provenance(libraries: Iterable[str] = ("torch",), device: str = "auto") -> dict[str, Any]:
    """Commit, name of the device with the threads of a processor, versions, and the time (UTC) of this run."""
    import torch

    on_gpu = pick_device(device) != "cpu"
    return {
        "commit": commit(),
        "device": torch.cuda.get_device_name() if on_gpu else f"{processor()}, {torch.get_num_threads()} threads",
        **versions(libraries),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
