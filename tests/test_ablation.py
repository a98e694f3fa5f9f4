"""One engine: rows under any rules are the golden ones, every switch changes what it names, nulls by hand."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from planted import D, M, evaluation, planted, tokens

from repro.evaluate import EvalData, EvalOptions, evaluate_sae, nulls
from repro.evaluate.engine import Evaluation
from repro.evaluate.rules import AS_RELEASED, CORRECTED, TITLES, Reading, Rules
from repro.evaluate.steps import sweep
from repro.inference import GRID9
from repro.metrics.absorption import absorption_of
from repro.metrics.names import MODES
from repro.sae import Standard
from repro.sections.ablation import figures, words
from repro.sections.ablation.run import OneSAE, ablated_row, lambda_grid, plan


def data_of(sae, seed=1, offset=0.0):
    return evaluation(sae, 150, 80, seed, offset)


# --- one engine: rows as the evaluations made them that it replaced ------------------------------------

GOLDEN_CONTROLS = ("random_dictionary", "random_encoder", "pca", "encoder_refit", "pursuit")  # when they were made
GOLDEN = json.loads((Path(__file__).parent / "golden" / "protocols.json").read_text())
BESIDES = {"seconds", "ms_per_token", "label", "sha256"}
BESIDES |= {"layer", "site", "model", "sae_layer", "sae_site", "sae_model"}  # the golden rows are older
OPTIONS = EvalOptions(released_tokens=60, non_steps=40, semi_steps=7)
COMPARISON = dataclasses.replace(OPTIONS, batch_evaluation=False)
ABLATION = dataclasses.replace(COMPARISON, gap=False, nulls=True)
ALONE = dataclasses.replace(OPTIONS, block=33, target_dense=0.2, lam=0.15, refit=False)


def subjects():
    """SAEs of the golden rows: one that knows its k, a plain ReLU, and one too dense for any optimum."""
    known, dense = planted(k=4), planted(k=4)
    known.source = dataclasses.replace(known.source, k=5)
    dense.threshold.fill_(0.0)
    return {"batch_topk": known, "standard": planted(Standard), "dense": dense}


def one_sae(sae, **changes):
    sources = {(a, b): data_of(sae, 1 + 2 * a + b) for a in (False, True) for b in (False, True)}
    options = dataclasses.replace(ABLATION, **changes)
    return OneSAE(sae, lambda layer, positions: sources[layer, positions], options, None, None, "")


def rows_under(one, rules):
    return [ablated_row(one.under(rules), mode) for mode in MODES]


def golden_rows(name):
    """Today's rows of one entry of the golden file."""
    kind, _, rest = name.partition(" ")
    if kind == "lambda_grid":
        return lambda_grid(
            one_sae(subjects()["batch_topk"]).under(AS_RELEASED.but("layer", True).but("positions", True))
        )
    who, _, how = rest.partition(" ")
    sae = subjects()[who]
    data = data_of(sae)
    bare = EvalData(data.tokens, None, "")
    if kind == "sweep":
        if how:
            return sweep(sae, bare, (2, 5), dataclasses.replace(OPTIONS, block=64))
        return sweep(sae, data, (0, 1, 4), dataclasses.replace(OPTIONS, block=64), momentum=True)
    data, options = {
        "batch": (data, dataclasses.replace(OPTIONS, modes=(*MODES, *GOLDEN_CONTROLS))),
        "batch unlabelled": (bare, ALONE),
        "comparison": (data, COMPARISON),
        "comparison no gap": (bare, dataclasses.replace(COMPARISON, gap=False)),
    }[how]
    return evaluate_sae(sae, data, options)


TIES = {
    **{name: {"rel": 1e-3, "abs": 0.06} for name in ("absorption", "absorption_low", "absorption_high")},
    **{name: {"rel": 1e-3, "abs": 0.03} for name in ("absorption_shuffled_low", "absorption_shuffled_high")},
    **{name: {"rel": 1e-2} for name in ("flops_per_token", "lam", "L0_low")},
}
"""What counts near a tie (two of 41 positives, a step of a solver, a latent) or is searched for, by its tolerance on
processors of another kind; AVX-512 was off by .054, .024 and .6 %. Every other value holds to a thousandth there."""


