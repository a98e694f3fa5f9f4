"""The section on the price over several seeds: intervals by hand arithmetic, and which rows a run prices and keeps."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import evaluation, planted
from scipy.stats import t

from repro.base.errors import BadInput
from repro.evaluate import EvalData, Tokens
from repro.price import PriceOptions, price
from repro.price.words import NAMES
from repro.sections import your_sae
from repro.sections.price import claims, figures, run, run_widths, widths, words
from repro.sections.scales import PRICED, SCALES
from repro.sections.setup import Prepared
from repro.sections.tables import about

PARTS = ("values", "support", "dictionary", "share_of_increase")


def tabled(shares, half=0.0, documents=30):
    """A table `price_parts`: shares {(variant, sparsity, seed): share}; ± `half` is the interval over documents."""
    rows = []
    for (variant, sparsity, seed), share in shares.items():
        for part, value in zip(PARTS, (share / 2, share / 2, 1 - share, share)):
            row = {"variant": variant, "sparsity": sparsity, "step": 700, "seed": seed, "metric": "KL", "part": part}
            rows.append(row | {"value": value, "low": value - half, "high": value + half})
    return pd.DataFrame(rows).assign(n_tokens=2000, documents=documents)


def grid(share_of):
    return {
        (v, s, seed): share_of(i, seed) for i, v in enumerate(("a", "b", "c")) for s in (1, 2) for seed in (0, 1, 2)
    }


def test_the_unit_is_the_variant_however_many_seeds():
    """Means of the variants .2, .3, .4 (sd .1): .3 ± t(2) .1 / √3, the same with one seed and with three equal ones."""
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    three = grid(lambda i, seed: 0.2 + 0.1 * i)
    for shares in (three, {key: value for key, value in three.items() if key[2] == 0}):
        effect = words.share(tabled(shares), "KL")
        assert (effect.n, effect.unit, effect.saes) == (3, "variants", len(shares))
        assert (effect.value, effect.low, effect.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_one_variant_after_the_other_is_left_out():
    """Means .2, .3, .4: without one of them .35, .3 and .25, with the interval of the other two."""
    table = words.without_each(tabled(grid(lambda i, seed: 0.2 + 0.1 * i)), "KL")
    assert table["share"].to_dict() == pytest.approx({"none": 0.3, "a": 0.35, "b": 0.3, "c": 0.25})
    half = t.ppf(0.975, 1) * 0.05  # two means .1 apart: their standard error is half of it
    assert table.loc["c", "low"] == pytest.approx(0.25 - half, abs=1e-3)


def test_what_seeds_share_and_documents_add_to_the_error():
    """Seeds at −.1, 0, +.1 on all variants (sd .1), an error of .05 over documents: variance .01/3 + .01/3 + .05²."""
    effect = words.share(
        tabled(grid(lambda i, seed: 0.2 + 0.1 * i + 0.1 * (seed - 1)), half=t.ppf(0.975, 29) * 0.05), "KL"
    )
    assert effect.value == pytest.approx(0.3)
    assert effect.se == pytest.approx(np.sqrt(0.01 / 3 + 0.01 / 3 + 0.05**2))
    assert effect.freedom == 2


def test_seeds_that_move_variants_apart_add_nothing_twice():
    """Deviations of a seed that cancel over variants are no error of the seed; they are in the variants' means."""
    wiggle = {(0, 0): 0.1, (0, 1): -0.1, (1, 1): 0.1, (1, 0): -0.1}
    effect = words.share(tabled(grid(lambda i, seed: 0.2 + 0.1 * i + wiggle.get((i, seed), 0.0))), "KL")
    assert effect.se == pytest.approx(0.1 / np.sqrt(3))


def test_one_variant_has_the_seed_as_its_unit():
    """Seed means .2, .3, .4 of one variant at two sparsities."""
    shares = {("standard", s, seed): 0.2 + 0.1 * seed + 0.01 * s - 0.015 for s in (1, 2) for seed in (0, 1, 2)}
    effect = words.share(tabled(shares), "KL", "L1")
    assert (effect.n, effect.unit, effect.saes) == (3, "seeds", 6)
    assert (effect.value, effect.se) == pytest.approx((0.3, 0.1 / np.sqrt(3)))


