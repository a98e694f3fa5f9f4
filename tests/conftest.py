"""Shared by all tests: one thread, deterministic seeds, no hub, Triton's interpreter on machines without a GPU."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import repro.book  # noqa: F401  before any nbformat, which is slow to import otherwise

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lm(tmp_path_factory):
    """The folder of a small GPT-NeoX with random weights."""
    import language_models

    return language_models.save(tmp_path_factory.mktemp("models") / "neox", "gpt_neox")


LONG = ("test_book", "test_notebooks", "test_fanout_evaluate", "test_fanout_train", "test_report")


def pytest_collection_modifyitems(config, items):
    # Two workers take whole files, in this order (--no-loadscope-reorder): the long ones first, so that none is left.
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
    if "slow" not in (config.option.markexpr or ""):
        skip_slow = pytest.mark.skip(reason="slow: run with -m slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip_slow)


@pytest.fixture
def no_processes(monkeypatch):
    """Run the tasks of engine local in this process, for tests of what is done with their outcomes.

    Processes take seconds to import torch. Outcomes of tasks in real ones: test_fanout.py.
    """
    from repro.jobs import engines, worker

    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # `attempt` sets them for the process
    monkeypatch.setitem(engines.ENGINES, "local", lambda tasks, *how: (worker.attempt(task, *how) for task in tasks))


@pytest.fixture
def poison(monkeypatch):
    """Make functions return NaN, or integers that no index survives: poison(torch, "empty")."""

    def poisoned(make):
        def filled(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min // 2)

        return filled

    def replace(owner, *names):
        for name in names:
            monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))

    return replace
