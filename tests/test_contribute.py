"""The variant and the solver of book/contribute.md, in a copy of the package, pass what every other one passes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = {  # where contribute.md says that a name is added: the text there, and the same text with the name
    "repro/sae/__init__.py": [
        ("VARIANTS: dict", "from repro.sae.relative_topk import RelativeTopK\n\nVARIANTS: dict"),
        ("LocA)", "LocA, RelativeTopK)"),
    ],
    "repro/solvers/__init__.py": [
        ("SOLVERS: dict", "from repro.solvers.inertial import Inertial\n\nSOLVERS: dict"),
        ('"pursuit": Pursuit}', '"pursuit": Pursuit, "inertial": Inertial}'),
    ],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests with the files that the page shows, and with LINES changed."""
    root = tmp_path_factory.mktemp("contribute")
    for folder in ("repro", "tests"):
        shutil.copytree(ROOT / folder, root / folder)  # with numba's caches: nothing is compiled again
    shutil.copy(ROOT / "pyproject.toml", root)
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "book/contribute.md").read_text(), flags=re.S | re.M):
        first = block.partition("\n")[0]
        if first in ("# repro/sae/relative_topk.py", "# repro/solvers/inertial.py"):
            (root / first.removeprefix("# ")).write_text(block)
    for name, changes in LINES.items():
        text = (root / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (root / name).write_text(text)
    return root


def passed(root, chosen, *files):
    """Ids of the tests that passed, of those that `chosen` selects; all have to."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen]
    done = subprocess.run(
        [*command, *(f"tests/{file}.py" for file in files)],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return re.findall(r"^PASSED (.*)", done.stdout, flags=re.M)


def test_the_variant_and_the_solver_are_among_them(copy):
    """In one process: each takes seconds to import what the tests need."""
    chosen = "relative_topk or (inertial and (scikit or certificate or start_at))"
    ids = passed(copy, chosen, "test_variants", "test_solvers")
    assert sum("relative_topk" in name for name in ids) >= 10 and sum("inertial" in name for name in ids) >= 8


@pytest.mark.slow
def test_the_variant_is_trained_saved_and_loaded(copy):
    assert len(passed(copy, "relative_topk", "test_training", "test_checkpoints")) >= 3


@pytest.mark.slow
def test_the_solver_passes_everything(copy):
    assert len(passed(copy, "inertial", "test_solvers")) >= 35