def test_what_a_doubling_changes_by_hand():
    """Shares .1, .2, .3 at 2, 4, 8 rise by .1 a doubling, .3, .3, .3 by nothing: two variants, .05 ± t(1) .05."""
    lines = {("a", 8): (0.1, 0.2, 0.3), ("b", 8): (0.3, 0.3, 0.3)}
    at = [tabled({(*key, 0): share[i] for key, share in lines.items()}).assign(m=2 << i) for i in range(3)]
    found = widths.slopes(pd.concat(at), "m", "sparsity")
    half = t.ppf(0.975, 1) * 0.05
    for effect in found.values():  # `tabled` makes the guess all of an increase of 1
        assert (effect.value, effect.n, effect.unit) == (pytest.approx(0.05), 2, "variants")
        assert (effect.low, effect.high) == pytest.approx((0.05 - half, 0.05 + half))
    assert widths.slopes(at[0], "m", "sparsity") == {}  # nothing doubles


def test_rows_of_what_doubles():
    """Along training the first seed alone; over nonzeros lines of one variant and seed; widths where there are any."""
    table = tabled(grid(lambda i, seed: 0.2 + 0.1 * i))
    parts = pd.concat([table.assign(value=table["value"] / 2, step=350), table])
    l0 = table[["variant", "sparsity", "seed", "step"]].drop_duplicates().assign(mode="encoder")
    prices = {"one": l0.assign(L0=l0["sparsity"] * 8)}
    shown = widths.doublings({"one": parts}, prices, {})
    assert {key: float(text.split()[0]) for key, text in shown["share"].items()} == {
        ("one", "training"): 0.15,
        ("one", "nonzeros a token"): 0,
    }
    assert shown["share"].str.endswith("n = 3 variants").all()
    wide = pd.concat([table.assign(m=m) for m in (64, 128)])
    shown = widths.doublings({"one": parts}, prices, {"one": wide})
    assert float(shown.loc[("one", "latents"), "share"].split()[0]) == 0


def test_an_increase_of_zero_is_left_out():
    """A share of nothing is not finite: the SAE does not count."""
    shares = grid(lambda i, seed: 0.2 + 0.1 * i)
    shares["a", 1, 0] = float("inf")
    effect = words.share(tabled(shares), "KL")
    assert np.isfinite(effect.se) and effect.saes == len(shares) - 1
    assert effect.value == pytest.approx(0.3)


def test_few_documents_bound_the_degrees_of_freedom():
    table = tabled(grid(lambda i, seed: 0.2 + 0.1 * i), documents=2)
    assert claims.finding({"price_parts": table}, "KL").corrected.freedom == 1


def test_a_bar_is_an_sae_and_not_the_sum_of_its_seeds():
    table = tabled(grid(lambda i, seed: 0.2 + 0.1 * i + 0.1 * (seed - 1)))
    figure = figures.parts_figure({"model": table}, "KL")
    by_name = {bar.legendgroup: dict(zip(bar.y, bar.x)) for bar in figure.data}
    assert by_name["dictionary"] == pytest.approx(
        {f"{v} {s}": 0.8 - 0.1 * i for i, v in enumerate("abc") for s in (1, 2)}
    )


def test_both_ways_of_training_are_in_the_legend_even_if_the_first_sae_has_one_step():
    shares = {("standard", 0.1, 0): 0.5, ("standard", 0.2, 0): 0.4, ("topk", 8, 0): 0.2}
    late, early = tabled(shares), tabled(dict(list(shares.items())[1:])).assign(step=70)
    figure = figures.training_figure("a model", pd.concat([late, early]), "KL")
    assert [(trace.name, trace.showlegend) for trace in figure.data] == [("L1-trained", True), ("k-trained", True)]


def test_panels_of_a_frontier_share_the_title_of_their_x_axes():
    rows = {
        "variant": "topk",
        "sparsity": 8,
        "seed": 0,
        "codes": "encoder",
        "rounds": None,
        "L0": [4, 8],
        "NMSE": 0.1,
        "k": None,
    }
    figure = figures.frontier_figure({"a": pd.DataFrame(rows), "b": pd.DataFrame(rows)}, "NMSE", "topk")
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "L0 (mean nonzeros a token)"]
    assert not figure.layout.xaxis.title.text and not figure.layout.xaxis2.title.text


class SavedRows:
    rows = None

    def __len__(self):
        return 4


