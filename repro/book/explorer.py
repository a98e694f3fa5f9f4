"""The explorer's page: its script, its style, and beside them the examples that the script unpacks."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from repro.sections.explorer.prepare import CHOICES, file_of

FOLDER = "explorer"
"""Folder of _static that all of it lies in."""


def setup(app: Sphinx) -> None:
    """Connect both to Sphinx's events."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", copy)


def add_script(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Script and style, on pages that have the element of `sections.explorer.prepared`."""
    if 'id="explorer"' in context.get("body", ""):
        app.add_js_file(f"{FOLDER}/explorer.js", loading_method="defer", priority=100)  # before what takes long
        app.add_css_file(f"{FOLDER}/explorer.css")


def copy(app: Sphinx, error: Exception | None) -> None:
    """The files of book/ as they are, and the examples as scripts: pages that were opened as files may not fetch."""
    if error is not None or app.builder.format != "html":
        return
    to = Path(app.outdir) / "_static" / FOLDER
    to.mkdir(parents=True, exist_ok=True)
    for name in ("explorer.js", "explorer.css"):
        shutil.copyfile(Path(app.srcdir) / name, to / name)
    for scale in CHOICES:
        packed = base64.b64encode(file_of(scale).read_bytes()).decode()
        (to / f"{scale}.js").write_text(f'(window.explorerFiles ??= {{}})["{scale}"] = "{packed}";\n')
