"""The price by kinds of tokens and latents, and on other text: groups and means by hand on made-up tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from repro.price.latents import Latents
from repro.sae import TopK
from repro.sections.price import elsewhere_overview, payers, payers_figure, payers_findings, run_elsewhere, words
from repro.sections.scales import SCALES


def test_a_value_is_in_the_group_that_its_name_says():
    seen = torch.tensor([0, 9, 10, 99, 100, 999, 1000, 50_000])
    name = "times the token was in training"
    groups = torch.bucketize(seen.float(), payers._ends(name), right=True).tolist()
    named = [payers._head(name, g)["group"] for g in groups]
    assert named == ["< 10", "< 10", "10–99", "10–99", "100–999", "100–999", "≥ 1000", "≥ 1000"]
    assert payers._head("norm, in medians", 2)["group"] == "0.95–1.05"
    assert payers._head("training tokens on which the encoder fires it", 0)["group"] == "never"


def test_properties_of_tokens():
    """Two sequences of three tokens: the first trained on, the second evaluated."""
    ids, x = np.array([[5, 5, 7], [5, 9, 7]], np.int32), torch.tensor([[1.0, 0], [0, 2.0], [3.0, 0]])
    store = SimpleNamespace(tokens=ids, mask=np.ones((2, 3), bool))
    rows = SimpleNamespace(store=store, index=np.array([3, 4, 5]))
    tokens = SimpleNamespace(x=SimpleNamespace(rows=rows), blocks=lambda size: [(slice(0, 3), x)])
    ready = SimpleNamespace(rows=SimpleNamespace(index=np.array([0, 1, 2])))
    seen, place, norm = payers.of_tokens(ready, SimpleNamespace(tokens=tokens)).values()
    assert (seen.tolist(), place.tolist(), norm.tolist()) == ([2, 0, 1], [0, 1, 2], [0.5, 1, 1.5])


@pytest.fixture
def world():
    """Four latents, two of them nearly parallel, and four tokens, as if gone through."""
    sae = TopK(TopK.Config(3, 4, k=1))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0, 0], [2.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]))
    latents = Latents(sae, 4)
    latents.error = torch.tensor([[0.4, 0.2, 0.3, 0.1], [0.1, 0.1, 0.1, 0.1]])
    latents.fired["pursuit"], latents.missed = torch.tensor([4, 2, 2, 0]), torch.tensor([1, 2, 0, 0])
    return sae, latents


def test_means_by_group(world):
    sae, latents = world
    rows = list(payers.tokens_of(latents, {"place in the sequence": torch.tensor([0, 0, 3, 3])}))
    assert [(r["group"], r["n"]) for r in rows] == [("< 8", 2), ("≥ 64", 2)]
    assert [r["encoder"] for r in rows] == pytest.approx([0.3, 0.2])
    assert [r["pursuit"] for r in rows] == pytest.approx([0.1, 0.1])
    found = {(r["property"], r["group"]): r for r in payers.latents_of(sae, latents, torch.tensor([0.5, 0.005, 0, 0]))}
    rate, cosine = list(payers.EDGES)[3:]
    assert {key: (r["missed"], r["n"]) for key, r in found.items() if key[0] == rate} == {
        (rate, "≥ 10 %"): (0.25, 4), (rate, "0.1–1 %"): (1.0, 2), (rate, "never"): (0.0, 2)
    }  # fmt: skip
    assert {key: (r["missed"], r["n"]) for key, r in found.items() if key[0] == cosine} == {
        (cosine, "≥ 0.7"): (0.5, 6), (cosine, "< 0.3"): (0.0, 2)
    }  # fmt: skip


def test_the_sentence_and_the_figure_say_the_same(world, monkeypatch):
    sae, latents = world
    monkeypatch.setattr(payers, "FEW", 1)
    kinds = {name: torch.tensor([0, 1, 1, 3]) for name in list(payers.EDGES)[:3]}
    rows = [*payers.tokens_of(latents, kinds), *payers.latents_of(sae, latents, torch.tensor([0.5, 0.005, 0, 0]))]
    table = pd.DataFrame(rows).assign(variant="topk", sparsity=1, seed=0)
    said = payers_findings(table)
    assert "saw < 10 times (1 of them) the guess makes 0.300 of the encoder's relative error of 0.400" in said
    assert (
        "a difference of +0.300" in said
        and "0.000 of 0.100" in said
        and "misses 100% for" in said
        and "25% for" in said
    )
    figure = payers_figure("a model", table)
    assert list(figure.data[0].y) == pytest.approx([0.4, 0.25, 0.1]) and "4 held-out" in str(figure.layout.meta)
    monkeypatch.setattr(payers, "FEW", 2)
    assert list(payers_figure("a model", table).data[0].y) == pytest.approx([0.25])


def test_rare_tokens_are_compared_with_common_ones_variant_by_variant():
    """Differences .1 and .3 of two variants, one of them at two sparsities (.2, .4): .2 ± t(1) .1."""
    head = {"property": next(iter(payers.EDGES)), "seed": 0, "pursuit": 0.1}
    guesses = {("standard", 1): 0.1, ("topk", 1): 0.2, ("topk", 2): 0.4}
    rows = [
        head | {"variant": v, "sparsity": k, "order": order, "encoder": 0.1 + guess * (order == 0)}
        for (v, k), guess in guesses.items() for order in (3, 0)
    ]  # fmt: skip
    effect = payers.extra(pd.DataFrame(rows))
    assert (effect.value, effect.se, effect.n) == (pytest.approx(0.2), pytest.approx(0.1), 2)


def test_there_is_no_other_text_for_saes_of_the_bundled_one():
    assert run_elsewhere(SCALES["tiny"], 10) is None
    assert elsewhere_overview({}, {}).empty


def test_both_texts_beside_each_other():
    def parts(share, seed=0):
        values = {"values": share / 2, "support": share / 2, "dictionary": 1 - share, "share_of_increase": share}
        head = {"variant": "topk", "step": 5, "seed": seed, "documents": 9, "n_tokens": 90, "low": 0.0, "high": 1.0}
        return [
            head | {"sparsity": k, "metric": metric, "part": part, "value": value}
            for k in (1, 2) for metric in ("CE", "KL") for part, value in values.items()
        ]  # fmt: skip

    here, other = pd.DataFrame(parts(0.5) + parts(0.9, seed=7)), pd.DataFrame(parts(0.25))
    table = elsewhere_overview({"a model": here}, {"a model": other}).reset_index()
    assert list(table["text"]) == ["training's", "other"]
    assert list(table["share of the guess"]) == [0.5, 0.25] and list(table["pursuit"]) == [0.5, 0.75]
    assert list(table["SAEs"]) == [2, 2]


def test_tables_of_the_price_have_a_row_a_language_model():
    """The share is the mean of shares, the parts are means of nats; no dead rate, which depends on the tokens."""
    head = {"variant": "topk", "step": 5, "seed": 0, "documents": 9, "n_tokens": 90, "low": 0.0, "high": 1.0}
    values = {"values": (0.1, 0.3), "support": (0.1, 0.1), "dictionary": (0.2, 0.8), "share_of_increase": (0.5, 1 / 3)}
    parts = pd.DataFrame(
        [
            head | {"sparsity": k, "metric": metric, "part": part, "value": value}
            for metric in ("CE", "KL", "NMSE") for part, pair in values.items() for k, value in zip((1, 2), pair)
        ]
    )  # fmt: skip
    table = words.parts_overview({"one": parts, "two": parts})
    row = table.loc[("two", "CE", "k-trained")]
    assert [row[c] for c in ("encoder", "values", "support", "dictionary")] == [0.8, 0.2, 0.1, 0.5]
    assert row["share of the guess"] == pytest.approx(5 / 12, abs=1e-3) and len(table) == 6
    modes = pd.DataFrame([{"mode": "pursuit", "step": 5, "L0": 3.0, "NMSE": 0.25, "dead_rate": 0.5}])
    shown = words.modes_overview({"one": modes, "two": modes})
    assert list(shown.index) == [("one", "pursuit (OMP)"), ("two", "pursuit (OMP)")] and "dead_rate" not in shown