class Planted:
    """`prepare`, the tokens and the price of one SAE in place of real ones; `calls` lists what was priced."""

    def __init__(self):
        self.calls = []
        self.head = {"variant": "topk", "trainer": 0, "sparsity": 16.0}
        self.tokens = Tokens(SavedRows(), torch.tensor([0, 0, 1, 1]), {})

    def prepare(self, scale):
        steps = [self.head | {"step": s, "final": s == 700, "path": f"{scale.seed}"} for s in (70, 700)]
        return Prepared(EvalData(self.tokens, None, "key"), steps, None, Path(), "cpu")

    def price(self, checkpoint, scale, followed, data, meter):
        assert checkpoint["path"] == str(scale.seed)
        self.calls.append((scale.seed, checkpoint["step"], followed))
        split = dict.fromkeys((f"{part}{end}" for part in PARTS for end in ("", "_low", "_high")), 0.1 * scale.seed)
        frontier = [{"codes": "encoder", "NMSE": 0.5}] * followed
        return {"modes": {"encoder": {"NMSE": 0.5}}, "price": {"KL": split}, "frontier": frontier}


@pytest.fixture
def world(monkeypatch, tmp_path):
    out, module = Planted(), importlib.import_module("repro.sections.price.run")
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr("repro.sections.tables.committed", lambda: tmp_path / "committed")
    monkeypatch.setattr("repro.activations.held_out.open_meter", lambda *args: object())
    monkeypatch.setattr(module, "prepare", out.prepare)
    monkeypatch.setattr(module, "held_out", lambda *args: EvalData(out.tokens, None, "key"))
    monkeypatch.setattr(module, "price_one", out.price)
    return out


def test_all_seeds_are_priced_and_the_first_is_followed(world):
    tables = run(SCALES["small"], 4)
    assert world.calls == [(0, 700, True), (0, 70, False), (1, 700, False), (2, 700, False)]
    assert [sorted(set(table["seed"])) for table in tables] == [[0, 1, 2], [0, 1, 2], [0]]
    assert about("price_parts", "small")["seeds"] == [0, 1, 2]
    assert about("price_parts", "small")["scale"]["seed"] == 0
    world.calls.clear()
    run(SCALES["tiny"], 4)
    assert {seed for seed, *_ in world.calls} == {0}


def test_widths_are_priced_on_the_sae_of_the_largest_k(world, monkeypatch):
    saes = [
        world.head | {"sparsity": k, "variant": v, "step": 700, "final": True, "path": f"{v} {k}"}
        for v in ("standard", "topk")
        for k in (16.0, 64.0)
    ]
    asked = []

    def prepare(scale):
        asked.append((scale.m, dict(scale.grid)))
        return Prepared(EvalData(world.tokens, None, "key"), saes, None, Path(), "cpu")

    monkeypatch.setattr(widths, "prepare", prepare)
    monkeypatch.setattr(widths, "held_out", lambda *args: EvalData(world.tokens, None, "key"))
    monkeypatch.setattr(widths, "open_meter", lambda *args: object())
    monkeypatch.setattr(
        widths,
        "split_rows",
        lambda saes, *rest: [{"variant": sae["variant"], "sparsity": sae["sparsity"]} for sae in saes],
    )
    table = run_widths(SCALES["small"], 4)
    assert [m for m, _ in asked] == [2048, 512, 8192] and asked[0][1] == PRICED["small"].grid
    assert asked[1][1] == dict.fromkeys(("topk", "batch_topk", "matryoshka_batch_topk", "jumprelu"), (64.0,))
    assert table.to_dict("list") == {"m": [2048, 512, 8192], "variant": ["topk"] * 3, "sparsity": [64.0] * 3}
    assert run_widths(SCALES["gemma"], 4) is None


def test_other_models_have_final_saes_alone(world):
    tables = run(SCALES["gemma"], 4)
    assert world.calls == [(0, 700, False)]
    assert [sorted(set(table["step"])) for table in tables] == [[700], [700]]


def test_seeds_join_those_that_the_tables_hold(world):
    whole = run(SCALES["small"], 4)
    run(SCALES["small"], 4, seeds=(0,))
    run(SCALES["small"], 4, seeds=(2,))
    for table, joined in zip(whole, run(SCALES["small"], 4, seeds=(2, 1))):
        order = [c for c in ("seed", "step", "metric", "part") if c in table]
        pd.testing.assert_frame_equal(*(t.sort_values(order, ignore_index=True) for t in (table, joined)))
    facts = about("price", "small")
    assert facts["seeds"] == [0, 1, 2] and facts["kept"]["finished"] <= facts["finished"]


