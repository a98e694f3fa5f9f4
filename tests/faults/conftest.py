"""What the fault suite counts: `pytest tests/faults -m "slow or not slow" --faults-table data/bench/faults.csv`.

A row a family of cases: how many there were, how many were refused with a sentence, how many ended right, and how many
did neither. A family that was run replaces its row; the others stay.
"""

import collections
import csv
import datetime
import subprocess
from pathlib import Path

import pytest

COLUMNS = ("family", "cases", "refused", "right", "failed", "date", "commit")
COUNTED = "faults"


class Tally:
    """Cases of one test; a test that says nothing was one case that ended as its module says."""

    def __init__(self, family):
        self.family, self.counts = family, collections.Counter()

    def refused(self, cases=1):
        """Ended with one sentence, and nothing was made up."""
        self.counts["refused"] += cases

    def right(self, cases=1):
        """Ended in the right numbers or files."""
        self.counts["right"] += cases


@pytest.fixture(autouse=True)
def tally(request):
    """Counts cases within a test."""
    tally = Tally(getattr(request.module, "FAMILY", None))
    yield tally
    counts = dict(tally.counts) or {getattr(request.module, "ENDS", "right"): 1}
    if tally.family is not None:
        request.node.user_properties.append((COUNTED, (tally.family, counts)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What `runs.prepare` makes for the runs of a module."""
    import runs

    folder = tmp_path_factory.mktemp("shared")
    runs.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    """A small store with labels, collected from the bundled model."""
    pytest.importorskip("transformers")
    from repro.activations.collect import collect
    from repro.base.config import DatasetConfig, RunConfig

    data = DatasetConfig("tiny-labels", label_column="label", split="all", max_tokens=300, seq_len=16, packing=False)
    return collect(RunConfig(output_dir=str(tmp_path_factory.mktemp("store")), dataset=data))


def pytest_addoption(parser):
    parser.addoption("--faults-table", type=Path, help="csv that gets a row for every family of faults that was run")


def pytest_configure(config):
    config.pluginmanager.register(Counter(config), "faults-table")


class Counter:
    """Adds up what tests report, also from the processes of xdist, and writes the table at the end."""

    def __init__(self, config):
        self.config, self.bad, self.skipped = config, set(), set()
        self.found = collections.defaultdict(collections.Counter)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.bad.add(report.nodeid)
        if report.skipped:
            self.skipped.add(report.nodeid)
        if report.when != "teardown" or report.nodeid in self.skipped:
            return
        for name, value in report.user_properties:
            if name == COUNTED:
                family, counts = value
                self.found[family].update({"failed": 1} if report.nodeid in self.bad else counts)

    def pytest_sessionfinish(self):
        path = self.config.getoption("faults_table")
        if path is None or hasattr(self.config, "workerinput"):
            return
        rows = {row["family"]: row for row in csv.DictReader(path.open())} if path.is_file() else {}
        git = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
        for family, counts in self.found.items():
            numbers = {name: counts[name] for name in ("refused", "right", "failed")}
            rows[family] = {
                "family": family,
                "cases": sum(numbers.values()),
                **numbers,
                "date": date,
                "commit": git.stdout.strip(),
            }
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[family] for family in sorted(rows))
