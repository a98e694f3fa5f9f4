"""The glossary: terms defined once, first uses linked in prose alone, definitions shown to pointer, key and finger."""

import re
import shutil

import pytest
from chromium import CHROMIUM
from test_book import browser, go, watched  # noqa: F401 -- fixture

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.book import glossary
from repro.book.build import _build

BOOK = repo_root() / "book"
DEFINED = glossary.definitions(BOOK)


def test_definitions_are_read_with_all_their_names(tmp_path):
    text = (
        "# G\n\n```{glossary}\n:sorted:\n\ndual gap\nduality gap\n  J minus Q,\n  for any v.\n\nL0\n  Nonzeros.\n```\n"
    )
    (tmp_path / "glossary.md").write_text(text)
    gap = "J minus Q, for any v."
    assert glossary.definitions(tmp_path) == {"dual gap": gap, "duality gap": gap, "L0": "Nonzeros."}
    (tmp_path / "glossary.md").write_text("# G\n")
    with pytest.raises(BadInput, match=re.escape("no {glossary} directive")):
        glossary.definitions(tmp_path)


def test_every_definition_is_one_line_of_plain_text():
    for term, text in DEFINED.items():
        assert text.endswith(".") and 15 < len(text) < 320, term
        assert not re.search(r"[`$*\[]", text), f"{term}: a tooltip shows markup as it is"


def test_what_the_book_measures_is_defined():
    names = {"L0", "NMSE", "FVE", "dead", "dense@t", "ΔF1", "F1@k", "absorption", "density null", "KL", "loss increase"}
    names |= {"supported", "refuted", "open", "margin", "interval", "random dictionary", "share of the guess", "refit"}
    assert names <= set(DEFINED) and set(glossary.UNLINKED) <= set(DEFINED)


def rows_of(heading: str) -> list[tuple[str, str]]:
    """(first, second cell) of each row of the table under a heading of how-to-read.md, without markup."""
    part = (BOOK / "how-to-read.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [re.sub(r"<[^>]*>|\$", "", line).split("|")[1:3] for line in part.split("\n") if line.startswith("| ")]
    return [(first.strip(), second.strip()) for first, second in rows[2:]]


@pytest.mark.parametrize("heading", ["The metrics", "Intervals and verdicts"])
def test_what_two_pages_define_has_the_same_words(heading):
    rows = [(term, words) for term, words in rows_of(heading) if term != "not yet run"]
    assert len(rows) >= 3
    for term, words in rows:
        assert DEFINED[term].lower().startswith(words.lower()), term


@pytest.mark.parametrize(
    "text, found",
    [
        ("Dead latents and dictionaries", ["Dead latents", "dictionaries"]),
        ("the SAEs, an sae, BatchTopK", ["SAEs", "BatchTopK"]),
        ("orthogonal\nmatching pursuit", ["orthogonal\nmatching pursuit"]),
        ("soft-support, L0-like, supported, /codes", []),
        ("F1@k and ΔF1 = F1@2", ["F1@k", "ΔF1"]),
    ],
)
def test_terms_are_found_as_words(text, found):
    find = glossary.pattern([term for term in DEFINED if term not in glossary.UNLINKED])
    assert [match[0] for match in find.finditer(text)] == found


# --- in the book -----------------------------------------------------------------------------------------------------

PAGE = (
    """# A page on L0

An encoder computes codes, `latent` and $z$.
The encoder [links the optimum](glossary.md) once; atoms, `atoms` and atoms.

| support | margin |
| --- | --- |
| support | margin |

```python
latent = 1
```

"""
    + "More text.\n\n" * 60
    + "The last line has a latent.\n"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book of two pages, built as the real one is."""
    book = tmp_path_factory.mktemp("glossary") / "book"
    shutil.copytree(BOOK, book, ignore=shutil.ignore_patterns("_build", "executed", "_generated", "*.md", "_toc.yml"))
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: glossary}]\n")
    (book / "index.md").write_text(PAGE)
    text = (BOOK / "glossary.md").read_text()
    (book / "glossary.md").write_text(re.sub(r"\]\([\w-]+\.md\)", "](index.md)", text))
    return _build(book)


def test_first_uses_in_prose_are_links(built):
    text = (built / "index.html").read_text()
    links = re.findall(r'<a class="term[^>]*href="glossary.html#([^"]+)">([^<]+)</a>', text)
    assert [word for _, word in links] == ["encoder", "codes", "atoms", "latent"]
    glossary_page = (built / "glossary.html").read_text()
    assert all(f'id="{anchor}"' in glossary_page for anchor, _ in links) and 'class="term ' not in glossary_page
    script = (built / "_static" / "glossary.js").read_text()
    assert script.startswith("window.glossary = {") and DEFINED["KL"] in script


BOX = "#definition"


def in_chromium(test):
    """Mark a test that needs the browser."""
    return pytest.mark.browser(
        pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)")(test)
    )


def open_page(browser, built, width=1440, theme="light", **options):  # noqa: F811
    page, wrong = watched(browser, built.as_uri() + "/index.html", width, theme, **options)
    go(page, built.as_uri() + "/index.html", wrong)
    page.wait_for_function("window.glossary")
    return page, wrong


@in_chromium
def test_focus_shows_it_and_escape_closes_it(browser, built):  # noqa: F811
    page, wrong = open_page(browser, built)
    term = page.locator("a.term").first
    term.focus()
    assert page.locator(BOX).inner_text() == DEFINED["encoder"]
    assert page.locator(BOX).get_attribute("role") == "tooltip"
    assert term.get_attribute("aria-describedby") == "definition"
    page.keyboard.press("Escape")
    assert page.locator(BOX).is_hidden() and term.get_attribute("aria-describedby") is None
    term.blur()
    term.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-encoder")
    assert not wrong
    page.context.close()


@in_chromium
def test_the_pointer_shows_it_and_may_rest_on_it(browser, built):  # noqa: F811
    page, wrong = open_page(browser, built)
    last = page.locator("a.term").last
    last.hover()  # at the lower edge: it is shown above
    page.locator(BOX).wait_for()
    box, word = page.locator(BOX).bounding_box(), last.bounding_box()
    assert box["y"] + box["height"] <= word["y"] + 1 or box["y"] >= word["y"] + word["height"] - 1
    assert box["x"] >= 0 and box["y"] >= 0 and box["y"] + box["height"] <= 900
    page.locator(BOX).hover()
    page.wait_for_timeout(400)
    assert page.locator(BOX).is_visible()
    page.mouse.move(5, 5)
    page.locator(BOX).wait_for(state="hidden")
    assert not wrong
    page.context.close()


@in_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_tap_shows_it_and_a_second_follows_the_link(browser, built, theme):  # noqa: F811
    page, wrong = open_page(browser, built, 390, theme, has_touch=True, is_mobile=True)
    term = page.locator("a.term").first
    term.tap()
    page.locator(BOX).wait_for()
    assert page.url.endswith("index.html")
    box = page.locator(BOX).bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    assert contrast(*page.locator(BOX).evaluate(style)) >= 4.5
    page.locator(".bd-article h1").first.tap()
    page.locator(BOX).wait_for(state="hidden")
    term.tap()
    page.locator(BOX).wait_for()
    term.tap()
    page.wait_for_url("**/glossary.html#term-encoder")
    assert not wrong
    page.context.close()


def contrast(*colors: str) -> float:
    """WCAG 2 contrast ratio of two CSS colours rgb(r, g, b)."""

    def luminance(color: str) -> float:
        parts = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)
