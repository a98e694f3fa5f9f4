"""Every page of the real book (book/_build/html, where it has been built) in Chromium, in a minute; .ci/run asks."""

import pytest
from test_book import REAL, browser, pages_of, problems_of, pytestmark, served  # noqa: F401 -- fixture and marks


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "index.html").is_file(), reason="book/_build/html has not been built (make report)")
def test_every_page_stands_alone(browser):  # noqa: F811
    with served(REAL) as address:
        problems = problems_of(browser, address, pages_of(REAL))
    assert not problems, "\n".join(problems)