def hold(found, known):
    """Equal but for the order of sums on the kind of machine of the golden rows, and but for TIES on others."""
    here = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    same = here == GOLDEN["machine"]
    for row, expected in zip(json.loads(json.dumps(list(found))), known, strict=True):
        row = {k: v for k, v in row.items() if v == v and (k in expected or k not in BESIDES)}
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            near = {"rel": 1e-6, "abs": 1e-8} if same else TIES.get(key, {"rel": 1e-3, "abs": 1e-4})
            assert row[key] == (pytest.approx(value, **near) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", [n for n in GOLDEN if n != "machine" and not n.startswith("ablation")])
def test_protocols_give_the_golden_rows(name):
    hold(golden_rows(name), GOLDEN[name])


def test_the_path_gives_the_golden_rows():
    one = one_sae(subjects()["batch_topk"])
    steps = {(route, step): rules for route, step, _, rules in plan()}
    for name in (n for n in GOLDEN if n.startswith("ablation")):
        _, _, route, step = name.split()
        hold(rows_under(one, steps[route, int(step)]), GOLDEN[name])


def test_every_switch_moves_something_and_the_plan_is_complete():
    steps = list(plan())
    way = [s[3] for s in steps if s[0] == "cumulative"]
    assert (way[0], way[-1]) == (AS_RELEASED, CORRECTED)
    assert len({s[3] for s in steps}) == 12 + 10 + 10  # the first alone and the last undone are on the way already
    assert {*TITLES, "batch_evaluation"} == {f.name for f in dataclasses.fields(Rules)}
    assert len(list(plan(everything=False))) == 12
    one = one_sae(planted(k=4))
    rows = [rows_under(one, rules) for rules in way]
    for name, before, after in zip(TITLES, rows, rows[1:]):
        if name != "density":  # pinned to the edge of the grid, whatever it aims at: the released flaw itself
            assert before != after, name
    before, after = rows[-2][0], rows[-1][0]
    assert before["NMSE"] == after["NMSE"] and before["F1@1"] != after["F1@1"]  # labels change no code


def test_without_bias_and_with_nonnegative_codes():
    sae = planted(k=4)
    x = tokens(sae, 9, 3)
    reading = Reading(sae, AS_RELEASED)
    z = reading.encode_sparse(x).to_dense()
    kept = (x @ sae.W_enc + sae.b_enc).topk(round(0.1 * M), dim=1)
    assert torch.equal(z, torch.zeros_like(z).scatter_(1, kept.indices, kept.values))
    assert torch.equal(reading.target(x), x) and torch.allclose(
        reading.decode(reading.encode_sparse(x), x), z @ sae.W_dec
    )
    positive = Reading(sae, AS_RELEASED.but("sign", True)).encode_sparse(x).to_dense()
    assert torch.equal(positive, z.relu())
    assert not torch.equal(sae.b_dec, torch.zeros(D))  # the SAE itself is left as it is


def test_the_grid_of_the_release_and_what_it_leaves():
    sae = planted(k=4)
    rows = lambda_grid(Evaluation(sae, data_of(sae), AS_RELEASED, ABLATION))
    assert [r["lam"] for r in rows] == list(GRID9) and sum(r["chosen"] for r in rows) == 1
    nonzeros = [r["nonzeros"] for r in rows]
    assert nonzeros == sorted(nonzeros, reverse=True) and nonzeros[0] > D  # more than any optimum can have
    solved = [r["optimum_nonzeros"] for r in rows if "optimum_nonzeros" in r]
    assert len(solved) == 3 and 0 < max(solved) <= D < rows[-1]["nonzeros"]  # the optimum at that very lambda


# --- what density alone explains ----------------------------------------------------------------------


def test_null_curve_rises_to_its_peak_and_falls():
    peak = 1 - 6 ** (-1 / 5)
    rate = torch.linspace(0, 1, 201, dtype=torch.float64)
    value, up = nulls.null_curve(rate), rate < peak
    assert (value[up].diff() > 0).all() and (value[~up].diff() < 0).all()
    # p = 1/2: (1/2)(1 − 1/32) = 31/64
    assert nulls.null_curve(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0, 31 / 64, 0])
    assert (
        float(nulls.null_curve(torch.tensor(peak))) == pytest.approx(6**-0.2 * 5 / 6) == pytest.approx(0.5824, abs=1e-4)
    )


def test_shuffling_keeps_rates_and_forgets_the_rest():
    g = torch.Generator().manual_seed(0)
    on = torch.rand(400, 6, generator=g) < 0.3
    found, truth = nulls.shuffled_absorption([on]), absorption_of(on)
    assert found["absorption_shuffled_low"] < truth["absorption_null"] < found["absorption_shuffled_high"]
    assert found["absorption_rate"] == pytest.approx(float(on.double().mean()))
    on[:, 0] = ~on[:, 1]  # a relative takes over whenever the main latent is off
    assert absorption_of(on)["absorption"] > nulls.shuffled_absorption([on])["absorption_shuffled_high"]
    assert nulls.shuffled_absorption([on]) == nulls.shuffled_absorption([on])


