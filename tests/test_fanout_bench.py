"""The benchmark of several workers: its costs by hand, and rows of real runs. Nothing here is timed."""

import csv

import pytest
import torch

from repro import bench
from repro.bench.scale import _costs


def test_costs_by_hand():
    """Two workers, three tasks of 4, 4 and 2 s, the first begun at 10, the last ended at 18: 16 s for 10 of work."""
    tasks = [{"time": 14.0, "seconds": 4.0}, {"time": 15.0, "seconds": 4.0}, {"time": 18.0, "seconds": 2.0}]
    found = _costs(tasks, 2, 11.5)
    assert found == {"seconds_around": 3.5, "seconds_of_work": 10.0, "overhead_seconds_a_task": 2.0}


@pytest.mark.parametrize("engines", [(), pytest.param(("local", "dask", "slurm"), marks=pytest.mark.slow)])
def test_every_engine_makes_the_same_table(engines, tmp_path):
    sizes = ("--checkpoints", "2", "--tokens", "250", "--d", "16", "--m", "64", "--k", "4")
    before = torch.get_num_threads()
    path = bench.run(["scale", *sizes, "--workers", "2", "--engines", *engines, "--out", str(tmp_path)])
    torch.set_num_threads(before)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows] == ["this process", *engines]
    assert all(row["identical"] == "True" and row["rows"] == "6" for row in rows)
