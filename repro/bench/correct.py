"""The tests that a GPU decides, several processes at a time, and memcheck of each kernel: a table that grows at once.

A test that hangs is killed, one that breaks the GPU for its process ends that process; both become rows, and a new
process goes on with the tests that are left.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro.base.errors import BadInput
from repro.base.files import repo_root, write_atomically
from repro.base.machine import pick_device
from repro.bench.common import flag, machine, table
from repro.bench.outcomes import LENGTH, outcome_of

TESTS = ("tests/test_gpu.py", "tests/test_ops.py", "tests/test_solvers.py", "tests/test_pursuit_triton.py")
"""Files whose tests run on a GPU (mark gpu): kernels, operations, solvers, whole solves, training, evaluation."""
SANITIZER = "compute-sanitizer"
REPORTED = re.compile(r"^=+ (Invalid|Misaligned|Out-of-range|Program hit|Unused|Error: )")
POLL = 0.3  # seconds between two looks


@dataclass(frozen=True)
class Correct:
    """Run the marked tests and the sanitizer side by side; write correct.csv anew after every outcome."""

    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: the GPU where there is one")
    tests: tuple[str, ...] = flag(TESTS, "files with tests")
    marks: str = flag("", "pytest -m; gpu on a GPU if not given")
    keyword: str = flag("", "pytest -k")
    workers: int = flag(4, "processes: they compile kernels side by side; a GPU is shared well by small tests")
    each: float = flag(60.0, "seconds after which a test is killed")
    seconds: float = flag(130.0, "seconds after which everything is stopped and the table says what was not run")
    memcheck: bool = flag(True, "run each kernel under compute-sanitizer, where it is installed")
    out: Path | None = flag(None, "folder of correct.csv; data/bench if not given")

    def run(self) -> Path:
        """Write a row a test and kernel to correct.csv; RuntimeError counts those that did not pass."""
        if self.workers < 1:
            raise BadInput(f"workers must be at least 1, not {self.workers}.")
        device, begin = pick_device(self.device), time.monotonic()
        path, facts = table("correct", self.out), machine("triton", "pytest", device=device)
        with tempfile.TemporaryDirectory() as name:
            folder, shown = Path(name), 0
            workers = [Worker(folder, f"{i}/{self.workers}", self._pytest(device)) for i in range(self.workers)]
            sanitizer = Sanitizer(folder, device) if self.memcheck else None
            while True:
                late = time.monotonic() - begin > self.seconds
                running = [worker.look(self.each, late) for worker in workers]
                if sanitizer:
                    running.append(sanitizer.look(late))
                rows = [row for worker in workers for row in worker.rows()]
                rows += sanitizer.rows() if sanitizer else []
                if len(rows) > shown or not any(running):
                    save(path, [row | facts for row in rows])
                    for row in rows[shown:] if not any(running) else []:
                        if row["outcome"] not in ("passed", "skipped"):
                            print(f"{row['outcome']}: {row['test']}: {row['reason']}", flush=True)
                    shown = shown if any(running) else len(rows)
                if not any(running):
                    break
                time.sleep(POLL)
        counts = {o: sum(row["outcome"] == o for row in rows) for o in dict.fromkeys(row["outcome"] for row in rows)}
        print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "no test ran", flush=True)
        bad = {outcome: n for outcome, n in counts.items() if outcome not in ("passed", "skipped")}
        if bad or not counts.get("passed"):
            told = ", ".join(f"{n} {outcome}" for outcome, n in bad.items()) or "no test passed"
            raise RuntimeError(f"{told}; see {path}.")
        return path

    def _pytest(self, device: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "repro.bench.outcomes", "-p", "no:cacheprovider"]
        marks = self.marks or ("gpu" if device == "cuda" else "not slow")
        command += ["-m", marks, *self.tests]
        return command + (["-k", self.keyword] if self.keyword else [])


@dataclass
class Worker:
    """One pytest process and those that come after it; `lines` of its file are what is known."""

    folder: Path
    part: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    planned: list[str] = field(default_factory=list)
    current: str | None = None
    since: float = 0.0
    read: int = 0
    idle_starts: int = 0
    """Processes in a row that ended before any outcome."""

    def __post_init__(self) -> None:
        self.name = self.part.replace("/", "of")
        self.file, self.log = self.folder / f"{self.name}.jsonl", self.folder / f"{self.name}.log"
        self.file.touch()
        self._start()

    def _start(self) -> None:
        skip = self.folder / f"{self.name}.skip"
        skip.write_text("\n".join(self.outcomes))
        given = ["--outcomes", str(self.file), "--outcomes-part", self.part, "--outcomes-skip", str(skip)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command + given, cwd=repo_root(), stdout=log, stderr=log)
        self.current, self.since = None, time.monotonic()
        self.before = len(self.outcomes)

    def look(self, each: float, late: bool) -> bool:
        """Read what is new, end what hangs, start again where tests are left; False when nothing is left to do."""
        if self.process is None:
            return False
        code = self.process.poll()
        self._read()
        hanging = self.current is not None and time.monotonic() - self.since > each
        if code is None and not hanging and not late:
            return True
        if code is None:
            self.process.kill()
            self.process.wait()
            self._read()
        if self.current is not None and self.current not in self.outcomes:
            spent = time.monotonic() - self.since
            what = "stopped" if late else "timed out" if code is None else "crashed"
            reason = f"killed after {spent:.0f} s" if code is None else f"exit status {code}: {self._tail()}"
            self.outcomes[self.current] = outcome_of(self.current, what, round(spent, 3), reason)
        self.process = None
        left = [test for test in self.planned if test not in self.outcomes]
        if late:
            for test in left:
                self.outcomes[test] = outcome_of(test, "not run", 0.0, "out of time")
            if not self.planned:
                self.outcomes[self.part] = outcome_of(f"part {self.part}", "not run", 0.0, "out of time")
        elif code not in (0, 1, 2, 5, None) and not self.planned:
            self.outcomes[self.part] = outcome_of(f"part {self.part}", "failed", 0.0, self._tail())
        elif left and self.idle_starts < 2:
            self.idle_starts = self.idle_starts + 1 if len(self.outcomes) == self.before else 0
            self._start()
            return True
        else:
            for test in left:
                self.outcomes[test] = outcome_of(test, "not run", 0.0, self._tail())
        return False

    def _read(self) -> None:
        with self.file.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the rest of a line that is being written comes next time
        self.read += len(whole)
        for line in map(json.loads, whole.splitlines()):
            if "planned" in line:
                self.planned = list(dict.fromkeys([*self.planned, *line["planned"]]))
            elif "start" in line:
                self.current, self.since = line["start"], time.monotonic()
            else:
                self.outcomes[line["test"]] = line
                self.current = None

    def _tail(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " ".join(lines[-3:])[-LENGTH:]

    def rows(self) -> list[dict[str, Any]]:
        """What is known so far."""
        return list(self.outcomes.values())


class Sanitizer:
    """memcheck of the kernels; without compute-sanitizer they run without it, and every row says so."""

    def __init__(self, folder: Path, device: str):
        self.present = shutil.which(SANITIZER) is not None and device == "cuda"
        self.log, self.begin = folder / "memcheck.log", time.monotonic()
        command = [sys.executable, "-m", "repro.bench.memcheck", device]
        if self.present:
            # every tensor gets memory of its own, else a write past its end hits another tensor unseen
            options = ["--tool", "memcheck", "--report-api-errors", "no", "--target-processes", "application-only"]
            command = [SANITIZER, *options, *command]
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} | ({} if device == "cuda" else {"TRITON_INTERPRET": "1"})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=repo_root(), stdout=log, stderr=subprocess.STDOUT, env=os.environ | alone
            )
        self.ended = ""

    def look(self, late: bool) -> bool:
        """Is it still running?"""
        if self.ended:
            return False
        code = self.process.poll()
        if code is None and late:
            self.process.kill()
            self.process.wait()
            self.ended = "out of time"
        elif code is not None:
            self.ended = f"exit status {code}"
        return not self.ended

    def rows(self) -> list[dict[str, Any]]:
        return read_memcheck(self.log.read_text(errors="replace"), self.present, self.ended)


def read_memcheck(text: str, present: bool, ended: str) -> list[dict[str, Any]]:
    """A row a kernel from what `repro.bench.memcheck` and the sanitizer printed; `ended`: how, "" while it runs."""
    out: list[dict[str, Any]] = []
    for part in text.split("kernel: ")[1:]:
        name, _, rest = part.partition("\n")
        lines = rest.splitlines()
        reports = [line.strip("= ") for line in lines if REPORTED.match(line)]
        done = any(line == f"done: {name}" for line in lines)
        errors = [line for line in lines if line.startswith("error: ")]
        if reports or errors:
            row = outcome_of(name, "failed", 0.0, f"{len(reports)} reports: {' '.join([*reports, *errors])}"[:LENGTH])
        elif not done:
            if not ended:
                continue  # at work on it
            row = outcome_of(name, "crashed", 0.0, f"{ended}: {' '.join(lines[-2:])}"[:LENGTH])
        elif present:
            row = outcome_of(name, "passed", 0.0, "")
        else:
            row = outcome_of(name, "skipped", 0.0, f"no {SANITIZER} on a GPU here; the kernel ran without it")
        out.append(row | {"test": f"memcheck {name}"})
    if ended and not out:
        out.append(outcome_of("memcheck", "failed", 0.0, f"{ended}: {text[-LENGTH:]}".replace("\n", " ")[-LENGTH:]))
    return out


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as csv, whole; what the file held is replaced."""

    def write(draft: Path) -> None:
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["test"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)