@pytest.mark.parametrize(("tol", "tokens", "named"), [(1e-3, 3, "tokens"), (0.1, 4, "tol")])
def test_rows_of_another_setting_do_not_mix(world, tol, tokens, named, monkeypatch):
    run(SCALES["small"], 4, seeds=(0,))
    monkeypatch.setitem(PRICED, "small", dataclasses.replace(PRICED["small"], tol=tol))
    with pytest.raises(BadInput, match=f"another {named};"):
        run(SCALES["small"], tokens, seeds=(1,))
    run(SCALES["small"], tokens)  # all seeds: nothing is kept


def test_the_price_of_your_sae(tmp_path):
    """What the notebook 80_your_sae shows: a row a kind of codes, and its frontier as a line a kind."""
    sae = planted()
    result = price(sae, evaluation(sae, n=60, labelled=0), tmp_path, PriceOptions(sample_tokens=10))
    table = your_sae.modes(result)
    assert list(table.index) == list(NAMES.values())
    assert table.loc[NAMES["encoder"], "NMSE"] == pytest.approx(result["modes"]["encoder"]["NMSE"], abs=1e-4)
    drawn = {line.name: list(line.x) for line in your_sae.frontier(result, sae).data}
    expected = [round(p["L0"], 3) for p in result["frontier"] if p["codes"] == "pursuit"]
    assert drawn[NAMES["pursuit"]] == sorted(expected)


def test_a_frontier_says_how_many_nonzeros_pursuit_needs():
    from repro.sections.price import titles

    own = [{"L0": 16.0, "NMSE": 1 / 8, "k": float("nan")}, {"L0": 32.0, "NMSE": 1 / 9, "k": 32.0}]
    line = [{"L0": l0, "NMSE": 1 / l0, "k": l0} for l0 in (4.0, 10.0, 20.0)]  # 1/8 lies between two points
    lines = {"encoder": pd.DataFrame(own), "pursuit": pd.DataFrame(line)}
    assert titles.of_frontier("a", lines, "NMSE") == (
        "One SAE of a: with 8 nonzeros pursuit reaches the NMSE that the encoder has with 16"
    )
    short = {"encoder": lines["encoder"], "pursuit": lines["pursuit"][1:]}  # its line does not reach that far
    assert titles.of_frontier("a", short, "NMSE") is None
    bent = {"encoder": lines["encoder"], "pursuit": lines["pursuit"].assign(NMSE=[0.25, 0.05, 0.06])}
    assert titles.of_frontier("a", bent, "NMSE") is None


def test_titles_of_the_price_say_what_the_tables_hold():
    from repro.sections.price import titles

    keys = {"sparsity": 8.0, "step": 10, "seed": 0, "metric": "CE", "documents": 9, "n_tokens": 90, "low": 0, "high": 0}
    worth = {"topk": (1, 2), "jumprelu": (1, 4)}  # pursuit saves 3 and 5
    parts = [
        keys | {"variant": variant, "part": part, "value": value}
        for variant, (values, support) in worth.items()
        for part, value in (("values", values), ("support", support), ("dictionary", 5))
    ]
    title = titles.of_parts({"a": pd.DataFrame(parts)}, "CE")  # t(0.975, 1) * 1 = 12.706
    assert title.endswith("loss increase of 9.000 by -4.000 [-16.706, +8.706], n = 2 variants")
    saes = {"variant": "topk", "sparsity": 8, "seed": 0, "step": 10, "CE": 1}
    modes = pd.DataFrame(
        saes | {"mode": ["encoder", "optimum", "pursuit"], "NMSE": [2, 3, 1], "loss_increase": [4, 8, 1]}
    )
    assert titles.of_exchange({"a": modes}).endswith("1.5 and 2 times, pursuit (OMP) 0.5 and 0.25 times (1 SAEs)")


def test_the_title_along_training_is_of_the_saes_that_are_followed():
    from repro.sections.price import titles

    rows = [("topk", 8.0, 1, 0.2), ("topk", 8.0, 9, 0.4), ("topk", 16.0, 9, 0.9), ("jumprelu", 8.0, 9, 0.9)]
    part = pd.DataFrame(rows, columns=["variant", "sparsity", "step", "value"]).assign(seed=0)
    assert titles.of_training("a", part, "KL").endswith("in training: 20% → 40% (k-trained, n = 1)")
