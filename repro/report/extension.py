"""Sphinx extension of the book: no request leaves a page, plotly.js once and only where needed, both themes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from repro.report.mime import plotly_js_name


def setup(app: Sphinx) -> dict[str, Any]:
    """Entry point, named in book/_config.yml under sphinx.extra_extensions (which load after Jupyter Book's own)."""
    drop_thebe(app)
    app.connect("builder-inited", add_static_files)
    app.connect("build-finished", copy_plotly)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def drop_thebe(app: Sphinx) -> None:
    """Jupyter Book always loads sphinx-thebe, which declares a constant twice and names an address outside."""
    for listeners in app.events.listeners.values():
        listeners[:] = [entry for entry in listeners if entry.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files[:] = [entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"]


def add_static_files(app: Sphinx) -> None:
    """book/vendor goes to _static/ as it is. Not through _static/: Jupyter Book loads all scripts found there."""
    vendor = Path(app.srcdir) / "vendor"
    if str(vendor) not in app.config.html_static_path:
        app.config.html_static_path.append(str(vendor))


def copy_plotly(app: Sphinx, error: Exception | None) -> None:
    """plotly.js is not vendored: it comes from the wheel that made the figures."""
    if error is None and app.builder.format == "html":
        import plotly

        source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        shutil.copyfile(source, Path(app.outdir) / "_static" / plotly_js_name())
