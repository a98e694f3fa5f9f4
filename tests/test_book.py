"""The built book in Chromium: a small sample always, and the real one (book/_build/html) where it has been built."""

import contextlib
import functools
import gzip
import http.server
import importlib.util
import io
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml
from chromium import CHROMIUM, FLAGS

from repro.base.files import repo_root
from repro.sections.verdict import NOT_RUN, OPEN, REFUTED, SUPPORTED

REAL = repo_root() / "book" / "_build" / "html"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]

SAMPLE = [
    ("markdown", "# Sample section\n\nThe objective $J(z)$ of one token:\n\n$$J(z) = \\tfrac12 \\|x - zD\\|^2$$"),
    ("parameters", "seed: int = 0  # seed of every draw"),
    (
        "code",
        "import ipywidgets as widgets\nimport pandas as pd\nimport plotly.graph_objects as go\n"
        "from repro.base import theme\nfrom repro.sections.tables import load_table\ntheme.use_theme()\n"
        "prices = load_table('price', 'small')",
    ),
    (
        "code",
        "figure = go.Figure()\nfor mode in ('amortized', 'semi', 'non'):\n"
        "    figure.add_scatter(x=[0, 5, 10], y=[1, 0.5, 0.1 * len(mode)], name=mode, **theme.mode_style(mode))\n"
        "theme.caption(figure.update_layout(xaxis_title='steps', yaxis_title='gap'), 'The gap falls.')",
    ),
    ("code", "theme.caption(go.Figure(go.Heatmap(z=[[0, 1], [2, 3]], colorbar_title='rate')), 'Rates rise.')"),
    ("code", "pd.DataFrame([[1 / 3] * 12], columns=[f'a long name {i}' for i in range(12)]).style.format('{:.6f}')"),
    (
        "code",
        "slider, bar = widgets.IntSlider(30, description='steps'), widgets.IntProgress(30)\n"
        "widgets.jslink((slider, 'value'), (bar, 'value'))\nwidgets.VBox([slider, bar])",
    ),
    (
        "code",
        "rows = [('a', 'x', '0.5 [0.4, 0.6]', 1), ('a', 'y', '–', 2), ('b', 'x', '-1.5', 3)]\n"
        "pd.DataFrame(rows, columns=['model', 'by', 'effect', 'n']).set_index(['model', 'by'])",
    ),
    ("solution", "print('The answer.')"),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """The prose pages and one notebook, run and built the way the real book is."""
    from repro.book.build import build, pages
    from repro.book.runner import execute

    folder = tmp_path_factory.mktemp("sample")
    cells = [
        nbformat.v4.new_markdown_cell(text)
        if kind == "markdown"
        else nbformat.v4.new_code_cell(text, metadata={"tags": [] if kind == "code" else [kind]})
        for kind, text in SAMPLE
    ]
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), folder / "sample.ipynb"
    )
    (folder / "params").mkdir()
    (folder / "params" / "tiny.yaml").write_text("sample:\n")
    source, book = repo_root() / "book", folder / "book"
    kept = ("_build", "executed", "_generated")
    shutil.copytree(source, book, ignore=shutil.ignore_patterns(*kept))
    names = ["executed/sample", *(name for name in pages(source) if not name.startswith(("executed/", "index")))]
    chapters = [{"file": name} for name in names]
    (book / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "index", "chapters": chapters}))
    for page in book.glob("*.md"):  # the one notebook stands for all that pages point to
        page.write_text(re.sub(r"\(executed/\w+\.ipynb\)", "(executed/sample.ipynb)", page.read_text()))
    execute("sample", notebooks_dir=folder, out_dir=book / "executed")
    return build(book)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """Address of a folder that this machine serves, below the root of the site as on GitHub Pages."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{folder.name}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", params=["sample", "real"])
def site(request):
    """(address, folder) of a book served on this machine."""
    folder = REAL if request.param == "real" else request.getfixturevalue("sample")
    if not (folder / "index.html").is_file():
        pytest.skip("book/_build/html has not been built (make report)")
    with served(folder) as address:
        yield address, folder


def pages_of(folder: Path) -> list[str]:
    """Every page of the book, without search and index helpers of the theme."""
    found = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*.html"))]
    return [p for p in found if p not in ("search.html", "genindex.html") and not p.startswith("_")]


def open_page(browser, address: str, width: int = 1440, theme: str = "light"):
    """A page in a fresh context, and the list that collects everything it did wrong."""
    page, wrong = watched(browser, address, width, theme)
    go(page, address, wrong)
    return page, wrong


def watched(browser, address: str, width: int, theme: str, **options):
    """An empty page that refuses to leave the site of the address, and the list of what goes wrong on it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
    page, wrong = context.new_page(), []
    home = address.split("//")[0] + "//" + address.split("//")[1].split("/")[0]
    page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
    outside = re.compile(rf"^(?!{re.escape(home)}|data:|blob:)")

    def refuse(route):
        wrong.append(f"request: {route.request.url}")
        route.abort()

    context.route(outside, refuse)
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    return page, wrong


