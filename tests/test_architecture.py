"""Imports only go down the floors, and the core imports none of the optional packages."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "repro"
FLOORS = [
    {"base"},
    {"jobs"},
    {"kernels"},
    {"codes"},
    {"ops"},
    {"activations", "sae", "solvers"},
    {"checkpoints", "metrics"},
    {"inference"},
    {"released", "training"},
    {"evaluate", "loca"},
    {"sections"},
    {"book"},
    {"bench", "commands"},
    {"cli", "__main__"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
ALLOWED_UP = {("evaluate", "sections"), ("training", "loca")}


def imports(path):
    """(top-level part of repro that is imported, is it at module level?) of a file."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "repro":
            rest = node.module.split(".")[1:]
            names = rest[:1] or [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".")[1] for a in node.names if a.name.startswith("repro.")]
        for name in names:
            yield name, id(node) not in inside


def test_imports_only_go_down():
    climbing = []
    for path in PACKAGE.rglob("*.py"):
        me = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if me == "__init__":
            continue
        for other, at_top in imports(path):
            if other == me or other not in FLOOR:
                continue
            climbs = FLOOR[other] > FLOOR[me] or (FLOOR[other] == FLOOR[me] and at_top and False)
            if climbs and not (not at_top and (me, other) in ALLOWED_UP):
                climbing.append(f"{path.relative_to(PACKAGE)} imports repro.{other}")
    assert not climbing, climbing


def test_every_module_has_a_floor_and_says_what_it_is():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        assert parts[0] in FLOOR or parts == ("__init__",), path
        text = path.read_text()
        assert text.startswith('"""') or not text.strip(), f"{path} does not begin with a docstring"


def test_core_needs_no_optional_package():
    code = (
        "import sys, repro.solvers, repro.metrics, repro.sae, repro.checkpoints, repro.inference, repro.evaluate,"
        "repro.activations, repro.training.train\n"
        "optional = ['triton', 'transformers', 'datasets', 'plotly', 'numba', 'IPython', 'papermill', 'tyro']\n"
        "print([m for m in optional if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
