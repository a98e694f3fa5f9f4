"""Parameters of notebooks: those that a notebook declares, those of a scale, and whether a value fits."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

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
        values = yaml.safe_load(path.read_text()) or {}
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
    source = next((c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), "")
    found: dict[str, Any] = {}
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
                    found[target.id] = ast.literal_eval(value)
                except ValueError:
                    found[target.id] = ...
    return found


def checked(key: str, value: Any, declared: Mapping[str, Any], name: str) -> Any:
    """The value, converted where the meaning is plain (1 or "1e-3" for a float, a list for a tuple); or BadInput."""
    if key not in declared:
        known = ", ".join(declared) or "none"
        raise BadInput(f"Notebook {name} has no parameter '{key}'{nearest(key, declared)}; its parameters: {known}.")
    default = declared[key]
    if default is ... or default is None or value is None:
        return value
    if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML reads 1e-3 as text
            value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        raise BadInput(f"Parameter '{key}' of {name} must be {type(default).__name__} like {default!r}, not {value!r}.")
    return value
