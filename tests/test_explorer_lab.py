"""The explorer in a real JupyterLab in Chromium: run all cells, move sliders by keyboard, click tokens, go dark."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from chromium import CHROMIUM, FLAGS

from repro.base.files import repo_root
from repro.book.kernel import own_kernel

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
INDICATOR = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status"
READY = (
    "(s => s?.isReady && s.session?.kernel?.connectionStatus === 'connected' && s.session.kernel.status === 'idle')"
    "(window.jupyterapp?.shell.currentWidget?.sessionContext)"
)
SHOTS = os.environ.get("REPRO_SHOTS")  # a folder for screenshots

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab whose folder holds a copy of the notebook; it shares no setting with the user's own."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(repo_root() / "notebooks" / "90_explorer.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    if os.environ.get("REPRO_LAB_SCALE") != "tiny":  # tiny uses what the checkout has prepared
        cell.source = cell.source.replace("changes = {}", f"changes = {json.dumps(NANO)}")
    work = folder / "work"
    work.mkdir()
    nbformat.write(notebook, work / "90_explorer.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    env = os.environ | {name: str(folder / name.lower()) for name in names}
    env |= {"OMP_NUM_THREADS": "1", "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    if os.environ.get("REPRO_LAB_SCALE") != "tiny":
        env["REPRO_CACHE"] = str(folder / "cache")
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": work,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    with own_kernel(), open(folder / "server.log", "w") as log:
        env["JUPYTER_PATH"] = os.environ["JUPYTER_PATH"]
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *flags]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=work)
        try:
            home = f"http://127.0.0.1:{port}"
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{home}/api?token={token}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "server.log").read_text()
                    time.sleep(0.5)
            yield home, token
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def page(lab):
    """The notebook, opened and run to its end; page.wrong collects what the console complained about."""
    from playwright.sync_api import sync_playwright

    home, token = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1440, "height": 1100})
        context.route(re.compile(rf"^(?!{re.escape(home)}|data:|blob:)http"), lambda route: route.abort())
        page, page.wrong = context.new_page(), []
        page.on("pageerror", lambda error: page.wrong.append(f"page error: {error}"))
        page.on("console", lambda m: m.type == "error" and page.wrong.append(f"console: {m.text} {m.location}"))
        page.goto(f"{home}/lab/tree/90_explorer.ipynb?token={token}&reset", timeout=120_000)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.wait_for_function(READY, timeout=120_000)  # a run that is asked for before is forgotten
        page.evaluate("void window.jupyterapp.commands.execute('runmenu:run-all')")
        page.locator(".widget-slider").first.wait_for(state="attached", timeout=200_000)
        page.wait_for_function(f"{INDICATOR} === 'idle'", timeout=100_000)
        page.get_by_role("button", name="No", exact=True).click()  # to Jupyter's offer of news
        page.evaluate("document.querySelector('.jp-OutputArea-child .widget-vbox').scrollIntoView()")
        drawn(page)
        yield page
        context.close()
        browser.close()


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
