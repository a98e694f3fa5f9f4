"""Compiled passes over rows in as many threads as torch uses; numba functions that release the GIL."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

PARTS = 4  # parts a thread, so that an unlucky one does not hold up the rest


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Kept between calls; a forked process makes its own, because threads do not survive a fork."""
    return ThreadPoolExecutor(threads)


def over(n: int, function: Callable[..., Any], *arguments: Any, least: int = 1) -> list[Any]:
    """function(start, stop, *arguments) for parts of range(n) in order, each of `least` or more; tensors as arrays."""
    arrays = [a.detach().contiguous().numpy() if isinstance(a, Tensor) else a for a in arguments]
    threads = torch.get_num_threads()
    parts = min(PARTS * threads, n // max(1, least))
    if threads <= 1 or parts < 2:
        return [function(0, n, *arrays)]
    ends = [n * part // parts for part in range(parts + 1)]
    return list(_pool(os.getpid(), threads).map(lambda a, b: function(a, b, *arrays), ends[:-1], ends[1:]))
