"""Which sources ran, and on what: the commit of the checkout and the processor's name."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from repro.base.config import repo_root


def commit() -> str:
    """Short hash of the checkout's commit, with -dirty where files have changed since; unknown outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=repo_root(), capture_output=True, text=True, check=True, timeout=10)
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
