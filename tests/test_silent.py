"""Silent and dense latents by tokens seen: counts against a dense recount, the expectation against combinatorics."""

from math import comb
from pathlib import Path

import pandas as pd
import pytest
import torch
from planted import evaluation, planted
from tqdm import tqdm

from repro.evaluate import EvalData, Tokens
from repro.price import PriceOptions
from repro.price.latents import expected_silent
from repro.price.run import Pricing
from repro.sections import controls
from repro.sections.controls import silent
from repro.sections.scales import SCALES
from repro.sections.setup import Prepared


def test_the_expectation_is_that_of_drawing_without_replacement():
    """Latents that fire on 0, 1, 3 and all 10 of ten tokens, four drawn: C(n − f, 4) / C(n, 4) each."""
    by_hand = sum(comb(10 - f, 4) for f in (0, 1, 3, 10)) / comb(10, 4) / 4
    assert expected_silent(torch.tensor([0, 1, 3, 10]), 10, 4) == pytest.approx(by_hand)
    assert expected_silent(torch.tensor([0, 1, 3, 10]), 10, 10) == pytest.approx(1 / 4)


def test_latents_are_counted_at_each_number_of_tokens(monkeypatch):
    monkeypatch.setattr(silent, "POINTS", (3, 10, 40))
    monkeypatch.setattr(silent, "BLOCK", 7)
    sae, data = planted(), evaluation(planted(), n=50, labelled=0)
    pricing = Pricing(sae, data, PriceOptions(sample_tokens=10), tqdm(disable=True))
    fired, at = silent.firings(pricing, pricing.modes()["encoder"]())
    on = sae.encode(data.tokens.x) > 0
    assert fired.tolist() == on.sum(0).tolist()
    for t, (quiet, dense) in at.items():
        assert quiet == pytest.approx((~on[:t].any(0)).double().mean())
        assert dense == pytest.approx((on[:t].double().mean(0) >= 0.1).double().mean())
    assert list(at) == [3, 10, 40, 50]


@pytest.fixture
def table(monkeypatch, tmp_path):
    """The table of three SAEs, two of them of one variant, whose rows are made up; each SAE is counted once."""
    saes = [
        {"variant": v, "sparsity": s, "path": "", "final": True} for v, s in (("topk", 1), ("topk", 2), ("gated", 1))
    ]
    tokens = Tokens(torch.zeros(6, 2), torch.zeros(6, dtype=torch.long))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr(silent, "prepare", lambda setting: Prepared(None, saes, None, Path(tmp_path), "cpu"))
    monkeypatch.setattr(silent, "long_text", lambda *args: EvalData(tokens, None, "key"))
    calls = []

    def counted(final, data, setting, kind, first):
        calls.append((final["variant"], final["sparsity"], kind, first))
        read = silent.KINDS[kind] if first or kind == "encoder" else silent.FEWER
        head = {key: final[key] for key in ("variant", "sparsity")} | {"kind": kind, "read": read}
        shares = {"silent": 0.5 / final["sparsity"], "expected": 0.1, "dense": 0.2}
        return [head | {"tokens": t} | shares for t in (1_000, 10_000, 100_000, 1_000_000) if t <= read]

    monkeypatch.setattr(silent, "counted", counted)
    controls.run_silent(SCALES["tiny"])
    found = controls.run_silent(SCALES["tiny"])
    assert len(calls) == 3 * len(silent.KINDS)
    assert [first for *_, kind, first in calls if kind == "encoder"] == [True, False, True]
    return found


def test_one_sae_a_variant_is_followed_far(table):
    assert set(map(tuple, silent.followed(table)[["variant", "sparsity"]].to_numpy())) == {("topk", 1), ("gated", 1)}
    shown = controls.silent_overview({"a model": table})
    assert shown.loc[("a model", "encoder", 1_000_000), "silent"] == 0.5
    assert ("a model", "optimum", 1_000_000) not in shown.index
    sentence = controls.silent_findings(table)
    assert "50.0% of the latents are silent on 1,000 tokens and 50.0% on 1,000,000" in sentence
    figure = controls.silent_figure({"a model": table}, "silent")
    assert sum(trace.line.dash == "dot" for trace in figure.data) == len(silent.KINDS)
    assert len(controls.silent_figure({"a model": table}, "dense").data) == len(silent.KINDS)


def test_fewer_tokens_for_the_others_of_a_variant(monkeypatch):
    monkeypatch.setattr(silent, "POINTS", (2, 4, 8))
    monkeypatch.setattr(silent, "KINDS", {"encoder": 40, "pursuit": 20})
    monkeypatch.setattr(silent, "FEWER", 10)
    sae = planted()
    monkeypatch.setattr("repro.checkpoints.load_sae", lambda path: sae)
    data = evaluation(sae, n=50, labelled=0)
    final = {"variant": "topk", "sparsity": 2, "path": ""}
    for kind, first, read in (("encoder", False, 40), ("pursuit", True, 20), ("pursuit", False, 10)):
        rows = pd.DataFrame(silent.counted(final, data, SCALES["tiny"], kind, first))
        assert set(rows["read"]) == {read} and list(rows["tokens"]) == [2, 4, 8, read]
        assert rows["expected"].iloc[-1] == pytest.approx(rows["silent"].iloc[-1])
