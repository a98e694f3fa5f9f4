"""Every page of the real book (book/_build/html, where it has been built) in Chromium, in a minute; .ci/run asks."""

import pytest
from test_book import REAL, browser, pages_of, problems_of, put_on_paper, pytestmark, served  # noqa: F401

built = pytest.mark.skipif(not (REAL / "index.html").is_file(), reason="book/_build/html is not there (make report)")


@pytest.mark.slow
@built
def test_every_page_stands_alone(browser):  # noqa: F811
    with served(REAL) as address:
        problems = problems_of(browser, address, pages_of(REAL))
    assert not problems, "\n".join(problems)


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