def test_expected_silence_falls_with_the_budget():
    rates = torch.tensor([0.5, 0.25, 0.25])
    # budget 1 of rates that add up to 1: (1/2)^2, (3/4)^2 and (3/4)^2 on two tokens
    assert nulls.expected_dead(rates, 1.0, 2) == pytest.approx((1 / 4 + 9 / 16 + 9 / 16) / 3)
    # budget 2: the first fires always (2 · 0.5), the others with 1/2
    assert nulls.expected_dead(rates, 2.0, 1) == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)
    uneven = torch.logspace(-5, -1, 50, dtype=torch.float64)
    values = [nulls.expected_dead(uneven, f, 1000) for f in (0, 0.01, 0.1, 1, 5, 20, 49, 50)]
    assert values == sorted(values, reverse=True) and values[0] == 1 and values[-1] == 0


# --- tables to figures and sentences -------------------------------------------------------------------


@pytest.fixture
def table():
    rows = []
    for route, step, change, rules in plan():
        on = sum(vars(rules).values())
        for mode, base in (("amortized", 0.9), ("semi", 0.1), ("non", 0.05)):
            goal = 0.2
            value = base + (goal - base) * on / 11
            facts = dict.fromkeys(
                (*words.JUDGED_BY, "FVE", "NMSE_refit", "absorption_null", "dead_expected", "lam"), value
            )
            shuffled = {
                "absorption_shuffled_low": value - 0.1,
                "absorption_shuffled_high": value,
                "absorption_rate": value,
            }
            rows.append(
                {"route": route, "step": step, "change": change, "mode": mode, "fires": 5.0, **facts, **shuffled}
            )
    whole = pd.DataFrame(rows).drop(columns="FVU")
    return pd.concat([whole.assign(variant=v, sparsity=s) for v, s in (("topk", 8), ("standard", 0.1))])


def test_effects_add_up_and_do_not_depend_on_the_order_here(table):
    found = words.effects(table, "NMSE")
    assert found.loc["encoder"].to_numpy() == pytest.approx(-0.7 / 11, abs=1e-4)  # every column, every change
    assert found.loc["encoder", "on the way"].sum() == pytest.approx(0.2 - 0.9, abs=1e-3)
    short = words.effects(table[table["route"] == "cumulative"], "NMSE")
    assert list(short.columns) == ["on the way"]
    text = words.findings(table)
    assert "from 0.9 as released to 0.2 corrected" in text and "-0.8 as released and +0 corrected" in text
    assert "falls for 2 and 0 of 2 SAEs" in text
    assert "comes from the evaluation.**" in words.verdict(table)
    better = table.assign(NMSE_refit=table["NMSE_refit"].where(table["mode"] == "amortized", 0))
    assert "a drop is left once shrinkage is undone" in words.verdict(better)
    assert "least squares" not in words.verdict(table.drop(columns="NMSE_refit"))
    explained = words.explained(table)
    assert explained.loc[("absorption", "as_released", "semi"), "change"] == pytest.approx(-0.8)
    assert explained["rest"].to_numpy() == pytest.approx(0)


def test_figures_have_captions_and_both_ends(table):
    figure = figures.waterfall_figure(table, "NMSE")
    assert [t.x[0] for t in figure.data] == pytest.approx([0.9, 0.1, 0.05]) and len(figure.data[0].y) == 13
    assert all(t.x[-1] == pytest.approx(0.2) for t in figure.data)
    drawn = [figure, figures.order_figure(table, "L0"), figures.null_figure(table), figures.dead_figure(table)]
    assert all(f.layout.meta["caption"] for f in drawn)
    assert len(words.overview(table)) == 36
    assert "-0.800" in words.density_findings(table, None)


def test_seeds_add_saes(table):
    way = table[table["route"] == "cumulative"]
    seeds = pd.concat([way.assign(seed=n, NMSE=way["NMSE"] + 0.1 * n * (way["mode"] == "semi")) for n in range(3)])
    found = words.changes(seeds, "NMSE")
    assert len(found) == 6  # three seeds of two SAEs
    assert found["as released"].groupby("seed").first().tolist() == pytest.approx([-0.8, -0.7, -0.6])
    shown = words.seeds_overview(seeds)
    assert shown.loc[("NMSE", "as released"), "change"].startswith("-0.700 [-0.7")
    assert shown["falls for"].loc[[("NMSE", "as released"), ("NMSE", "corrected")]].tolist() == ["6 of 6", "0 of 6"]
    assert "3 seeds" in figures.seeds_figure(seeds).layout.meta["caption"]
