"""The house: imports go down its floors and close no circle, the core needs little, and each name is defined once."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "repro"

FLOORS = """
base
jobs
activations.text activations.language_models
activations
kernels
codes
ops
sae solvers
checkpoints metrics
inference
released training
evaluate loca
price
adapted
sections
book
commands
bench
cli
__main__
""".strip().split("\n")
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}

CLIMBS: dict[tuple[str, str], str] = {}
"""(importing module, imported module) -> why this one import may climb."""
CIRCLES: dict[frozenset, str] = {}
"""Modules of a circle -> why it is there."""

ONCE = (
    *("METRICS", "LABELS", "METRIC_COLUMNS", "MODES", "MODE_NAMES", "CONTROLS", "PROTOCOLS", "PROTOCOL_NAMES"),
    *("VARIANTS", "SOLVERS", "SCALES"),
    *("provenance", "versions", "commit", "pick_device", "snapshot", "write_atomically", "digest", "file_sha256"),
    *("sae_bytes", "model_bytes"),
)
"""Names that one module defines and all others import."""


def modules():
    """Name without `repro.` -> file, of every module; a package is its `__init__`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def room_of(module):
    """The most particular room of FLOORS that a module lies in; None of a module that lies in none."""
    parts = module.split(".")
    prefixes = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in FLOOR), None)


def imports_of(source):
    """Names without `repro.` of what a source imports from the package, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "repro":
            base = node.module.removeprefix("repro").removeprefix(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".removeprefix(".")
                yield whole if whole in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("repro.") for a in node.names if a.name.startswith("repro."))


@functools.cache
def graph():
    """Module -> the other modules of the package that it imports, at its top or inside a function."""
    return {m: {i for i in imports_of(p.read_text()) if i and i != m} for m, p in MODULES.items()}


def circles(edges):
    """Sets of modules that import one another, directly or by way of each other (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            i = stack.index(node)
            if len(stack) - i > 1:
                found.append(frozenset(stack[i:]))
            del stack[i:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def climbing(edges):
    """(importing module, imported module) of every import from a higher floor, or from another room of the same."""
    for module, others in edges.items():
        for other in others:
            here, there = room_of(module), room_of(other)
            if here != there and FLOOR[there] >= FLOOR[here]:
                yield module, other


def test_imports_only_go_down():
    found = set(climbing(graph()))
    assert not (more := sorted(found - set(CLIMBS))), "\n".join(f"{a} imports {b}, which is above it" for a, b in more)
    assert not (gone := set(CLIMBS) - found), f"take these exceptions out: {gone}"


def test_no_imports_close_a_circle():
    found = set(circles(graph()))
    said = "\n".join(" <-> ".join(sorted(circle)) for circle in found - set(CIRCLES))
    assert not said, said
    assert not (gone := set(CIRCLES) - found), f"take these exceptions out: {gone}"


def test_a_climb_and_a_circle_are_seen():
    assert list(climbing({"base.files": {"cli"}, "cli": {"base.files"}})) == [("base.files", "cli")]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [frozenset({"b", "c"})]
    assert list(imports_of("def f():\n    from repro.base import files, nothing")) == ["base.files", "base"]


def test_every_module_has_a_floor_and_says_what_it_is():
    for module, path in MODULES.items():
        assert room_of(module), f"{module} has no floor"
        text = path.read_text()
        assert text.startswith('"""') or not text.strip(), f"{path} does not begin with a docstring"


@functools.cache
def definitions():
    """Name -> the modules that define it at their top level, as a function, a class or a variable."""
    found = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [t.id for t in targets if isinstance(t, ast.Name)]
            else:
                names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                found.setdefault(name, []).append(module)
    return found


@pytest.mark.parametrize("name", ONCE)
def test_names_are_defined_once(name):
    assert len(definitions().get(name, [])) == 1, definitions().get(name)


def test_only_sections_have_claims():
    for module in definitions().get("CLAIMS", []):
        assert module.startswith("sections.") and module.endswith(".claims"), module


OPTIONAL = (
    *("triton", "transformers", "datasets", "accelerate", "gguf", "numba", "plotly", "tyro"),
    *("IPython", "ipykernel", "ipywidgets", "jupyter_client", "jupyterlab", "nbclient", "nbformat", "papermill"),
)


def test_everything_up_to_evaluate_needs_no_optional_package():
    top = FLOOR["evaluate"]
    needed = sorted(m for m in MODULES if FLOOR[room_of(m)] <= top and ".gpu" not in m and ".cpu" not in m)
    code = f"import importlib, sys\nfor m in {needed}: importlib.import_module(f'repro.{{m}}')\n"
    code += f"print([m for m in {OPTIONAL} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
