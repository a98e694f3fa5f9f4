"""How much memory is left, read from systems made of files, and how many workers fit into it, by hand."""

import resource
import sys

import pytest

from repro.base import memory
from repro.base.memory import memory_available, workers_that_fit

GB = 10**9


def system(root, cgroup, **files):
    """A root folder with 8,000,000 kB free, /proc/self/cgroup, and files: path with __ for / -> text."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\nHugePages_Free:        0\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_machine_alone(tmp_path):
    assert memory_available(system(tmp_path, "0::/\n")) == 8_192_000_000


def test_a_limit_of_version_2_counts_wherever_it_is_set(tmp_path):
    limits = {
        "a__b__memory_dot_max": "max\n",
        "a__b__memory_dot_current": "1000\n",
        "a__memory_dot_max": f"{3 * GB}\n",
        "a__memory_dot_current": f"{2 * GB}\n",
        "a__memory_dot_stat": f"anon 5\ninactive_file {GB // 2}\n",
    }
    assert memory_available(system(tmp_path, "0::/a/b\n", **limits)) == 1.5 * GB


def test_a_limit_of_version_1(tmp_path):
    limits = {
        "memory__job__memory_dot_limit_in_bytes": f"{4 * GB}\n",
        "memory__job__memory_dot_usage_in_bytes": f"{5 * GB}\n",
        "memory__job__memory_dot_stat": f"total_inactive_file {2 * GB}\n",
        "memory__memory_dot_limit_in_bytes": "9223372036854771712\n",
        "memory__memory_dot_usage_in_bytes": "1\n",
    }
    root = system(tmp_path, "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n", **limits)
    assert memory_available(root) == GB
    (root / "sys/fs/cgroup/memory/job/memory.stat").write_text("total_inactive_file 0\n")
    assert memory_available(root) == 0  # more is in use than a limit that was lowered allows


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nobody_knows(tmp_path):
    assert memory_available(tmp_path) is None
    assert workers_that_fit(8, GB, None) == (8, "")


def test_how_many_fit(monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: GB)
    monkeypatch.setattr(memory, "address_space_left", lambda: None)
    assert workers_that_fit(8, 2 * GB, 24 * GB) == (8, "")
    told = "A worker takes about 3.0 GB and 10.0 GB are free: 3 of 8 run at a time."
    assert workers_that_fit(8, 2 * GB, 10 * GB) == (3, told)
    told = "A worker takes about 3.0 GB and 2.0 GB are free on node7: 1 of 8 run at a time."
    assert workers_that_fit(8, 2 * GB, 2 * GB, "node7") == (1, told)
    told = "A worker takes about 3.0 GB and 2.0 GB are free: one may not fit."
    assert workers_that_fit(1, 2 * GB, 2 * GB) == (1, told)
    assert workers_that_fit(8, 0, 1) == (8, "")  # nothing is known of the tasks
    monkeypatch.setattr(memory, "address_space_left", lambda: GB)
    told = "A worker takes about 3.0 GB and a process may map 1.0 GB more (ulimit -v): one may not fit."
    assert workers_that_fit(8, 2 * GB, 24 * GB) == (8, told)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_process():
    assert 10**7 < memory.resident() < memory_available()
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert before[0] != resource.RLIM_INFINITY or memory.address_space_left() is None
    most = 2**45
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        assert 0 < memory.address_space_left() < most - memory.resident()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
