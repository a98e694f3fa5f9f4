"""How a plotly output becomes HTML in the book: data in the page, one shared plotly.js, a picture without scripts."""

from __future__ import annotations

import base64
import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes

from repro.base.files import digest, repo_root, write_atomically
from repro.base.theme import template
from repro.book import pictures

PLOTLY_MIME = "application/vnd.plotly.v1+json"


INLINE = 2_000
"""Characters of plotly JSON that a page holds itself."""
DATA = Path("_generated") / "figures"
"""Where the data of larger figures waits until it is copied to _static/figures."""


class PlotlyRenderer:
    """myst-nb plugin (entry point `myst_nb.mime_renderers`); book/_static/book.js draws what it leaves in the page."""

    mime_priority_overrides: ClassVar = [("*", PLOTLY_MIME, 1)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Nodes for a block of plotly JSON; None leaves every other output to myst-nb."""
        if inline or data.mime_type != PLOTLY_MIME:
            return None
        for key, (file, kwargs) in page_scripts(data.content).items():
            renderer.add_js_file(key, file, kwargs)
        _, outputs = renderer.renderer.nb_client.code_cell_outputs(data.cell_index)
        png = outputs[data.output_index].get("data", {}).get("image/png")
        return figure_nodes(data.content, Path(renderer.renderer.sphinx_env.srcdir), png)


BASIC = {"scatter", "bar", "pie"}
"""Trace types that the basic bundle of plotly.js draws, in a quarter of the bytes."""


def plotly_js_name(basic: bool = False) -> str:
    """File name of plotly.js in the book; its version is in the name, so that a cached old one is never used."""
    from plotly.offline import get_plotlyjs_version

    return f"plotly{'/plotly-basic' if basic else ''}-{get_plotlyjs_version()}.min.js"


def figure_nodes(figure: dict[str, Any], book: Path, png: str | None = None) -> list[nodes.Element]:
    """The figure, what readers without scripts see, and the caption; much data goes to a file that the page fetches."""
    opening, closing = figure_html(figure)
    before, data, after = re.split(r'(?<=<script type="application/json">)(.*?)(?=</script>)', opening, flags=re.S)
    if len(data) > INLINE:
        name = digest(data)
        text = f'(window.plotFiles ??= {{}})["{name}"] = {data};\n'
        write_atomically(book / DATA / f"{name}.js", lambda draft: draft.write_text(text, encoding="utf-8"))
        opening = before.replace("<script ", f'<script data-file="{name}" ') + after
    return [_raw(opening), *picture(figure, book, png), _raw(closing)]


def figure_html(figure: dict[str, Any]) -> tuple[str, str]:
    """The HTML of a figure before and after what a reader without scripts sees: plotly JSON, then the caption.

    A figure in our theme is stored without its template: the page's script supplies the light or the dark one.
    """
    layout = dict(figure.get("layout", {}))
    themed = layout.get("template") == _spelled_out("neutral")
    if themed:
        del layout["template"]
    words, spoken = _meta(layout).get("caption"), html.escape(_alt(layout))
    finding = f'<p class="finding">{html.escape(_title(layout))}</p>' if _title(layout) else ""
    layout.pop("title", None)  # as text of the page, it wraps
    height = int(layout.get("height") or template()["layout"]["height"])
    body = {"data": figure.get("data", []), "layout": layout}
    # "</script>" inside a label would end the element early; "<\\/" is the same string to a JSON parser.
    text = json.dumps(body, separators=(",", ":")).replace("</", "<\\/")
    opening = (
        f'<figure class="plotly-figure"{" data-themed" if themed else ""}>'
        f"{finding}"
        f'<div class="plot" role="img" aria-label="{spoken}" style="height:{height}px"></div>'
        f'<script type="application/json">{text}</script><noscript>'
    )
    return opening, f"</noscript>{f'<figcaption>{html.escape(words)}</figcaption>' if words else ''}</figure>"


def _meta(layout: dict[str, Any]) -> dict[str, Any]:
    meta = layout.get("meta")
    return meta if isinstance(meta, dict) else {}


def _alt(layout: dict[str, Any]) -> str:
    """The text alternative: as given to theme.caption, or else the title."""
    return _meta(layout).get("alt") or _title(layout) or "Figure"


def _title(layout: dict[str, Any]) -> str:
    """The title in one line; nothing where there is none."""
    title = layout.get("title") or {}
    return ((title.get("text") if isinstance(title, dict) else title) or "").replace("<br>", " ")


def page_scripts(figure: dict[str, Any]) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """What a page with this figure loads, key -> (file, attributes): plotly.js and the two templates.

    All of plotly.js goes after the basic bundle, whose place it takes, on a page that has figures of both kinds.
    """
    small = {trace.get("type", "scatter") for trace in figure.get("data", [])} <= BASIC
    small = small and (repo_root() / "book" / "vendor" / plotly_js_name(basic=True)).is_file()
    load = {"defer": "defer"} if small else {"defer": "defer", "priority": 900}
    return {
        "plotly-basic" if small else "plotly": (plotly_js_name(small), load),
        "plot-templates": (None, {"body": _page_templates()}),
    }


@cache
def _page_templates() -> str:
    """The light and the dark template, once a page."""
    templates = {ink: _spelled_out(ink) for ink in ("light", "dark")}
    return f"window.plotTemplates = {json.dumps(templates, separators=(',', ':'))};"


@cache
def _spelled_out(ink: str) -> dict[str, Any]:
    """A template as plotly writes it into a notebook: named colour scales become lists, which plotly.js needs."""
    import plotly.graph_objects as go

    return json.loads(go.Figure(layout={"template": template(ink)}).to_json())["layout"]["template"]


def picture(figure: dict[str, Any], book: Path, png: str | None = None) -> list[nodes.Element]:
    """What readers without scripts get: the PNG that the output carries or `pictures` has drawn, or a sentence."""
    path = pictures.path_of(figure, book)
    if png and not path.is_file():
        write_atomically(path, lambda draft: draft.write_bytes(base64.b64decode(png)))
    if not path.is_file():
        return [_raw("<p>This figure needs JavaScript.</p>")]
    return [nodes.image(uri=f"/{path.relative_to(book).as_posix()}", alt=_alt(figure["layout"]))]


def _raw(text: str) -> nodes.raw:
    return nodes.raw(text=text, format="html")
