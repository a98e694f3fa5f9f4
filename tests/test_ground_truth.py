"""Ground truth: scores against scipy and by hand, draws that are what they say, and the answer on known tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from repro.base.errors import BadInput
from repro.sections import ground_truth
from repro.sections.ground_truth.problems import Problem
from repro.sections.ground_truth.run import (
    assignment,
    codes_of,
    cosines,
    mcc,
    support_f1,
    with_best_encoder,
)
from repro.sections.scales import scale_of


def test_a_permuted_dictionary_is_found_again():
    atoms = Problem(16, 8, 3).dictionary(0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    score = cosines(atoms[order], atoms)
    rows, columns = assignment(score)
    assert torch.equal(columns[rows.argsort()], order) and float(score[rows, columns].min()) == pytest.approx(1)
    z = torch.rand(200, 16) * (torch.rand(200, 16) < 0.3)
    assert mcc(z[:, order] * torch.linspace(1, 9, 16), z) == pytest.approx(1)  # scales do not matter


def test_mcc_is_scipys_on_numpys_correlations():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(60, 7, generator=g), torch.randn(60, 5, generator=g)
    r = np.corrcoef(a.numpy().T, b.numpy().T)[:7, 7:]
    rows, columns = linear_sum_assignment(-r)
    assert mcc(a, b) == pytest.approx(r[rows, columns].mean(), abs=1e-6)
    a[:, 0] = 3.0  # a latent that never changes correlates with nothing
    assert np.isfinite(mcc(a, b))


def test_support_f1_by_hand():
    true = torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()
    found = torch.tensor([[1, 0, 1], [0, 0, 1]]).bool()
    assert support_f1(found, true) == pytest.approx(2 * 2 / (3 + 3))  # two hits, three found, three true
    assert support_f1(true, true) == 1 and support_f1(~true, true) == 0


def test_draws_are_what_the_problem_says():
    problem = Problem(16, 8, 3, noise=0.0)
    atoms = problem.dictionary(3)
    x, z = problem.draw(500, atoms, 4)
    assert torch.allclose(atoms.norm(dim=1), torch.ones(16)) and (z > 0).sum(1).eq(3).all()
    assert float(z[z > 0].min()) >= 0.5 and float(z.max()) <= 1.5 and torch.allclose(x, z @ atoms, atol=1e-6)
    assert not torch.equal(z, problem.draw(500, atoms, 5)[1])
    with pytest.raises(BadInput, match="K <= N"):
        Problem(4, 2, 5)


def test_the_best_linear_encoder_is_least_squares():
    problem = Problem(6, 6, 2, noise=0.0)
    atoms = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    x, z = problem.draw(400, atoms, 1)
    sae = with_best_encoder(atoms, [(x[:150], z[:150]), (x[150:], z[150:])], 2)
    assert torch.allclose(sae.W_enc, atoms.T, atol=1e-4)  # orthogonal atoms: the codes are x D^T, and nothing is left
    assert torch.allclose(sae.encode(x), z, atol=1e-4)
    for way, least in {"semi": 0.95, "certified": 0.95, "certified_k": 1, "pursuit": 1}.items():
        assert support_f1(codes_of(sae, x, way, problem).to_dense() > 0, z > 0) >= least, way


def test_run_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.setitem(ground_truth.run.__globals__, "TRAIN_ROWS", 2000)
    scale = scale_of("tiny", steps=30, batch_size=64, eval_tokens=200)
    table = ground_truth.run(scale, seeds=2, problems=(Problem(12, 8, 2),))
    assert len(table) == 2 * 2 * 5 and table["support_F1"].between(0, 1).all()
    true = table[table["dictionary"] == "true"]
    assert true["MCC_dictionary"].eq(1).all() and table[table["dictionary"] == "learned"]["MCC_dictionary"].max() < 1
    by = true.groupby("way")[["support_F1", "L0"]].mean()
    assert by.loc["certified_k", "support_F1"] > by.loc["encoder", "support_F1"]
    assert by["L0"].to_numpy() == pytest.approx(2, rel=0.1)
    assert len(ground_truth.overview(table)) == 10 and all(
        f.layout.meta["caption"] for f in ground_truth.figures(table).values()
    )
    assert "±" in ground_truth.overview(table).iloc[0]["NMSE"]


def known(inference, dictionary):
    rows = []
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        for name, base in (("learned", 0.4), ("true", 0.4 + dictionary)):
            for way, gain in (("encoder", 0.0), ("certified_k", inference + shift)):
                rows.append({"problem": "p", "seed": seed, "dictionary": name, "way": way, "support_F1": base + gain})
    return pd.DataFrame(rows)


def test_the_answer_follows_its_rule():
    assert "p: the inference." in ground_truth.findings(known(0.4, 0.1))
    assert "p: the dictionary." in ground_truth.findings(known(0.1, 0.4))
    assert "p: not settled." in ground_truth.findings(known(0.1, 0.1))
    found = ground_truth.effects(known(0.4, 0.1)).set_index("exchange").loc["inference (learned dictionary)"]
    half = 4.302653 * 0.01 / 3**0.5  # t(.975, 2) s / sqrt(n)
    assert (found["effect"], found["low"], found["high"]) == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-6)
    one = known(0.4, 0.1).query("seed == 0")
    assert "not settled" in ground_truth.findings(one) and "[" not in ground_truth.findings(one)
