"""What autodoc is told: docstrings are plain text, documented fields need no signature, members no contents entry."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_content, desc_signature
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer


def connect(app: Sphinx) -> None:
    """Everything below, at the events that it belongs to."""
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: as_rst(lines))
    app.connect("autodoc-process-signature", without_fields)
    app.connect("doctree-read", drop_members, priority=400)  # before Sphinx collects the page's contents
    app.connect("build-finished", slim)


def as_rst(lines: list[str]) -> None:
    """Rewrite the lines of a docstring: indented blocks become code, `names` become literals, the rest is text."""
    out: list[str] = []
    indented = False
    for line in textwrap.dedent("\n".join(lines)).split("\n"):
        if line.startswith("  ") and not indented:
            out += ["", "::", ""]
        elif indented and line and not line.startswith("  "):
            out.append("")
        if line:
            indented = line.startswith("  ")
        out.append(line if indented else plain(line))
    lines[:] = out


def plain(line: str) -> str:
    """A line of text with `names` as literals and everything else escaped."""
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{p}`" if i % 2 else re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", p) for i, p in enumerate(parts))


def without_fields(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """No constructor signature for a dataclass whose fields are all documented: they follow with type and default."""
    if what == "class" and dataclasses.is_dataclass(obj) and isinstance(obj, type):
        documented: set[str] = set()
        for cls in obj.__mro__:
            if dataclasses.is_dataclass(cls):
                analyzer = ModuleAnalyzer.for_module(cls.__module__)
                analyzer.analyze()
                documented |= {field for owner, field in analyzer.attr_docs if owner == cls.__qualname__}
        if all(field.name in documented for field in dataclasses.fields(obj)):
            return "", None
    return None


def drop_members(app: Sphinx, doctree: nodes.document) -> None:
    """The contents of a reference page name classes and functions, not their members: a third of the page's weight."""
    for node in doctree.findall(desc_signature):
        if node.parent.parent and isinstance(node.parent.parent, desc_content):
            node["_toc_name"] = ""


def slim(app: Sphinx, error: Exception | None) -> None:
    """Take Sphinx's wrapper around every word of a signature out of the reference pages: another quarter."""
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir, "api").glob("*.html"):
            text = re.sub(r'<span class="(?:pre|w)">([^<]*)</span>', r"\1", path.read_text(encoding="utf-8"))
            path.write_text(text, encoding="utf-8")
