"""The explorer without a browser: certificates against scikit-learn, names against brute force, markup that escapes."""

import dataclasses
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from repro.activations.forward import collect_texts
from repro.activations.language_models.load import load_model
from repro.base.config import ModelConfig
from repro.base.errors import BadInput
from repro.base.files import cache_dir
from repro.checkpoints import save_sae
from repro.sae import VARIANTS
from repro.sections.explorer import export, figures, markup, prepare
from repro.sections.explorer.page import number, percent
from repro.sections.explorer.session import Explorer, steps_to
from repro.solvers import Lasso, Pursuit, solve

EVIL = "a <script>alert(1)</script> & <img src=x onerror=alert(2)> <b>bold</b>"
TEXTS = [
    "The king of England gave up the thirteen colonies and signed a treaty of peace in Paris.",
    "A small bird builds its nest under the roof.\nIt eats seeds, and sings in the morning.",
    EVIL,
    "She opened the door, and there stood the old man who had lost his ship in the storm.",
]
M = 96


@pytest.fixture(scope="module")
def loaded():
    return load_model(ModelConfig(name="tiny"), "cpu")


@pytest.fixture(scope="module")
def rows(loaded):
    return collect_texts(loaded, TEXTS).select()


def random_sae(x: torch.Tensor, variant: str = "topk", **knobs):
    """Unit atoms, tied encoder, the mean as bias; latent 0 can never fire."""
    cls = VARIANTS[variant]
    sae = cls(cls.Config(x.shape[1], M, **({"k": 9} if variant == "topk" else {}), **knobs))
    g = torch.Generator().manual_seed(3)
    atoms = torch.randn(M, x.shape[1], generator=g)
    with torch.no_grad():
        sae.W_dec.copy_(atoms / atoms.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.copy_(x.mean(0))
        sae.b_enc[0] = -1e6
        if variant == "standard":
            sae.b_enc.sub_(0.08 * (x - sae.b_dec).norm(dim=1).median())
    sae.source.layer = 2
    return sae


@pytest.fixture(scope="module")
def explorer(loaded, rows):
    return Explorer(random_sae(rows.read(slice(None))), loaded, rows)


@pytest.fixture(scope="module")
def state(explorer):
    return explorer.state(explorer.read(TEXTS[0]), steps=12)


# --- codes and certificates ------------------------------------------------------------------------------------------


def test_the_optimum_is_scikit_learns_and_the_bracket_holds_the_gap(explorer, state):
    from sklearn.linear_model import Lasso

    sae, x = explorer.sae, state.reading.x
    D, target = sae.W_dec.double().numpy(), (x - sae.b_dec).double().numpy()
    for i in (1, 4, len(x) - 1):
        theirs = Lasso(state.lam / x.shape[1], positive=True, fit_intercept=False, tol=1e-10, max_iter=100_000)
        z = theirs.fit(D.T, target[i]).coef_
        best = 0.5 * ((target[i] - z @ D) ** 2).sum() + state.lam * z.sum()
        for mode in ("amortized", "semi", "non"):
            code = state.codes[mode][i : i + 1].to_dense()[0].double().numpy()
            J = 0.5 * ((target[i] - code @ D) ** 2).sum() + state.lam * code.sum()
            assert float(state.objective[mode][i]) == pytest.approx(J, rel=1e-6)
            assert float(state.lower[mode][i]) <= J - best + 1e-6 * J
            assert float(state.upper[mode][i]) >= J - best - 1e-6 * J
        assert float(state.objective["non"][i]) == pytest.approx(best, rel=2e-4)


def test_semi_codes_are_a_loop_written_by_hand(explorer, state):
    sae, x = explorer.sae, state.reading.x
    D, target = sae.W_dec.double(), (x - sae.b_dec).double()
    step = 1 / float(torch.linalg.matrix_norm(D, 2) ** 2)
    z = state.codes["amortized"].to_dense().double()
    for _ in range(12):
        z = (z - step * ((z @ D - target) @ D.T + state.lam)).clamp(min=0)
    assert torch.allclose(state.codes["semi"].to_dense().double(), z, atol=1e-4)


def test_descent_closes_around_the_optimum(explorer, state):
    table, codes = explorer.descent(state.reading, 4, state.lam, [*steps_to(300), 12])
    best = float(state.objective["non"][4])
    assert list(table["step"]) == sorted({*steps_to(300), 12})
    assert (table["primal"].diff().dropna() <= 1e-6 * best).all()
    assert (table["dual"].diff().dropna() >= 0).all()
    assert (table["dual"] <= best * (1 + 1e-9)).all()
    assert (table["primal"] >= best * (1 - 2e-4)).all()
    assert table["gap"].iloc[-1] < 1e-3 * best < table["gap"].iloc[0]
    row = table.set_index("step").loc[12]
    assert row["primal"] == pytest.approx(float(state.objective["semi"][4]), rel=1e-6)
    assert torch.allclose(codes[12].to_dense()[0], state.codes["semi"].to_dense()[4], atol=1e-5)


def test_more_lambda_fewer_nonzeros_and_a_warm_start_changes_nothing(explorer, state):
    l0 = []
    before = state
    for lam in (0.5 * state.lam, 2 * state.lam, 8 * state.lam):
        warm, cold = explorer.state(state.reading, lam, before=before), explorer.state(state.reading, lam)
        assert torch.allclose(warm.objective["non"], cold.objective["non"], rtol=2e-4)
        l0.append(warm.summary().loc["non", "L0"])
        before = warm
    assert l0[0] > l0[1] > l0[2]
    nothing = explorer.state(state.reading, 1e6)
    assert nothing.summary().loc["non", "L0"] == 0
    assert math.isfinite(nothing.summary().loc["non", "share"])


def test_tables_and_means_count_what_they_say(explorer, state):
    table = state.table(4)
    for mode in table:
        dense = state.codes[mode].to_dense()[4]
        assert table[mode].to_dict() == pytest.approx({j: float(dense[j]) for j in table.index})
        assert (table[mode] > 0).sum() == int(state.codes[mode].l0[4])
    assert not state.reading.counted[0] and state.reading.counted[1:].all()
    assert state.summary().loc["amortized", "L0"] == 9
    assert "".join(state.reading.tokens) == TEXTS[0]
    sample = explorer.rows.read(slice(None))
    optimum = explorer.state(state.reading, explorer.matched_lambda)
    assert explorer.matched_lambda == optimum.lam > 0 and len(sample) == explorer.rows.n


@pytest.mark.parametrize(
    ("wanted", "call"),
    [
        ("no text", lambda e, s: e.read("  ")),
        ("at least two tokens", lambda e, s: e.read("a")),
        ("ista, fista", lambda e, s: e.state(s.reading, 1.0, solver="pursuit")),
        ("positive", lambda e, s: e.state(s.reading, 0.0)),
        ("at least 0", lambda e, s: e.state(s.reading, 1.0, steps=-1)),
        ("layer 3", lambda e, s: other_layer(e)),
        ("width 8", lambda e, s: Explorer(random_sae(torch.zeros(2, 8)), e.loaded, e.rows)),
    ],
)
def test_bad_input_is_named(explorer, state, wanted, call):
    with pytest.raises(BadInput, match=wanted):
        call(explorer, state)


def other_layer(e):
    sae = random_sae(e.rows.read(slice(None)))
    sae.source.layer = 3
    return Explorer(sae, e.loaded, e.rows)


# --- names of latents ------------------------------------------------------------------------------------------------


def test_names_are_what_brute_force_finds(explorer):
    x, library = explorer.rows.read(slice(None)), explorer.library
    dense = explorer.sae.encode(x).numpy()
    docs = explorer.rows.docs
    tokens = explorer.rows.store.tokens.reshape(-1)[explorer.rows.index]
    for j in np.flatnonzero((dense > 0).sum(0) > 2)[:5]:
        assert library.rate(j) == pytest.approx((dense[:, j] > 0).mean())
        largest = {d: max(v for v, e in zip(dense[:, j], docs) if e == d) for d in set(docs.tolist())}
        expected = sorted((v for v in largest.values() if v > 0), reverse=True)[:3]
        found = library.contexts(int(j), 3)
        assert [c.value for c in found] == pytest.approx(expected)
        top = int(dense[:, j].argmax())
        assert found[0].token == explorer.loaded.tokenizer.decode([int(tokens[top])])
        assert found[0].before + found[0].token + found[0].after in TEXTS[docs[top]]
        atoms = explorer.sae.W_dec.numpy()
        cosine = atoms @ atoms[j]
        cosine[j] = -2
        assert [i for i, _ in library.neighbours(int(j), 3)] == np.argsort(-cosine)[:3].tolist()


def test_a_dead_latent_says_so(explorer):
    assert explorer.library.contexts(0) == [] and explorer.library.words(0) == ""
    assert "fires on none" in markup.latent_card(explorer, 0)


# --- markup, figures, export -----------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element and attribute of a page, and the text outside scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.handlers, self.text, self.script = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.script = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.script = False

    def handle_data(self, data):
        self.text += "" if self.script else data


@pytest.fixture(scope="module")
def evil(explorer):
    return explorer.state(explorer.read(EVIL), steps=3)


def test_text_that_looks_like_markup_stays_text(explorer, evil):
    latents = [j for j in range(M) if any("<" in c.before + c.token + c.after for c in explorer.library.contexts(j))]
    cards = "".join(markup.latent_card(explorer, j) for j in latents)
    assert "script" in Elements(cards).text
    for part in (markup.token_strip(evil, 3), cards, markup.summary_table(evil)):
        page = Elements(part)
        assert not {"script", "img"} & set(page.tags) and not page.handlers
    assert "<script>alert(1)</script>" in "".join(Elements(markup.token_strip(evil)).text.split("\u200b"))


def test_the_page_that_stands_alone_holds_no_script_of_the_text(explorer, evil, tmp_path):
    i = evil.reading.tokens.index(">")
    plotted = export.as_html(explorer, evil, i)
    page = Elements(plotted)
    assert not page.handlers and "img" not in page.tags
    assert "<script>alert(1)" not in plotted and "alert(1)</script>" not in plotted
    assert "http" not in "".join(v for v in page.text.split())
    first, second = export.save(explorer, evil, i, tmp_path), export.save(explorer, evil, i, tmp_path)
    assert {p.name for p in (*first, *second)} == {"view-1.json", "view-1.html", "view-2.json", "view-2.html"}
    view = json.loads(first[0].read_text(encoding="utf-8"))
    assert view["text"] == EVIL and view["chosen"]["token"] == i
    assert view["tokens"][i]["gap"]["amortized"][1] == float(evil.upper["amortized"][i])
    assert "path" not in view["sae"]["source"]


def test_tokens_can_be_seen():
    seen = [figures.visible(token) for token in (" a", "  ", "\n", "\t<b>")]
    assert seen == ["a", "␣", "⏎", "⇥<b>"]


# --- the prepared examples of the book ------------------------------------------------------------------------------


def test_prepared_numbers_are_those_of_the_live_explorer(explorer):
    """At three lambdas, one after another; codes to the dense ones of a state, pursuit by its own solver."""
    reading, kinds = explorer.read(TEXTS[0]), len(prepare.STEPS)
    lambdas = [explorer.matched_lambda * f for f in (0.5, 1, 2)]
    text = prepare.of_text(explorer, "king", TEXTS[0], lambdas)
    keep = reading.counted
    assert text["tokens"] == list(reading.tokens) and text["left out"] == 1
    latents = torch.tensor(text["latents"])
    for i, lam in enumerate(lambdas):
        for k, steps in enumerate(prepare.STEPS):
            state = explorer.state(reading, lam, steps)
            z = torch.tensor(text["z"])[:, i]
            for mode, place in (("amortized", 0), ("semi", k), ("non", kinds)):
                stored = {key: np.array(text[key])[:, i, place] for key in ("l0", "gap", "error")}
                J, upper = state.objective[mode][keep], state.upper[mode][keep]
                assert np.abs(stored["gap"] - upper.numpy()).max() <= 0.005 * float(upper.max()) + 2e-4 * float(J.max())
                own = state.codes[mode].to_dense()[keep]
                torch.testing.assert_close(z[:, place], own.gather(1, latents), atol=2e-3, rtol=2e-3)
                lost = (reading.x[keep] - explorer.sae.decode(own)).square().sum(1) / reading.x[keep].square().sum(1)
                assert stored["error"] == pytest.approx(lost.numpy(), rel=2e-2, abs=1e-4)
                if mode == "amortized":
                    assert (stored["l0"] == 9).all()
    pursued = solve(
        Lasso(explorer.sae.target(reading.x[keep]), explorer.sae.W_dec, 0.0), Pursuit(k=9), max_steps=9, tol=None
    )
    dense = pursued.codes.to_dense().gather(1, latents)
    torch.testing.assert_close(torch.tensor(text["z"])[:, 0, -1], dense, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", prepare.CHOICES)
def test_stored_examples_are_certified_and_whole(scale):
    stored, kinds = prepare.load(scale), len(prepare.STEPS) + 2
    assert prepare.file_of(scale).stat().st_size < 300_000
    assert stored["steps"] == list(prepare.STEPS) and len(stored["saes"]) == len(prepare.CHOICES[scale].saes)
    assert "/" not in json.dumps(stored["about"]).replace("EPYC/", "")
    for sae in stored["saes"]:
        assert len(sae["lambdas"]) == len(prepare.FACTORS) and len(sae["texts"]) == 3
        for text in sae["texts"]:
            n = len(text["tokens"]) - text["left out"]
            z, gap, l0, error = (np.array(text[key], float) for key in ("z", "gap", "l0", "error"))
            J = gap + np.array(text["bound"])[..., None]
            assert z.shape == (n, len(prepare.FACTORS), kinds, prepare.SHOWN)
            assert gap.shape == l0.shape == error.shape == z.shape[:3]
            assert (gap[..., -2] <= prepare.TOL * J[..., -2]).all()
            assert (np.diff(gap[..., :-2]) <= 0.01 * gap[..., :-3] + 1e-4 * J[..., :-3]).all()  # ISTA descends
            assert (l0[..., -1] <= l0[..., 0]).all() and (np.diff(l0[..., [0, -1]], axis=1) == 0).all()
            assert ((z > 0).sum(-1) <= l0).all() and (z >= 0).all()
            assert {str(j) for row in text["latents"] for j in row} <= set(sae["latents"])


def test_a_stored_example_is_solved_again():
    """One of the bundled model's, where `make report` has left its SAEs; training them elsewhere moves some digits."""
    if not [*(cache_dir() / "experiments").glob("tiny-*/saes-*")]:
        pytest.skip("needs the SAEs of the bundled model (make report)")
    choice = prepare.CHOICES["tiny"]
    again = prepare.examples("tiny", dataclasses.replace(choice, saes=choice.saes[:1], texts=choice.texts[:1]))
    (sae,), stored = again["saes"], prepare.load("tiny")["saes"][0]
    new, old = sae["texts"][0], stored["texts"][0]
    assert new["tokens"] == old["tokens"] and sae["label"] == stored["label"]
    assert sae["lambdas"] == pytest.approx(stored["lambdas"], rel=0.03)
    for key in ("error", "bound", "l0"):
        np.testing.assert_allclose(np.mean(new[key], axis=0), np.mean(old[key], axis=0), rtol=0.05)
    share = [
        np.sum(t["gap"], axis=0) / (np.sum(t["gap"], axis=0) + np.sum(t["bound"], axis=0)[:, None]) for t in (new, old)
    ]
    np.testing.assert_allclose(*share, rtol=0.05, atol=1e-3)


def test_numbers_of_the_page():
    shown = [number(v) for v in (0, 0.05, 12.345, 99.96, 1234.5)]
    assert shown == ["0", "0.0500", "12.3", "100", "1234"]
    assert [percent(s) for s in (0, 5e-5, 0.1234)] == ["0 %", "< 0.01 %", "12.3 %"]


def test_bad_choices_of_examples_are_named():
    with pytest.raises(BadInput, match="small or tiny"):
        prepare.examples("paper")
    with pytest.raises(BadInput, match=r"prepare_explorer\.py paper"):
        prepare.load("paper")


def test_backgrounds_leave_the_text_legible_in_both_themes():
    def linear(c):
        c = np.asarray(c) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    r, g, b, alpha = (float(v) for v in markup.shade(1.0, 1.0)[5:-1].split(","))
    for page, ink in ((255, 33), (18, 206)):  # body text of the book's two themes
        behind = [alpha * c + (1 - alpha) * page for c in (r, g, b)]
        low, high = sorted((linear(behind), linear([ink] * 3)))
        assert (high + 0.05) / (low + 0.05) > 4.5
    levels = [float(markup.shade(s, 0.4)[:-1].rsplit(",", 1)[1]) for s in (0, 0.1, 0.2, 0.4)]
    assert levels == sorted(set(levels)) and levels[0] == 0


# --- widgets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(explorer, loaded, rows, tmp_path_factory):
    pytest.importorskip("ipywidgets")
    from repro.sections.explorer.app import App

    folder = tmp_path_factory.mktemp("saes")
    save_sae(explorer.sae, folder / "one.safetensors")
    save_sae(random_sae(rows.read(slice(None)), "standard"), folder / "two.safetensors")
    wrong = random_sae(rows.read(slice(None)))
    wrong.source.layer = 3
    save_sae(wrong, folder / "three.safetensors")
    saes = {name: folder / f"{name}.safetensors" for name in ("one", "two", "three")}
    return App(saes, {"king": TEXTS[0]}, loaded, rows, folder / "exports")


def plotted(output) -> dict:
    return output.outputs[0]["data"]["application/vnd.plotly.v1+json"]


def test_sliders_and_clicks_change_what_is_shown(app):
    codes, summary, lam = plotted(app.codes), app.summary.value, app.lam.value
    app.lam.value = 1.7 * lam
    assert app.state.lam == 1.7 * lam
    assert plotted(app.codes) != codes and app.summary.value != summary
    descent = plotted(app.descent)
    app.steps.value = 3
    assert plotted(app.descent)["data"][3]["x"] == [3]
    app.solver.value = "fista"
    assert plotted(app.descent)["data"][1]["y"] != descent["data"][1]["y"]
    about = app.about.value
    app.tokens.children[6].click()
    assert app.token == 6 and app.about.value != about
    assert [b.layout.border_top for b in app.tokens.children].index("2px solid currentColor") == 6
    app.matched.click()
    assert app.lam.value == pytest.approx(lam)
    app.latent.value = app.latent.options[1][1]
    assert f"Latent {app.latent.value}" in app.card.value


def test_a_text_of_ones_own(app):
    app.box.value = EVIL
    app.go.click()
    assert app.example.value == "your own text"
    assert "".join(b.description for b in app.tokens.children).replace("␣", "") == EVIL.replace(" ", "")
    app.save.click()
    assert "view-1.json" in app.saved.value
    app.box.value = " "
    app.go.click()
    assert "There is no text" in app.status.value
    app.example.value = "king"
    assert app.reading.text == TEXTS[0]


def test_an_sae_that_cannot_be_opened_leaves_the_old_one(app):
    app.sae.value = "two"
    assert "done in" in app.status.value, app.status.value
    assert app.explorer.sae.name == "standard"
    app.sae.value = "three"
    assert "layer 3" in app.status.value and app.sae.value == "two"
    app.lam.value = 1.1 * app.lam.value
    assert "done in" in app.status.value
