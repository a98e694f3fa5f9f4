"""What all benchmarks share: the machine in words, a clock, a memory gauge, a csv that only grows."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from repro.base.files import repo_root, write_atomically
from repro.base.machine import provenance


def flag(default: Any, help: str) -> Any:
    """A dataclass field with the help text of its command-line flag."""
    return field(default=default, metadata={"help": help})


def table(name: str, out: Path | None) -> Path:
    """Where rows go: OUT/name.csv, or data/bench/name.csv of the checkout."""
    return (out or repo_root() / "data" / "bench") / f"{name}.csv"


def machine(*packages: str, device: str = "cpu") -> dict[str, str]:
    """Device, threads, versions, commit and date: what a timing means nothing without."""
    about = provenance(("torch", "numpy", *packages), device)
    return about | {"date": about.pop("finished")[:16].replace("T", " ")}


class Table:
    """A csv that grows by a row as soon as it is measured; each row says on which machine.

    shown: columns that are also printed, where they have a value; all if not given.
    """

    def __init__(self, name: str, out: Path | None, *packages: str, device: str = "cpu", shown: Sequence[str] = ()):
        self.path, self.facts, self.shown = table(name, out), machine(*packages, device=device), shown

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, its numbers in six digits, and print it; facts in the row replace those of the machine."""
        row = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        append(self.path, [row | {k: v for k, v in self.facts.items() if k not in row}])
        print({k: row[k] for k in self.shown or row if row.get(k, "") != ""}, flush=True)


def sizes(shape: str) -> tuple[int, int]:
    """(d, m) of a shape like 768x16384."""
    d, m = shape.lower().split("x")
    return int(d), int(m)


def timed(run: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """The result and the seconds it took, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


class HostEvent:
    """torch.cuda.Event where there is no GPU: the clock of this process, so that the same lines run everywhere."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing is queued."""

    def elapsed_time(self, end: HostEvent) -> float:
        """Milliseconds from this event to `end`."""
        return 1000 * (end.seconds - self.seconds)


def event(device: str) -> Any:
    """A point in a device's queue whose time can be read: record(), synchronize(), elapsed_time(end) in ms."""
    return torch.cuda.Event(enable_timing=True) if device == "cuda" else HostEvent()


FLUSH = {"cuda": 2**26, "cpu": 0}
"""Numbers that are overwritten before each timing, more than a GPU's cache holds; operations get cold inputs, as in
use. It also keeps the queue filled while Python prepares the launch."""
WARM = {"cuda": 3, "cpu": 1}  # untimed runs: compilation, handles, memory pools
SLOW = 0.5  # seconds above which a run is timed once


def milliseconds(run: Callable[[], Any], device: str = "cpu", repeats: int = 10) -> float:
    """Median time of a run in ms: events around each of `repeats` runs after warm ones; one run if it is slow."""
    for _ in range(WARM[device]):
        run()
    _, seconds = timed(run, device)
    if seconds > SLOW:
        return 1000 * seconds
    cache = torch.empty(FLUSH[device], device=device)
    pairs = [(event(device), event(device)) for _ in range(max(1, repeats))]
    for start, end in pairs:
        cache.zero_()
        start.record()
        run()
        end.record()
    pairs[-1][1].synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


def peak_memory(reset: bool = False, device: str = "cpu") -> float:
    """Largest memory since the last reset in MiB: allocated on the GPU, or resident in this process (Linux)."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return float("nan")


class Metered(NamedTuple):
    """What a run returned and took; memory in MiB, `extra` beyond what was there before."""

    result: Any
    seconds: float
    peak: float
    extra: float


def metered(run: Callable[[], Any], device: str = "cpu") -> Metered:
    """Run, with a clock and a memory gauge."""
    before = peak_memory(reset=True, device=device)
    result, seconds = timed(run, device)
    peak = peak_memory(device=device)
    return Metered(result, seconds, peak, max(peak - before, 0.0))


def metered_items(items: Iterator[Any], device: str = "cpu") -> Iterator[Metered]:
    """Each item of an iterator as soon as it is there, with what it took."""
    while (item := metered(lambda: next(items, None), device)).result is not None:
        yield item


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a csv; where the columns have changed, old rows get empty cells. Written whole, then renamed."""
    old: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as f:
            old = list(csv.DictReader(f))
    write_rows(path, [*old, *rows])


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a csv, whole, with the columns of all rows; what the file held is replaced."""
    columns = list(dict.fromkeys([k for row in rows for k in row]))

    def write(draft: Path) -> None:
        with draft.open("w", newline="") as f:
            writer = csv.DictWriter(f, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