def go(page, address: str, wrong: list[str]) -> None:
    """Load a page and wait until it is drawn."""
    page.goto(address, wait_until="load", timeout=60_000)  # machines of continuous integration are slow
    wrong += settled(page)


def settled(page) -> list[str]:
    """Wait until every figure is drawn and every equation set; what is not by then is complained about."""
    complaints = []
    for what, inside in (("figure.plotly-figure .plot", ".main-svg"), (".math", "mjx-container")):
        done = f"[...document.querySelectorAll({what!r})].every(e => e.querySelector({inside!r}))"
        try:
            page.wait_for_function(done, timeout=20_000)
        except Exception:
            complaints.append(f"an element {what} without its {inside}")
    return complaints


def problems_of(browser, address: str, names: list[str]) -> list[str]:
    """What is wrong with pages: a request leaves, something fails, a figure has no trace, an equation or the theme is
    not set, or the page scrolls sideways; on a desk in light and on a phone in dark.

    One tab a screen goes from page to page as a reader does, so that the scripts of all are read once.
    """
    problems = []
    for width, theme in ((1440, "light"), (390, "dark")):
        page, wrong = watched(browser, address, width, theme)
        for name in names:
            wrong.clear()
            go(page, address + name, wrong)
            traces = page.evaluate("[...document.querySelectorAll('.plotly-figure .plot')].map(p => p.data?.length)")
            wrong += [f"figure {i} has no trace" for i, n in enumerate(traces) if not n]
            wrong += ["equation with an error"] * page.locator("mjx-merror").count()
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            wrong += [f"{wide} px of sideways scroll"] if wide > 0 else []
            wrong += ["wrong theme"] if page.evaluate("document.documentElement.dataset.theme") != theme else []
            problems += [f"{name} at {width} px: {text}" for text in wrong]
        page.context.close()
    return problems


def test_every_kind_of_page_stands_alone(browser, sample):
    """Opened as files. All pages of the real book: test_book_pages.py."""
    kinds = ["index.html", "how-to-read.html", "executed/sample.html", "api/solvers.html"]
    assert not problems_of(browser, sample.as_uri() + "/", kinds)


def test_what_is_wrong_is_found(browser, sample):
    broken = sample / "broken.html"
    broken.write_text(
        "<html data-theme=light><figure class=plotly-figure><div class=plot><svg class=main-svg></svg></div></figure>"
        "<div style='width:9999px'>wide</div><mjx-merror></mjx-merror><img src='https://example.org/x.png'>"
        "<script>throw Error('thrown')</script></html>"
    )
    found = "\n".join(problems_of(browser, sample.as_uri() + "/", ["broken.html", "index.html"]))
    broken.unlink()
    for sentence in ("no trace", "sideways", "equation", "request: https://example.org", "thrown", "wrong theme"):
        assert sentence in found
    assert "index.html" not in found


class Silent(HTMLParser):
    """Collects pictures and figures that a screen reader could not speak, and figures without a caption."""

    def __init__(self):
        super().__init__()
        self.problems, self.captions, self.figures = [], 0, 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        spoken = (values.get("alt") or values.get("aria-label") or "").strip()
        if (tag == "img" or values.get("role") == "img") and spoken in ("", "Figure"):
            self.problems.append(f"<{tag} class={values.get('class')} src={values.get('src')}> says nothing")
        self.figures += tag == "figure" and "plotly-figure" in values.get("class", "")
        self.captions += tag == "figcaption"


