"""The book on paper: pages joined into one, their links and numbers, and the refusal; no browser is needed."""

from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from repro import cli
from repro.book import pdf, pictures
from repro.commands import report as commands


def page(head: str, body: str) -> str:
    return f"<html><head>{head}</head><body><nav>bar</nav><article class='bd-article'>{body}</article></body></html>"


@pytest.fixture
def book(tmp_path):
    """Two pages that use the same id, one of them in a folder."""
    html = tmp_path / "_build" / "html"
    (html / "executed").mkdir(parents=True)
    (html / "index.html").write_text(
        page(
            "<link rel='stylesheet' href='_static/book.css?v=1'><script src='_static/book.js?v=1'></script>"
            "<script src='_static/scripts/theme.js'></script>"
            f"<script defer src='_static/{pdf.plotly_js_name(basic=True)}?v=2'></script>",
            "<h1 id='same'>First<a class='headerlink' href='#same'>#</a></h1>"
            "<a href='executed/one.html#same'>to one</a>"
            "<a href='executed/one.html'>top</a><a href='genindex.html'>index</a><a href='https://x.org/a'>out</a>",
        )
    )
    (html / "executed" / "one.html").write_text(
        page(
            "<script src='../_static/book.js?v=1'></script>"
            f"<script defer src='../_static/{pdf.plotly_js_name()}?v=2'></script>",
            "<h1 id='same'>\"One\" & two<a class='headerlink' href='#same'>#</a></h1><img src='../_images/a.png'>"
            "<a href='../index.html#same'>back</a><a href='../_static/tables/t.csv' download>table</a>"
            '<script type=\'application/json\'>{"a": "<b>"}</script>',
        )
    )
    contents = {"root": "index", "parts": [{"caption": "Results", "chapters": [{"file": "executed/one"}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(contents))
    config = {"title": "A <book>", "author": "somebody", "html": {"extra_footer": "Free."}}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_links_lead_within_the_document_and_none_to_a_file(book):
    soup = BeautifulSoup(pdf.joined(book, {}), "html.parser")
    links = {a.get_text(): a.get("href") for a in soup.select("article a:not(.headerlink)")}
    same = soup.select("article")[1].h1["id"]
    assert same != "same" and len({tag["id"] for tag in soup.select("[id]")}) == len(soup.select("[id]"))
    back = {"to one": f"#{same}", "top": "#page1", "back": "#same"}
    assert links == back | {"out": "https://x.org/a", "index": None, "table": None}
    assert soup.img["src"] == "html/_images/a.png"
    assert soup.select("article script")[0].string == '{"a": "<b>"}'


def test_scripts_come_once_with_all_of_plotly_and_nothing_of_the_bars(book):
    soup = BeautifulSoup(pdf.joined(book, {}), "html.parser")
    assert [s["src"] for s in soup.select("head script")] == [
        "html/_static/book.js",
        f"html/_static/{pdf.plotly_js_name()}",
    ]
    assert [s["href"] for s in soup.select("head link")] == ["html/_static/book.css?v=1"]
    assert "bar" not in soup.get_text()


def test_the_contents_have_the_titles_and_the_numbers_of_their_sheets(book):
    soup = BeautifulSoup(pdf.joined(book, {"page0": 3, "page1": 12}), "html.parser")
    assert soup.select(".title-page h1")[0].get_text() == "A <book>"
    assert "Version 0." in soup.select(".title-page")[0].get_text()
    rows = [tag.get_text("|") for tag in soup.select(".book-contents > *")]
    assert rows == ["Contents", "First|3", "Results", '"One" & two|12']
    assert r'@page page1{@top-left{content:"\"One\" & two"}}' in soup.style.string


def test_sheets_are_counted_as_the_pdf_lists_them():
    sheets = b"".join(b"%d 0 obj\n<</Type /Page\n/Contents 1 0 R>>\nendobj\n" % n for n in (2, 10, 12, 7))
    tree = b"16 0 obj\n<</Type /Pages\n/Count 4>>\nendobj\n<</page0 [10 0 R /XYZ 6 8 0]\n/page1 [7 0 R /XYZ 6 8 0]>>"
    assert pdf.page_numbers(sheets + tree) == {"page0": 2, "page1": 4}


def test_it_prints_until_the_numbers_hold(book, monkeypatch):
    """The first print has contents of one sheet, the later ones of two."""
    prints = []

    def stub(source, target):
        prints.append(source.read_text())
        sheets = b"".join(b"%d 0 obj\n<</Type /Page\n>>\n" % n for n in range(1, 6))
        begin = 3 + (len(prints) > 1)
        target.write_bytes(sheets + b"<</page0 [%d 0 R /XYZ]\n/page1 [5 0 R /XYZ]>>" % begin)

    monkeypatch.setattr(pdf, "print_file", stub)
    assert pdf.write(book).name == "book.pdf"
    assert [BeautifulSoup(text, "html.parser").nav.get_text("|").split("|")[2] for text in prints] == [
        "Results",
        "3",
        "4",
    ]


def test_without_a_browser_nothing_is_run(monkeypatch, capsys):
    monkeypatch.setattr(commands, "execute_all", lambda *a, **k: pytest.fail("ran"))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(pictures, "BROWSERS", ("no-such-browser",))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "--pdf"])
    assert stopped.value.code == 2 and "install Chromium" in capsys.readouterr().err


def test_the_report_prints_when_asked(monkeypatch, capsys):
    monkeypatch.setattr(commands, "execute_all", lambda *a, **k: {})
    monkeypatch.setattr(commands, "build", lambda: Path("html"))
    monkeypatch.setattr(commands, "browser", lambda: "chromium")
    monkeypatch.setattr(commands.pdf, "write", lambda: Path("book.pdf"))
    cli.main(["report"])
    assert "Printed" not in capsys.readouterr().out
    cli.main(["report", "--pdf"])
    assert "Printed: book.pdf" in capsys.readouterr().out


def test_a_browser_that_prints_nothing_is_reported(tmp_path, monkeypatch):
    stub = tmp_path / "browser"
    stub.write_text("#!/bin/sh\necho 'no display' >&2\nexit 3\n")
    stub.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(stub))
    with pytest.raises(pdf.PrintFailed, match=r"browser wrote no PDF \(no display\)"):
        pdf.print_file(tmp_path / "a.html", tmp_path / "a.pdf")
