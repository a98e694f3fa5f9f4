"""Parameters of notebooks: those that a notebook declares, those of a scale, and whether a value fits."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from repro.base.config import read_yaml
from repro.base.errors import BadInput, nearest
from repro.base.files import repo_root

EVERY = "every"
"""The key of notebooks/params/{scale}.yaml whose parameters all notebooks get that declare them."""


def scale_parameters(scale: str, notebooks_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Notebook name (or `every`) -> the parameters that a scale sets, from notebooks/params/{scale}.yaml."""
    path = (notebooks_dir or repo_root() / "notebooks") / "params" / f"{scale}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise BadInput(f"No scale '{scale}'{nearest(scale, known)}: there is no {path}.")
    try:
        values = read_yaml(path.read_text(), str(path)) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, Mapping) or not all(isinstance(v, Mapping | None) for v in values.values()):
        raise BadInput(f"{path} must map the name of each notebook to a mapping of its parameters.")
    return {str(name): dict(parameters or {}) for name, parameters in values.items()}


def of_scale(name: str, scale: str, declared: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The parameters that a scale sets for one notebook; without any it runs with the defaults of its own cell."""
    by_name = scale_parameters(scale, folder)
    common = {key: value for key, value in by_name.get(EVERY, {}).items() if key in declared}
    return common | by_name.get(name, {})


def declared_parameters(notebook: Any) -> dict[str, Any]:
    """Names in the cell tagged `parameters` with their defaults; Ellipsis where the default is not a literal."""
    return literals(next((c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), ""))


def literals(source: str) -> dict[str, Any]:
    """Names that Python source assigns to with their values; Ellipsis where that is no literal."""
    values: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                try:
                    values[target.id] = ast.literal_eval(value)
                except ValueError:
                    values[target.id] = ...
    return values


def checked(key: str, value: Any, declared: Mapping[str, Any], name: str) -> Any:
    """The value as its default's type where the meaning is plain (text as YAML, 1e3 as 1000, 0 as False); or BadInput.

    Text is what `papermill -p` makes of false, no, 1e-3, {m: 256} and [a, b].
    """
    if key not in declared:
        known = ", ".join(declared) or "none"
        raise BadInput(f"Notebook {name} has no parameter '{key}'{nearest(key, declared)}; its parameters: {known}.")
    default, told = declared[key], value
    if default is ... or default is None:
        return value
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = read_yaml(value, f"Parameter '{key}' of {name}")
        except BadInput:
            raise
        except (yaml.YAMLError, RecursionError, ValueError):
            pass  # what is no YAML stays text, and is judged below
    if isinstance(default, int | float) and isinstance(value, int | float | str):
        with contextlib.suppress(ValueError):  # YAML reads 1e-3 as text
            number = float(value)
            whole = number.is_integer() and not isinstance(value, bool)
            if isinstance(default, bool):
                value = bool(number) if whole and number in (0, 1) else value
            elif isinstance(default, float):
                value = value if isinstance(value, bool) else number
            elif whole and not isinstance(value, int):
                value = int(number)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        raise BadInput(f"Parameter '{key}' of {name} must be {type(default).__name__} like {default!r}, not {told!r}.")
    return value


def settle(name: str, variables: dict[str, Any]) -> None:
    """Make the variables of a running notebook what its parameters cell declares; or BadInput."""
    path = repo_root() / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise BadInput(f"No notebook '{name}' at {path}; its first lines name another.")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    declared = literals(next(sources, ""))
    variables |= {key: checked(key, variables[key], declared, name) for key in declared if key in variables}