def test_code_is_folded_and_tables_lie_beside_it(browser, sample):
    """All cells but the parameters; one button opens them, not the solution of an exercise, which has its own; the
    links below the last cell lead to what was drawn.
    """
    with served(sample) as address:
        page, wrong = open_page(browser, address + "executed/sample.html")
        codes = sum(kind == "code" for kind, _ in SAMPLE)
        assert page.locator("details.hide.above-input").count() == codes + 1
        inputs = page.locator(".cell_input:visible")
        assert inputs.count() == 1 and "seed of every draw" in inputs.inner_text()
        page.locator("button.all-code").click()
        assert page.locator(".cell_input:visible").count() == codes + 1
        page.locator("button.all-code").click()
        assert page.locator(".cell_input:visible").count() == 1
        answer = page.get_by_text("The answer.", exact=True)
        assert not answer.is_visible()
        page.locator("summary:visible", has_text="Solution").click()
        assert answer.is_visible()
        table, notebook = (
            page.locator(f".around a[href$='{end}']").get_attribute("href") for end in ("small/price.csv", "ipynb")
        )
        assert "keys: seed." in page.locator(".around").inner_text()
        assert (sample / "executed" / table).read_text() == (
            repo_root() / "data" / "results" / "small" / "price.csv"
        ).read_text()
        assert nbformat.read(sample / "executed" / notebook, as_version=4).cells[3].outputs
        assert not wrong
        page.context.close()


def test_a_head_sorts_its_table(browser, sample):
    """Largest first, then smallest, what is no number last; spanned cells are written out; Enter does it too."""
    page, wrong = open_page(browser, (sample / "executed" / "sample.html").as_uri())
    table = page.locator("div.cell_output table", has_text="effect")

    def shown():
        return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]

    assert shown()[1] == ["y", "–", "2"]
    table.get_by_role("button", name="effect").click()
    assert shown() == [["a", "x", "0.5 [0.4, 0.6]", "1"], ["b", "x", "-1.5", "3"], ["a", "y", "–", "2"]]
    table.get_by_role("button", name="effect").press("Enter")
    assert [row[2] for row in shown()] == ["-1.5", "0.5 [0.4, 0.6]", "–"]
    assert table.locator("[aria-sort=ascending]").inner_text().startswith("effect")
    table.get_by_role("button", name="model").click()
    assert [row[0] for row in shown()] == ["a", "a", "b"] and table.locator("[aria-sort]").count() == 1
    assert not wrong
    page.context.close()


def test_every_figure_is_spoken_and_pages_are_light(site):
    _, folder = site
    problems = []
    for name in pages_of(folder):
        text = (folder / name).read_text()
        reader = Silent()
        reader.feed(text)
        problems += [f"{name}: {problem}" for problem in reader.problems]
        without = reader.figures - reader.captions
        problems += [f"{name}: {without} figures without a caption"] if without > 0 else []
        problems += [f"{name} has {len(text.encode())} bytes of its own"] if len(text.encode()) > 100_000 else []
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", ["index.html", "how-to-read.html"])
def test_first_load_is_small(browser, site, name):
    """Under 4 MB as a server sends it, compressed."""
    address, _ = site
    page = browser.new_context().new_page()
    got = []
    page.on("response", lambda response: got.append(response))
    page.goto(address + name, wait_until="load")
    settled(page)
    bodies = {response.url: response.body() for response in got}
    sent = {url.rsplit("/", 1)[-1]: len(gzip.compress(body, 6)) for url, body in bodies.items()}
    assert sum(sent.values()) < 4e6, sent
    page.context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, site):
    address, _ = site
    page, wrong = open_page(browser, address + "index.html")
    focus = """() => { const e = document.activeElement, s = getComputedStyle(e);
        const seen = e === document.body || (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2);
        return [e.textContent.trim(), seen]; }"""
    reached = {}
    for _ in range(60):
        page.keyboard.press("Tab")
        text, visible = page.evaluate(focus)
        reached[text] = visible
    assert next(iter(reached)) == "Skip to main content"
    assert "How to read this book" in reached
    unseen = [text for text, visible in reached.items() if not visible]
    assert not unseen, unseen
    assert not wrong
    page.context.close()


