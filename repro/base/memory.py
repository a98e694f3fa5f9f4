"""How much memory processes may take here: what the machine has free, its cgroups' limits and their own; who fits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def memory_available(root: Path = ROOT) -> int | None:
    """Bytes that processes here may still take together: the least of what is free and what each cgroup above leaves.

    None where nobody knows. `root` holds proc/ and sys/.
    """
    rooms = [room for room in (_free(root), *_cgroups(root)) if room is not None]
    return max(0, min(rooms)) if rooms else None


def workers_that_fit(workers: int, task: int, free: int | None, host: str = "") -> tuple[int, str]:
    """(how many workers run at once, why fewer than asked for) where each task takes so many bytes more than a process
    like this one, and so many are free.

    At least one runs: the estimate may be too high. What limits every process by itself (ulimit -v) is told, but lowers
    no number of workers.
    """
    if not task or free is None:
        return workers, ""
    each, own = resident() + task, address_space_left()
    fit = max(1, min(workers, free // each))
    why = [f"{_gb(free)} are free{host and ' on '}{host}"] if fit < workers or free < each else []
    why += [f"a process may map {_gb(own)} more (ulimit -v)"] if own is not None and own < task else []
    if not why:
        return fit, ""
    then = f"{fit} of {workers} run at a time" if fit < workers else "one may not fit"
    return fit, f"A worker takes about {_gb(each)} and {', '.join(why)}: {then}."


def sae_bytes(d: int, m: int) -> int:
    """Bytes of an SAE's weights in float32: two matrices and two biases."""
    return 4 * (2 * d * m + m + d)


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say (no Linux)."""
    return _statm(1)


def address_space_left() -> int | None:
    """Bytes that this process may still map under its own limit (ulimit -v); None without one."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else max(0, limit - _statm(0))


def _statm(field: int) -> int:
    try:
        pages = int((ROOT / "proc/self/statm").read_text().split()[field])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _free(root: Path) -> int | None:
    fields = _fields(root / "proc/meminfo")
    if "MemAvailable:" in fields:
        return fields["MemAvailable:"] * 1024
    if sys.platform != "linux":
        try:
            import psutil
        except ImportError:
            return None
        return int(psutil.virtual_memory().available)
    return None


def _cgroups(root: Path) -> Iterator[int]:
    """What every cgroup of this process, from its own up, has left of its limit: version 2 and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for part in (inner, *inner.parents):
            folder = root / top / part
            most, taken = _number(folder / limit), _number(folder / used)
            if most is not None and taken is not None:  # files that were read and are not in use make room when asked
                yield most - taken + _fields(folder / "memory.stat").get(cache, 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
