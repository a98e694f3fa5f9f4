"""The explorer of the book in Chromium, opened from disk: no kernel, no network, and Python's numbers on the screen."""

import math
from types import SimpleNamespace

import pytest
from test_book import browser, pytestmark, watched  # noqa: F401 -- fixture and marks

from repro.base.files import repo_root
from repro.book import explorer
from repro.sections.explorer import page, prepare
from repro.sections.explorer.figures import visible

MIDDLE = len(prepare.FACTORS) // 2
START = prepare.STEPS.index(30)
TABS = ("model", "sae", "text", "explorer-token", "lambda", "steps")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with nothing but the explorer, as a file, below another folder as on a web site."""
    folder = tmp_path_factory.mktemp("site")
    builder = SimpleNamespace(format="html")
    explorer.copy(SimpleNamespace(builder=builder, outdir=folder, srcdir=repo_root() / "book"), None)
    file = folder / "executed" / "page.html"
    file.parent.mkdir()
    base = "../_static/explorer/explorer"
    file.write_text(
        f'<!doctype html><html data-theme="light"><head><meta charset="utf-8"><link rel="stylesheet" href="{base}.css">'
        f'<meta name="viewport" content="width=device-width"><script defer src="{base}.js"></script></head>'
        f"<body><button>before</button>{page.prepared().data}</body></html>"
    )
    return file.as_uri()


@pytest.fixture
def tab(browser, address):  # noqa: F811
    """The page at phone width, drawn; nothing may go wrong or be asked of the network."""
    opened, wrong = watched(browser, address, 390, "dark")
    opened.goto(address)
    opened.locator("#explorer[data-live] .codes tr").first.wait_for()
    yield opened
    assert not wrong
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.context.close()


def table(tab) -> list[tuple[str, ...]]:
    rows = tab.locator(".numbers tbody tr").all()
    return [tuple(text.strip() for text in row.locator("th, td").all_inner_texts()) for row in rows]


def bars(tab) -> list[str]:
    """What a screen reader is told of each latent's bars."""
    return tab.locator(".codes td .unseen").all_text_contents()


def spoken(sae, text, token, lam, step) -> list[str]:
    kinds = zip(page.rows(sae, text, token, lam, step), (0, step, len(prepare.STEPS), len(prepare.STEPS) + 1))
    places = max(0, -round(math.log10(sae["unit"])))
    words = [[f"{k[0]} {z * sae['unit']:.{places}f}" for z in sae["texts"][text]["z"][token][lam][i]] for k, i in kinds]
    return [", ".join(latent) for latent in zip(*words)]


def test_the_keyboard_moves_everything_and_the_numbers_are_pythons(tab):
    sae = prepare.load("small")["saes"][0]
    assert table(tab) == page.rows(sae, 0, page.TOKEN, MIDDLE, START)
    assert bars(tab) == spoken(sae, 0, page.TOKEN, MIDDLE, START)
    tab.locator("button", has_text="before").focus()
    for name in TABS:
        tab.keyboard.press("Tab")
        focus = tab.evaluate(
            "[document.activeElement.name, parseFloat(getComputedStyle(document.activeElement.type === 'radio' ?"
            " document.activeElement.nextSibling : document.activeElement).outlineWidth)]"
        )
        assert focus[0] == name and focus[1] >= 1
        if name == "explorer-token":
            tab.keyboard.press("ArrowRight")
        elif name in ("lambda", "steps"):
            tab.keyboard.press("ArrowLeft")
            tab.keyboard.press("ArrowLeft")
    at = (0, page.TOKEN + 1, MIDDLE - 2, START - 2)
    assert table(tab) == page.rows(sae, *at) and bars(tab) == spoken(sae, *at)
    text = sae["texts"][0]
    said = tab.locator("[role=status]").text_content()
    assert f"“{visible(text['tokens'][text['left out'] + page.TOKEN + 1])}”" in said
    assert all(f"{kind} {l0} nonzeros, gap {gap}" in said for kind, l0, _, _, gap in table(tab))
    assert page.number(sae["lambdas"][MIDDLE - 2]) in tab.locator("[name=lambda]").get_attribute("aria-valuetext")
    assert tab.locator("[name=steps]").get_attribute("aria-valuetext") == str(prepare.STEPS[START - 2])


def test_a_latent_shows_where_else_it_fires(tab):
    sae = prepare.load("small")["saes"][0]
    assert tab.locator(".cards p").count() == 3
    button = tab.locator(".codes button").last
    button.focus()
    tab.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    latent = str(sae["texts"][0]["latents"][page.TOKEN][-1])
    about = sae["latents"][latent]
    (card,) = tab.locator(".cards p").all_inner_texts()
    assert card.startswith(f"Latent {latent}") and page.percent(about["rate"]) in card
    assert tab.locator("[role=status]").text_content() == card
    assert [w.strip() for w in tab.locator(".cards li b").all_inner_texts()] == [
        visible(token) for _, _, token, _ in about["contexts"]
    ]


@pytest.mark.parametrize("scale", prepare.CHOICES)
def test_every_example_can_be_chosen(tab, scale):
    stored = prepare.load(scale)
    tab.locator("[name=model]").select_option(scale)
    tab.locator(f"[name=sae] option >> text='{stored['saes'][0]['label']}'").wait_for(state="attached")
    for i, sae in enumerate(stored["saes"]):
        tab.locator("[name=sae]").select_option(str(i))
        for j, text in enumerate(sae["texts"]):
            tab.locator("[name=text]").select_option(str(j))
            last = len(text["gap"]) - 1
            tab.locator(".tokens input").nth(last).check(force=True)
            for lam, step in ((0, 0), (len(prepare.FACTORS) - 1, len(prepare.STEPS) - 1)):
                for name, value in (("lambda", lam), ("steps", step)):
                    tab.locator(f"[name={name}]").fill(str(value))
                assert table(tab) == page.rows(sae, j, last, lam, step)


def test_without_scripts_the_first_view_stands_still(browser, address):  # noqa: F811
    opened = browser.new_context(java_script_enabled=False).new_page()
    opened.goto(address)
    assert table(opened) == page.rows(prepare.load("small")["saes"][0], 0, page.TOKEN, MIDDLE, START)
    assert "JupyterLab" in opened.locator("#explorer").inner_text()
    opened.context.close()
