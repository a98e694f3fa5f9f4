"""The built book as one PDF: its pages joined in the order of the contents, and printed by Chromium."""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from repro.base.errors import NotebookFailed
from repro.base.files import repo_root, write_atomically
from repro.base.machine import commit
from repro.book.contents import pages, parts
from repro.book.mime import plotly_js_name
from repro.book.pictures import browser

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

FLAGS = (
    *("--headless", "--no-pdf-header-footer", "--generate-pdf-document-outline"),
    *("--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=60000",  # ms of the page's clock, which runs ahead while nothing is left to load or draw
    "--force-prefers-reduced-motion",  # moving pictures stand still
    "--window-size=840,1188",  # figures are drawn this wide, and shrink to the sheet
)
"""With which Chromium prints, as root too."""


class PrintFailed(NotebookFailed):
    """Chromium wrote no PDF; the message has its last line. Caught where a failed notebook is."""


def write(book_dir: Path | None = None) -> Path:
    """Print the built book of book_dir (book/ if not given) to _build/book.pdf; returns the path of the PDF.

    A print tells the page numbers that the contents of the next one have: two, unless the numbers lengthen the
    contents. Raises BadInput where no browser is installed, PrintFailed where it prints nothing.
    """
    book = (book_dir or repo_root() / "book").resolve()
    source, target = book / "_build" / "book.html", book / "_build" / "book.pdf"
    try:
        numbers: dict[str, int] = {}
        for _ in range(3):
            source.write_text(joined(book, numbers), encoding="utf-8")
            write_atomically(target, lambda draft: print_file(source, draft))
            before, numbers = numbers, page_numbers(target.read_bytes())
            if numbers == before:
                break
    finally:
        source.unlink(missing_ok=True)
    return target


def print_file(source: Path, target: Path) -> None:
    """Print an HTML file to a PDF when its scripts are done. Raises PrintFailed."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), *FLAGS, f"--user-data-dir={profile}", f"--print-to-pdf={target}", source.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
    if not target.is_file():
        last = [f"exit status {done.returncode}", *done.stderr.strip().splitlines()][-1]
        raise PrintFailed(f"The book was not printed: {Path(command[0]).name} wrote no PDF ({last}).")


def page_numbers(pdf: bytes) -> dict[str, int]:
    """Anchor of a page of the book, as `joined` names them -> the number of the sheet that it begins on."""
    sheets = re.findall(rb"(\d+) 0 obj\s+<</Type /Page\s", pdf)
    begins = re.findall(rb"/(page\d+) \[(\d+) 0 R", pdf)
    return {anchor.decode(): sheets.index(sheet) + 1 for anchor, sheet in begins}


def joined(book: Path, numbers: dict[str, int]) -> str:
    """One HTML document: a title page, the contents with the numbers of `page_numbers`, every page of the built book.

    It takes styles, scripts and data from html/, beside which it has to lie.
    """
    import yaml
    from bs4 import BeautifulSoup

    config = yaml.safe_load((book / "_config.yml").read_text(encoding="utf-8"))
    files = {name: book / "_build" / "html" / f"{name}.html" for name in pages(book)}
    soups = {name: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for name, file in files.items()}
    articles = {name: soup.select("article.bd-article")[0] for name, soup in soups.items()}
    titles = {name: article.select("h1")[0].get_text().removesuffix("#") for name, article in articles.items()}
    anchors = {(name, ""): f"page{i}" for i, name in enumerate(articles)}
    for name, article in articles.items():
        rename(name, article, anchors)
    for name, article in articles.items():
        lead(name, article, anchors)
    return (
        '<!doctype html><html lang="en" data-content_root="html/" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{escape(config['title'])}</title>{''.join(styles(soups, titles))}{''.join(scripts(soups))}</head>"
        '<body class="whole-book"><main class="bd-main"><div class="bd-content"><div class="bd-article-container">'
        f"{front(config, parts(book), titles, numbers)}{''.join(map(str, articles.values()))}"
        "</div></div></main></body></html>"
    )


def rename(name: str, article: Tag, anchors: dict[tuple[str, str], str]) -> None:
    """Give ids that an earlier page has used another name; anchors, (page, id) -> id, gets every id of the article."""
    used = set(anchors.values())
    article["id"] = anchors[name, ""]
    for tag in article.select("[id]"):
        old = str(tag["id"])
        tag["id"] = anchors[name, old] = f"{anchors[name, '']}-{old}" if old in used else old
        used.add(anchors[name, old])


def lead(name: str, article: Tag, anchors: dict[tuple[str, str], str]) -> None:
    """Point the links of a page to pages within the document, its pictures to html/; a file has no link any more."""
    for tag in article.select("[src], [href]"):
        key = "src" if "src" in tag.attrs else "href"
        address = urlsplit(str(tag[key]))
        if address.scheme or address.netloc:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), address.path)) if address.path else name
        page = path.removesuffix(".html")
        if key == "src":
            tag[key] = f"html/{path}"
        elif (page, "") in anchors:
            tag[key] = "#" + anchors.get((page, address.fragment), anchors[page, ""])
        else:
            del tag[key]


def styles(soups: dict[str, BeautifulSoup], titles: dict[str, str]) -> Iterator[str]:
    """The style sheets of the book, from html/; sheets of A4 that have the title of their page at the head."""
    for tag in next(iter(soups.values())).select("head link[rel=stylesheet]"):
        yield f'<link rel="stylesheet" href="html/{tag["href"]}">'
    yield "<style>@page{size:A4}"
    for i, title in enumerate(titles.values()):
        yield f"#page{i}{{page:page{i}}}@page page{i}{{@top-left{{content:{json.dumps(title, ensure_ascii=False)}}}}}"
    yield "</style>"


def scripts(soups: dict[str, BeautifulSoup]) -> Iterator[str]:
    """The scripts of all pages, each once, without those of the theme's bars; the whole plotly.js for every figure."""
    seen = set()
    for name, soup in soups.items():
        for tag in soup.select("head script"):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), str(tag.get("src", ""))))
            path = re.sub(r"plotly/plotly-basic-[^?]*", plotly_js_name(), path.partition("?")[0])
            if "/scripts/" in path or "localStorage" in tag.text or (path, tag.text) in seen:
                continue
            seen.add((path, tag.text))
            yield f'<script defer src="html/{path}"></script>' if "src" in tag.attrs else str(tag)


def front(
    config: dict[str, Any], contents: list[tuple[str, list[str]]], titles: dict[str, str], numbers: dict[str, int]
) -> str:
    """The title page and the contents. config: book/_config.yml; contents: as `parts` gives them."""
    rows = []
    for caption, names in contents:
        rows += [f"<h2>{escape(caption)}</h2>"] if caption else []
        for name in names:
            anchor = f"page{list(titles).index(name)}"
            rows.append(f'<p><a href="#{anchor}">{escape(titles[name])}</a><span>{numbers.get(anchor, "")}</span></p>')
    made = f"Version {version('repro')}, commit {commit()}, printed on {time.strftime('%Y-%m-%d', time.gmtime())}."
    return (
        f'<header class="title-page"><h1>{escape(config["title"])}</h1><p>{escape(config["author"])}</p>'
        f"<p>{made} {config['html']['extra_footer']}</p></header>"
        f'<nav class="book-contents"><h1>Contents</h1>{"".join(rows)}</nav>'
    )
