"""Every page of the real book (book/_build/html, where it has been built) in Chromium, in a minute; .ci/run asks."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_book import (  # noqa: F401 -- fixtures, marks
    REAL,
    browser,
    pages_of,
    problems_of,
    put_on_paper,
    pytestmark,
    sample,
    served,
)

LEFT_OUT = ("jupyter_book", "sphinx_thebe", "sphinx_comments", "sphinx_jupyterbook_latex", "sphinx.ext.intersphinx")
built = pytest.mark.skipif(not (REAL / "index.html").is_file(), reason="book/_build/html is not there (make report)")


@pytest.mark.slow
@built
def test_every_page_stands_alone(browser):  # noqa: F811
    with served(REAL) as address:
        problems = problems_of(browser, address, pages_of(REAL))
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_sphinx_builds_the_same_pages_without_jupyter_book(sample, tmp_path):  # noqa: F811
    """The way out of Jupyter Book 1: its settings as conf.py, the theme and myst-nb, none of its own extensions."""
    book, tools = tmp_path / "book", Path(sys.executable).parent
    shutil.copytree(sample.parent.parent, book, ignore=shutil.ignore_patterns("_build"))
    subprocess.run([tools / "jupyter-book", "config", "sphinx", book], check=True, capture_output=True)
    with (book / "conf.py").open("a") as conf:
        conf.write(f"\nextensions = [name for name in extensions if name not in {LEFT_OUT}]\n")
    command = [tools / "sphinx-build", "-q", "-n", "-W", "--keep-going", "-b", "html", book, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(pages_of(sample)) == set(pages_of(tmp_path / "html"))
    assert all(said(sample / page) == said(tmp_path / "html" / page) for page in pages_of(sample))


def said(page: Path) -> str:
    """The words of a page's article, without the markup."""
    article = re.search(r'<article class="bd-article">.*?</article>', page.read_text(), re.S)
    return " ".join(re.sub(r"<script.*?</script>|<[^>]+>", " ", article[0], flags=re.S).split())


@pytest.mark.slow
@built
def test_nothing_is_cut_on_paper(browser):  # noqa: F811
    """Without the figures, which take the time: one of each kind is in test_book.py."""
    problems = []
    for name in pages_of(REAL):
        page = browser.new_page()
        page.route("**/*plotly*.js*", lambda route: route.abort())
        page.goto((REAL / name).as_uri())
        problems += [f"{name}: {text}" for text in put_on_paper(page)]
        page.close()
    assert not problems, "\n".join(problems)
