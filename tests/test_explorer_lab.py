"""The explorer in a real JupyterLab in Chromium: run all cells, move sliders by keyboard, click tokens, go dark."""

import json
import os
import re
import time

import nbformat
import pytest
from chromium import CHROMIUM
from drawn import undrawn
from lab import lab_tab, run_all, served_lab

from repro.base.files import repo_root

NANO = {
    "train_tokens": 6000,
    "eval_tokens": 300,
    "label_docs": 80,
    "m": 128,
    "steps": 40,
    "batch_size": 128,
    "l1": [0.05],
    "ks": [8],
}
TOKENS = ".widget-box:not(.widget-hbox) > .jupyter-button"
SHOTS = os.environ.get("REPRO_SHOTS")  # a folder for screenshots

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The explorer, opened at 1500 pixels and run to its end; page.wrong collects what the console complained about."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(repo_root() / "notebooks" / "90_explorer.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    env = {}
    if os.environ.get("REPRO_LAB_SCALE") != "tiny":  # tiny uses what the checkout has prepared
        cell.source = cell.source.replace("changes = {}", f"changes = {json.dumps(NANO)}")
        env["REPRO_CACHE"] = str(folder / "cache")
    work = folder / "work"
    work.mkdir()
    nbformat.write(notebook, work / "90_explorer.ipynb")
    with served_lab(folder, work, **env) as address, lab_tab(address, 1500, 1100) as page:
        run_all(page, address, "90_explorer")
        page.evaluate("document.querySelector('.jp-OutputArea-child .widget-vbox').scrollIntoView()")
        drawn(page)
        yield page


def drawn(page) -> None:
    """Wait until both figures of the live view are drawn."""
    page.wait_for_function(
        "document.querySelectorAll('.widget-output .js-plotly-plot .main-svg').length >= 2",
        timeout=60_000,
    )


def shoot(page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(600)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def bars(page) -> list[str]:
    """The shapes of the bars in the figure of codes."""
    return page.evaluate(
        "[...document.querySelector('.widget-output .js-plotly-plot')"
        ".querySelectorAll('.bars path')].map(p => p.getAttribute('d'))"
    )


def table(page) -> str:
    return page.locator(".widget-html-content table").first.inner_text()


def press(page, slider: int, key: str, times: int) -> None:
    page.locator(".widget-slider .noUi-handle").nth(slider).focus()
    for _ in range(times):
        page.keyboard.press(key)


def changed(page, read, before, timeout: float = 20.0):
    """The new value of read(page), once it is another."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            now = read(page)
        except Exception:  # between two figures
            now = before
        if now and now != before:
            return now
        page.wait_for_timeout(50)
    raise AssertionError("nothing changed")


@pytest.mark.parametrize("width", [900, 1500])
def test_every_figure_is_seen(page, width):
    page.set_viewport_size({"width": width, "height": 1100})
    page.wait_for_timeout(2500)
    assert page.locator(".js-plotly-plot").count() == 2
    assert not undrawn(page)
    page.evaluate("document.querySelector('.jp-OutputArea-child .widget-vbox').scrollIntoView()")


def test_lambda_moves_by_keyboard_and_figure_and_numbers_follow(page):
    shoot(page, "opened")
    figure, numbers = bars(page), table(page)
    assert "encoder" in numbers and "optimum" in numbers
    press(page, 0, "ArrowRight", 5)
    assert changed(page, bars, figure) != figure
    assert changed(page, table, numbers) != numbers
    shoot(page, "lambda")


def test_a_move_says_how_long_it_took(page):
    said = page.locator(".widget-html-content", has_text="done in").first.inner_text()
    assert float(re.search(r"([\d.]+) ms", said).group(1)) > 0


def test_steps_are_counted_in_the_table(page):
    page.locator(".widget-html-content table").filter(has_text="30 ISTA steps").first.wait_for()
    press(page, 1, "ArrowLeft", 10)
    page.locator(".widget-html-content table").filter(has_text="20 ISTA steps").first.wait_for()


def test_a_click_on_a_token_changes_figure_and_words(page):
    figure = bars(page)
    tokens = page.locator(TOKENS)
    word = tokens.filter(has_text="king").first
    word.click()
    page.locator(".widget-html-content", has_text="“king”").first.wait_for()
    changed(page, bars, figure)
    shoot(page, "token")


def test_a_text_with_markup_is_shown_as_text(page):
    before = page.locator("script").count()
    page.locator("textarea").filter(visible=True).first.fill("a <script>alert(1)</script> <b>b</b> <img src=x>")
    page.locator("button.mod-primary", has_text="Read").click()
    page.locator(".jupyter-button", has_text="cri").first.wait_for()
    drawn(page)
    assert page.locator("script").count() == before
    assert page.locator(".jp-OutputArea img[src=x]").count() == 0
    shoot(page, "markup")


def test_the_dark_theme_is_legible(page):
    page.evaluate("void window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeName === 'JupyterLab Dark'")
    shoot(page, "dark")
    ink = f"getComputedStyle(document.querySelector('{TOKENS}')).color"
    red, green, blue = (int(v) for v in re.findall(r"\d+", page.evaluate(ink))[:3])
    assert min(red, green, blue) > 180


def test_the_console_stays_quiet(page):
    ours = [text for text in page.wrong if "favicon" not in text]
    assert not ours, "\n".join(ours)
