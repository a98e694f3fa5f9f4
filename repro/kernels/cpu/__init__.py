"""Kernels for CPUs, compiled by numba. Compiled code lies beside them, or in cache_dir() where that is read-only."""

from pathlib import Path

from numba.core import config

from repro.base.files import cache_dir, writable

if not config.CACHE_DIR and not writable(Path(__file__).parent / "__pycache__"):  # type: ignore[attr-defined]
    config.CACHE_DIR = str(cache_dir() / "numba")  # type: ignore[attr-defined]
