"""Additions to the page of a notebook: folded code, links to its tables and its notebook, the command that runs it."""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from repro.base.parameters import declared_parameters
from repro.book.contents import EXECUTED
from repro.sections.scales import SCALES
from repro.sections.tables import path_of

FOLDED = {"hide_mode": "input", "prompt_show": "Code", "prompt_hide": "Code"}
"""Attributes from which myst-nb makes a cell's code a disclosure."""
SOLUTION = {"hide_mode": "all", "prompt_show": "Solution", "prompt_hide": "Solution"}
"""The same for a cell with the tag `solution`: its output is folded, too."""
TABLES = "tables"
"""Folder of _static that the csv files lie in."""


def setup(app: Sphinx) -> None:
    """Connect the three to Sphinx's events."""
    app.connect("doctree-read", fold)
    app.connect("html-page-context", foot, priority=900)
    app.connect("build-finished", copy_tables)


def fold(app: Sphinx, doctree: nodes.document) -> None:
    """Fold the code of all cells but the parameters, and the solutions of exercises with what they show."""
    if app.env.docname.startswith(EXECUTED):
        for cell in doctree.findall(nodes.container):
            tags = cell.get("cell_metadata", {}).get("tags", [])
            if cell.get("nb_element") == "cell_code" and not {"parameters", "injected-parameters"} & set(tags):
                cell.attributes.update(SOLUTION if "solution" in tags else FOLDED)


def foot(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """After the last cell: the tables that the page draws, its notebook, and the command that runs it."""
    if not page.startswith(EXECUTED) or "body" not in context:
        return
    import nbformat

    notebook = nbformat.read(Path(app.srcdir) / f"{page}.ipynb", as_version=4)
    name, tables = Path(page).name, tables_of(notebook)
    known = ", ".join(f"<code>{escape(key)}</code>" for key in declared_parameters(notebook))
    links = ", ".join(
        f'<a href="../_static/{TABLES}/{scale}/{table}.csv" download="{scale}_{table}.csv">{scale}/{table}.csv</a>'
        for table, scale in tables
    )
    lines = [f"<p>Tables of this page: {links}.</p>"] if tables else []
    lines += [
        f'<p>This notebook as it was executed: <a href="../_sources/{page}.ipynb" download>{name}.ipynb</a>.</p>',
        f"<p>With your numbers: <code>repro notebook {name} -p KEY VALUE</code>; keys: {known or 'none'}.</p>",
    ]
    context["body"] += f'<section class="around">{"".join(lines)}</section>'


def tables_of(notebook: Any) -> list[tuple[str, str]]:
    """(table, scale) of each stored table that the code of a notebook names in a call, of every scale that has it."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    calls = re.findall(r"\b(?:stored|need_table|load_table|others|side_by_side)\(([^()]*)\)", code)
    names = dict.fromkeys(name for call in calls for name in re.findall(r"[\"'](\w+)[\"']", call))
    return [(name, scale) for name in names for scale in SCALES if path_of(name, scale)]


def copy_tables(app: Sphinx, error: Exception | None) -> None:
    """Beside the pages, the csv files that they link to."""
    if error is not None or app.builder.format != "html":
        return
    import nbformat

    for file in sorted(Path(app.srcdir, EXECUTED).glob("*.ipynb")):
        if f"{EXECUTED}{file.stem}" in app.env.found_docs:
            for name, scale in tables_of(nbformat.read(file, as_version=4)):
                to = Path(app.outdir) / "_static" / TABLES / scale / f"{name}.csv"
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(path_of(name, scale)), to)