def test_verdicts_read_on_a_phone(browser, site):
    """No head of the table at phone width: each verdict says its model; and words, not only colour."""
    address, _ = site
    page, wrong = open_page(browser, address + "index.html", 390, "dark")
    chips = page.locator("table.ledger .verdict")
    words = {text.strip() for text in chips.all_inner_texts()}
    assert chips.count() >= 18 and words <= {SUPPORTED, REFUTED, OPEN, NOT_RUN}
    assert page.locator("table.ledger thead:visible").count() == 0
    assert page.locator("table.ledger .model:visible").count() == chips.count()
    assert not wrong
    page.context.close()


def test_sidebar_navigates(browser, site):
    address, _ = site
    for width in (1440, 390):
        page, wrong = open_page(browser, address + "index.html", width)
        if width == 390:
            page.locator(".primary-toggle").first.click()
        link = page.locator(
            ".bd-sidebar-primary a[href$='how-to-read.html']:visible, dialog a[href$='how-to-read.html']:visible"
        )
        link.first.click()
        page.wait_for_url("**/how-to-read.html")
        assert page.locator("h1").first.inner_text().startswith("How to read this book")
        assert not wrong
        page.context.close()


def test_search_finds_a_page(browser, site):
    address, _ = site
    page, wrong = open_page(browser, address + "index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("certificate")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=certificate*")
    page.locator("#search-results li a").first.wait_for()
    assert "How to read this book" in page.locator("#search-results").inner_text()
    assert not wrong
    page.context.close()


def first_figure_page(folder: Path) -> str:
    for name in pages_of(folder):
        if 'class="plotly-figure"' in (folder / name).read_text():
            return name
    pytest.skip("no page with a figure")


def test_theme_button_recolours_figures(browser, site):
    address, folder = site
    page, wrong = open_page(browser, address + first_figure_page(folder))
    ink = "getComputedStyle(document.querySelector('.plot .xtick text, .plot .ytick text, .plot .legendtext')).fill"
    before, theme = page.evaluate(ink), page.evaluate("document.documentElement.dataset.theme")
    traces = page.evaluate("document.querySelector('.plot').data.length")
    for _ in range(3):  # the button goes round auto, light and dark
        page.locator("button.theme-switch-button:visible").first.click()
        page.wait_for_timeout(200)
        if page.evaluate("document.documentElement.dataset.theme") != theme:
            break
    page.wait_for_function(f"{ink} !== '{before}'")
    assert page.evaluate("document.querySelector('.plot').data.length") == traces
    assert not wrong
    page.context.close()


def test_legend_and_widgets_work_without_a_kernel(browser, sample):
    """Opened as files, as a reader of a downloaded book does."""
    page, wrong = open_page(browser, (sample / "executed" / "sample.html").as_uri())
    assert page.evaluate("[...document.querySelectorAll('.plot')].map(p => p.data.length)") == [3, 1]
    assert page.locator(".plot .heatmaplayer image").count() == 1
    assert page.locator("figcaption").all_inner_texts() == ["The gap falls.", "Rates rise."]
    page.locator("details.numbers summary").first.click()
    page.locator("details.numbers tr").first.wait_for()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("details.numbers tr").all()]
    assert rows[:3] == [["series", "steps", "gap", "note"], ["amortized", "0", "1", ""], ["amortized", "5", "0.5", ""]]
    assert len(rows) == 1 + 3 * 3
    page.locator(".plot .legendtoggle").first.click()
    page.wait_for_function("document.querySelector('.plot').data[0].visible === 'legendonly'")
    bar = page.locator(".progress-bar, .widget-hprogress .progress div").first
    bar.wait_for()
    before = bar.bounding_box()["width"]
    handle = page.locator(".noUi-handle").first
    handle.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert bar.bounding_box()["width"] > before
    assert not wrong
    page.context.close()


SHEET = 673
"""Pixels of a sheet of A4 between its margins (book.css)."""


def put_on_paper(page) -> list[str]:
    """Lay a page out as a print does; returns what is wider than the sheet or cut off by its box.

    A box of a pixel holds words for who hears the page.
    """
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": SHEET, "height": 900})
    return page.evaluate("""() => [...document.querySelectorAll(".bd-article *")].filter((e) => {
        if (!e.checkVisibility() || e.closest(".plot, mjx-container, svg")) return false;
        const { left, right } = e.getBoundingClientRect(), cuts = getComputedStyle(e).overflowX !== "visible";
        return left < -1 || right > innerWidth + 1 || (cuts && e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1);
    }).map((e) => `${e.tagName}: ${e.textContent.trim().slice(0, 40)}`)""")


