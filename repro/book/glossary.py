"""The glossary in the pages: the first use of a term is a link, and book.js shows the definition over it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from repro.base.errors import BadInput
from repro.base.files import write_atomically

PAGE = "glossary"
"""The page of book/ that defines the terms, in one {glossary} directive."""
SCRIPT = "_static/glossary.js"
"""Definitions by anchor, which book.js loads once."""
WITHOUT = (PAGE, "contribute", "api/", "executed/70_performance")
"""Beginnings of pages without links: on the second a dictionary is Python's, the last is as large as a page may be."""
UNLINKED = {"open", "supported", "refuted", "gap", "dead"}
"""Terms that are also common words: a link would often be wrong."""
NOT_PROSE = (
    *(nodes.reference, nodes.title, nodes.table, nodes.figure, nodes.term),
    *(nodes.abbreviation, nodes.literal, nodes.math, nodes.raw),
)
"""Kinds of nodes within which no word becomes a link."""


def setup(app: Sphinx) -> None:
    """Connect both to Sphinx's events."""
    app.connect("doctree-resolved", link_terms)
    app.connect("build-finished", write_definitions)


def definitions(book: Path) -> dict[str, str]:
    """Each term of book/glossary.md -> its definition, one paragraph of plain text. Raises BadInput without any."""
    page = book / f"{PAGE}.md"
    block = re.search(r"^```\{glossary\}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    if block is None:
        raise BadInput(f"{page} has no {{glossary}} directive: put the terms into one.")
    found: dict[str, str] = {}
    for entry in re.split(r"\n\s*\n", block[1].strip()):
        lines = entry.split("\n")
        text = " ".join(line.strip() for line in lines if line.startswith(" "))
        found |= {line: text for line in lines if not line.startswith((" ", ":"))}
    return found


def pattern(terms: list[str]) -> re.Pattern[str]:
    """What finds terms in a text, longest first; those in small letters also with a capital, and all in the plural."""

    def form(term: str) -> str:
        first = re.escape(term[0])
        head = f"[{first}{re.escape(term[0].upper())}]" if term[0].islower() and term[0].isascii() else first
        rest, ending = (term[1:-1], "(?:y|ies)") if term.endswith("y") else (term[1:], "(?:s)?")
        return head + re.escape(rest).replace(r"\ ", r"\s+") + ending

    words = sorted(terms, key=len, reverse=True)
    one = "|".join(f"(?P<t{terms.index(word)}>{form(word)})" for word in words)
    return re.compile(rf"(?<![\w@/-])(?:{one})(?![\w@-])")


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the first use of each term in the prose of a page a link; code, headings, tables and figures stay."""
    anchors = _anchors(app)
    if page.startswith(WITHOUT) or not anchors or app.builder.format != "html":
        return
    meaning = definitions(Path(app.srcdir))
    terms = [term for term in meaning if term not in UNLINKED and term in anchors]
    find, seen = pattern(terms), set[str]()
    where = app.builder.get_relative_uri(page, PAGE)
    for text in [node for paragraph in doctree.findall(nodes.paragraph) for node in paragraph.findall(nodes.Text)]:
        if _in(text, NOT_PROSE):
            continue
        parts: list[nodes.Node] = []
        end, words = 0, text.astext()
        for match in find.finditer(words):
            term = terms[int(str(match.lastgroup)[1:])]
            if meaning[term] not in seen:
                seen.add(meaning[term])
                parts += [nodes.Text(words[end : match.start()]), _link(match[0], f"{where}#{anchors[term]}")]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(words[end:])])


def _link(word: str, to: str) -> nodes.reference:
    return nodes.reference("", word, internal=True, refuri=to, classes=["term"])


def _in(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    """Does the node lie in one of these kinds?"""
    parent = node.parent
    while parent is not None and not isinstance(parent, kinds):
        parent = parent.parent
    return parent is not None


def _anchors(app: Sphinx) -> dict[str, str]:
    """Term -> the anchor of its definition on the page."""
    entries = app.env.domains["std"].data["objects"].items()
    return {name: anchor for (kind, name), (page, anchor) in entries if kind == "term" and page == PAGE}


def write_definitions(app: Sphinx, error: Exception | None) -> None:
    """The definitions by anchor, as a script: pages that were opened as files may not fetch."""
    if error is None and app.builder.format == "html" and (anchors := _anchors(app)):
        texts = {anchors[term]: text for term, text in definitions(Path(app.srcdir)).items() if term in anchors}
        body = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
        write_atomically(
            Path(app.outdir) / SCRIPT, lambda draft: draft.write_text(f"window.glossary = {body};\n", encoding="utf-8")
        )
