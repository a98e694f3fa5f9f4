"""A figure with a slider, as the book shows it, under the keys of Chromium: no kernel, no book, no network."""

import json
from pathlib import Path

import plotly
import plotly.graph_objects as go
import pytest
from test_book import browser, pytestmark  # noqa: F401 -- fixture and marks

from repro.base import theme
from repro.base.files import repo_root
from repro.book import mime
from repro.sections.explorer import static

LABELS = ("zero", "one", "two", "three")


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    """A page with one figure whose slider moves a bar and the title, made as the explorer makes it."""
    figure = go.Figure(go.Bar(x=["a", "b"], y=[1, 2]), layout={"template": theme.template("neutral")})
    bars = [{"y": [i, 2 * i]} for i in range(len(LABELS))]
    marks = [static._mark(label, [bar], [0], f"at {label}") for label, bar in zip(LABELS, bars, strict=True)]
    static._finish(figure, marks, 1, "position: ", 470)
    opening, closing = mime.figure_html(json.loads(theme.caption(figure, "Bars.", "Two bars.").to_json()))
    book, library = repo_root() / "book" / "_static", Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    file = tmp_path / "page.html"
    file.write_text(
        f'<!doctype html><html data-theme="light"><head><meta charset="utf-8">'
        f'<style>{(book / "book.css").read_text()}</style><script defer src="{library.as_uri()}"></script>'
        f'<script>{mime._page_templates()}</script><script defer src="{(book / "book.js").as_uri()}"></script></head>'
        f"<body><button>before</button>{opening}{closing}<button>after</button></body></html>"
    )
    tab = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
    tab.wrong = []
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.goto(file.as_uri())
    tab.locator("input.slide").wait_for(state="attached")
    yield tab
    assert not tab.wrong
    tab.context.close()


def shown(tab):
    """(heights of the bars, title, position of plotly's slider) as plotly holds them."""
    return tab.evaluate(
        "(() => { const p = document.querySelector('.plot');"
        "return [[...p.data[0].y], p.layout.title.text, p.layout.sliders[0].active]; })()"
    )


def test_keys_move_the_slider_and_the_figure(page):
    assert shown(page) == [[1, 2], "at one", 1]
    page.locator("button", has_text="before").focus()
    page.keyboard.press("Tab")
    slide = page.locator("input.slide")
    assert slide.evaluate("e => e === document.activeElement && getComputedStyle(e).opacity === '1'")
    assert slide.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth) >= 2")
    assert slide.get_attribute("aria-label") == "position"
    assert slide.get_attribute("aria-valuetext") == "position: one"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.plot').data[0].y[1] === 4")
    assert shown(page) == [[2, 4], "at two", 2]
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('.plot').data[0].y[1] === 6")
    assert shown(page) == [[3, 6], "at three", 3] and slide.get_attribute("aria-valuetext") == "position: three"
    page.keyboard.press("Tab")
    assert slide.evaluate("e => getComputedStyle(e).opacity === '0'")
    assert page.locator("button", has_text="after").evaluate("e => e === document.activeElement")


def test_the_mouse_tells_the_keys_and_the_theme_leaves_both_alone(page):
    page.locator(".slider-rail-touch-rect").first.click(position={"x": 2, "y": 2}, force=True)
    page.wait_for_function("document.querySelector('.plot').layout.sliders[0].active === 0")
    assert page.locator("input.slide").input_value() == "0"
    page.locator("input.slide").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.plot').data[0].y[1] === 4")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(500)
    assert shown(page) == [[2, 4], "at two", 2]
    assert page.locator("input.slide").count() == 1