def test_a_page_prints_in_light_with_all_its_tables_figures_and_answers(browser, sample):
    """Whatever the reader's theme; on screen again, everything is as it was."""
    imread = pytest.importorskip("matplotlib.image").imread
    page, wrong = open_page(browser, (sample / "executed" / "sample.html").as_uri(), theme="dark")
    ink = "getComputedStyle(document.querySelector('.plot .legendtext')).fill"
    dark = page.evaluate(ink)
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 4")
    assert not put_on_paper(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "light" and page.evaluate(ink) != dark
    assert page.locator("th:visible", has_text="a long name 11").count() == 1
    assert page.get_by_text("The answer.", exact=True).is_visible()
    inputs = page.locator(".cell_input:visible")
    assert ["seed of every draw" in text for text in inputs.all_inner_texts()] == [True, False]  # and the solution
    assert not page.locator(
        "nav:visible, button:not(.sort):visible, .bd-footer:visible, .modebar-container:visible"
    ).count()
    assert page.locator("h1:visible").all_inner_texts() == ["Sample section"]
    outside = """[...document.querySelectorAll(".plot text")].map((text) => [text, text.closest(".plot")]).filter(
        (pair) => pair[0].getBoundingClientRect().right > pair[1].getBoundingClientRect().right + 1
    ).map((pair) => pair[0].textContent)"""
    assert not page.evaluate(outside)
    for plot in page.locator(".plot").all():
        pixels = imread(io.BytesIO(plot.screenshot()))[..., :3]
        assert pixels.shape[1] == SHEET and pixels[:2].min() > 0.99  # on white
        assert 0.005 < (pixels.min(-1) < 0.8).mean() < 0.95
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(f"{ink} === '{dark}'")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not wrong
    page.context.close()


def test_the_book_prints_to_one_file(sample):
    """Every page begins a sheet, in the order of the contents, and is in the outline; no link leads to a file."""
    from repro.book import pdf
    from repro.book.contents import pages

    target = pdf.write(sample.parents[1])
    assert target == sample.parents[1] / "_build" / "book.pdf" and [*target.parent.glob("book.*")] == [target]
    printed, names = target.read_bytes(), pages(sample.parents[1])
    numbers = pdf.page_numbers(printed)
    begins = [numbers[f"page{i}"] for i in range(len(names))]
    assert begins == sorted({*begins}) and begins[0] == 3  # after the title page and the contents
    titles = re.findall(rb"/Title \((.*?)\)\n", printed)
    order = [titles.index(title) for title in (b"Contents", b"Sample section", b"How to read this book", b"Solvers")]
    assert order == sorted(order)
    assert b"/URI (file:" not in printed and b"/URI (https:" in printed
    assert printed.count(b"/Subtype /Image") < 9  # figures are drawn in lines and text; a heatmap is a picture


def test_readers_without_scripts_are_told(browser, sample):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((sample / "executed" / "sample.html").as_uri())
    if importlib.util.find_spec("kaleido"):
        pictures = page.locator("noscript img")
        assert pictures.count() == 2
        assert pictures.first.get_attribute("alt") == "The gap falls."
        assert page.evaluate("[...document.querySelectorAll('noscript img')].every(i => i.naturalWidth > 600)")
    else:
        assert page.locator("noscript p").all_text_contents() == ["This figure needs JavaScript."] * 2
    assert page.locator(".plot:visible").count() == 0
    context.close()


def test_all_of_plotly_comes_from_the_wheel_and_only_where_needed(sample):
    import plotly

    shared = list((sample / "_static").glob("plotly-*.min.js"))
    assert [p.read_bytes() for p in shared] == [
        (Path(plotly.__file__).parent / "package_data/plotly.min.js").read_bytes()
    ]
    loads = {name: (sample / name).read_text() for name in pages_of(sample)}
    assert [name for name, text in loads.items() if shared[0].name in text] == ["executed/sample.html"]  # a heatmap
    basic = [name for name, text in loads.items() if "plotly-basic-" in text]
    assert basic == ["executed/sample.html", "how-to-read.html", "index.html", "scale.html"]
    text = loads["executed/sample.html"]
    assert text.index("plotly-basic-") < text.index(shared[0].name)  # all of it takes the place of the basic bundle
    assert "thebe" not in (sample / "index.html").read_text().lower()
