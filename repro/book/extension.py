"""Sphinx extension of the book: no request leaves a page, plotly.js only where needed, numbers and figures by name.

Role {fact}`…` prints a number of a committed table and {verdict}`…` the verdict on a claim (`facts`), directive {drawn}
a figure (`drawings`). What they cannot find is a warning, and the book is built with warnings as errors. In the
reference, docstrings are plain text, documented fields need no signature, and members have no entry in the contents.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
import time
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_content, desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

from repro.base.errors import BadInput
from repro.base.machine import commit
from repro.book import around, explorer, glossary
from repro.book.drawings import prepared
from repro.book.facts import Fact, fact, verdict
from repro.book.front import KINDS
from repro.book.mime import DATA, figure_nodes, page_scripts, plotly_js_name

LOG = getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Entry point, named in book/_config.yml under sphinx.extra_extensions (which load after Jupyter Book's own)."""
    drop_thebe(app)
    app.connect("config-inited", sign_the_foot)
    app.connect("builder-inited", add_static_files)
    app.connect("build-finished", copy_plotly)
    app.connect("html-page-context", drop_mathjax, priority=900)  # after Sphinx has added it
    app.connect("html-page-context", add_plotly)
    app.connect("missing-reference", nearest_object)
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: as_rst(lines))
    app.connect("autodoc-process-signature", without_fields)
    app.connect("doctree-read", drop_members, priority=400)  # before Sphinx collects the page's contents
    app.connect("build-finished", slim)
    around.setup(app)
    explorer.setup(app)
    glossary.setup(app)
    app.add_role("fact", FactRole())
    app.add_role("verdict", VerdictRole())
    app.add_directive("drawn", Drawn)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def drop_thebe(app: Sphinx) -> None:
    """Jupyter Book always loads sphinx-thebe, which declares a constant twice and names an address outside."""
    for listeners in app.events.listeners.values():
        listeners[:] = [entry for entry in listeners if entry.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files[:] = [entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"]


def sign_the_foot(app: Sphinx, config: Any) -> None:
    """Which commit the pages were built from, and on which day, in the foot of each."""
    made = f"Commit {commit()}, built on {time.strftime('%Y-%m-%d', time.gmtime())}."
    config.html_theme_options["extra_footer"] = f"{config.html_theme_options.get('extra_footer', '')} {made}"


def add_static_files(app: Sphinx) -> None:
    """book/vendor goes to _static/ as it is. Not through _static/: Jupyter Book loads all scripts found there."""
    vendor = Path(app.srcdir) / "vendor"
    if str(vendor) not in app.config.html_static_path:
        app.config.html_static_path.append(str(vendor))


def copy_plotly(app: Sphinx, error: Exception | None) -> None:
    """All of plotly.js comes from the wheel that made the figures. Beside it, what large figures draw."""
    if error is None and app.builder.format == "html":
        import plotly

        source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        static = Path(app.outdir) / "_static"
        shutil.copyfile(source, static / plotly_js_name())
        if (Path(app.srcdir) / DATA).is_dir():
            shutil.copytree(Path(app.srcdir) / DATA, static / "figures", dirs_exist_ok=True)


class FactRole(SphinxRole):
    """{fact}`small/sweep.csv steps=5 …: NMSE .3f`: the number, with its table as the tooltip."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            found = self.look_up(self.text)
        except BadInput as error:
            LOG.warning(str(error), location=self.get_location())
            return [nodes.inline(self.rawtext, "?")], []
        shown = nodes.abbreviation(self.rawtext, found.text, explanation=found.source, classes=self.style(found.text))
        return [shown], []

    def look_up(self, words: str) -> Fact:
        """What the role prints, and where it comes from. Raises BadInput for words that name nothing."""
        return fact(words)

    def style(self, text: str) -> list[str]:
        """Classes of book.css."""
        return ["fact"]


class VerdictRole(FactRole):
    """{verdict}`P1a`: the chip of the verdict, with the claim's sentence or the part's effect as the tooltip."""

    def look_up(self, words: str) -> Fact:
        return verdict(words)

    def style(self, text: str) -> list[str]:
        return ["verdict", KINDS[text]]


class Drawn(SphinxDirective):
    """```{drawn} name: a figure of `drawings`, with its caption, text alternative and picture."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        try:
            figure = prepared(self.arguments[0], Path(self.env.srcdir))
        except BadInput as error:
            LOG.warning(str(error), location=self.get_location())
            return []
        found: list[nodes.Node] = list(figure_nodes(figure, Path(self.env.srcdir)))
        found[0]["drawn"] = page_scripts(figure)  # type: ignore[index]
        return found


def drop_mathjax(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Sphinx loads MathJax, 2 MB, on a page without equations if one below it has some; so on the first page."""
    if not app.env.domains["math"].data["has_equations"].get(page) and not page.startswith("executed/"):
        scripts = context["script_files"]
        scripts[:] = [script for script in scripts if app.config.mathjax_path not in str(script.filename)]


def add_plotly(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Scripts for the figures of a prose page; myst-nb sees to those of notebooks."""
    wanted: dict[str, Any] = {}
    for node in doctree.findall(nodes.raw) if doctree is not None else ():
        wanted |= node.get("drawn", {})
    for file, attributes in wanted.values():
        app.add_js_file(file, **attributes)


def nearest_object(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """References that autodoc writes for annotations: a link where the name is documented, plain text elsewhere.

    Annotations name the module that defines an object, pages the package that exports it. A reference that a prose page
    makes is left alone: if it leads nowhere, the build fails.
    """
    if node.get("refdomain") != "py" or not node["refdoc"].startswith("api/"):
        return None
    target = node["reftarget"]
    last = target.rsplit(".", 1)[-1]
    if target.startswith("repro.") or "." not in target:
        documented = env.domains["py"].objects
        for name in (target, *sorted(key for key in documented if key.rsplit(".", 1)[-1] == last)):
            if name in documented and documented[name].objtype != "attribute":
                entry = documented[name]
                return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return content


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
