"""A pytest plugin (-p repro.bench.outcomes): each test's outcome is in a file as soon as it is known.

A test that hangs or kills the process loses only itself: the file says which test was running. Lines are JSON:
{"planned": [ids]}, {"start": id}, {"test": id, "outcome": ..., "seconds": ..., "reason": ...}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STICKY = (
    "CUDA error",
    "illegal memory access",
    "device-side assert",
    "misaligned address",
    "unspecified launch failure",
)
"""What a failure says after which every later call on this GPU fails in the same process."""
LENGTH = 300  # letters of a reason


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("outcomes")
    group.addoption("--outcomes", default="", help="file that outcomes are appended to")
    group.addoption("--outcomes-part", default="0/1", help="run only tests i, i + n, i + 2 n, ... (i/n)")
    group.addoption("--outcomes-skip", default="", help="file of ids, one a line, that are not run")


def pytest_configure(config: Any) -> None:
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(config), "outcomes-writer")


class Outcomes:
    """Writes the lines, chooses the tests, and ends a session whose GPU has failed."""

    def __init__(self, config: Any):
        self.file = Path(config.getoption("--outcomes"))
        self.part, self.parts = (int(number) for number in config.getoption("--outcomes-part").split("/"))
        skip = config.getoption("--outcomes-skip")
        self.skip = set(Path(skip).read_text().splitlines()) if skip else set()
        self.session: Any = None
        self.reports: dict[str, dict[str, Any]] = {}

    def write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session

    def pytest_collection_finish(self, session: Any) -> None:
        items = session.items[self.part :: self.parts]
        session.items[:] = [item for item in items if item.nodeid not in self.skip]
        self.write({"planned": [item.nodeid for item in session.items]})

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.write(outcome_of(report.nodeid, "failed", 0.0, reason_of(report)))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.write({"start": nodeid})

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Three reports a test (setup, call, teardown): the worst outcome and the sum of the seconds."""
        row = self.reports.setdefault(report.nodeid, outcome_of(report.nodeid, "passed", 0.0, ""))
        row["seconds"] = round(row["seconds"] + report.duration, 3)
        if report.failed or (report.skipped and row["outcome"] == "passed"):
            row["outcome"], row["reason"] = ("failed" if report.failed else "skipped"), reason_of(report)
        if report.when == "teardown":
            self.write(self.reports.pop(report.nodeid))
            if row["outcome"] == "failed" and any(
                words in str(report.longrepr or "") + row["reason"] for words in STICKY
            ):
                self.session.shouldstop = "the GPU has failed in this process"


def outcome_of(test: str, outcome: str, seconds: float, reason: str) -> dict[str, Any]:
    """A line of the file."""
    return {"test": test, "outcome": outcome, "seconds": seconds, "reason": reason}


def reason_of(report: Any) -> str:
    """Why a test failed or was skipped, in one line: the last line of the error."""
    found = report.longrepr
    if isinstance(found, tuple):  # a skip: file, line, words
        text = str(found[2])
    else:
        crash = getattr(found, "reprcrash", None)
        text = str(crash.message) if crash is not None else str(found)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:LENGTH]
