"""Hard known truths: draws against closed forms, scores by hand, ways of equal L0, and claims on planted tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from repro.base.errors import BadInput
from repro.sections import claims, ground_truth
from repro.sections.ground_truth import hard
from repro.sections.ground_truth.hard import (
    SETTINGS,
    Setting,
    noise_fitted,
    part_of,
    published_mcc,
    run_hard,
    setting_of,
    support_scores,
    training_rows,
    ways,
)
from repro.sections.ground_truth.problems import Hard, Problem, Split
from repro.sections.ground_truth.run import mcc, with_best_encoder
from repro.sections.scales import scale_of
from repro.sections.verdict import OPEN, REFUTED, SUPPORTED

ROWS = 40_000
SMALL = Hard(64, 16, 4, rho=0.5, group=2)  # 16 families; f and f + 8 are a group


@pytest.fixture(scope="module")
def drawn():
    atoms = SMALL.dictionary(0)
    return atoms, *SMALL.draw(ROWS, atoms, 1)


def within(observed, p, errors=5):
    """Is a share of ROWS independent rows as far from p as chance allows?"""
    return bool((np.abs(np.asarray(observed) - p) <= errors * np.sqrt(p * (1 - p) / ROWS)).all())


def test_frequencies_are_zipfian_and_add_up():
    p = SMALL.frequencies
    assert float(p.sum()) == pytest.approx(4) and float(p[0] / p[12]) == pytest.approx(2)  # ranks 1 and 4: 4^-1/2
    assert p[1:4].tolist() == pytest.approx([float(p[0]) / 4] * 3)


def test_marginal_frequencies(drawn):
    z = drawn[2]
    assert within((z > 0).double().mean(0).numpy(), SMALL.frequencies.numpy())
    assert float(z[z > 0].min()) >= 0.5 and float(z.max()) <= 1.5


def test_parents_of_a_group_are_correlated_by_the_copula_and_others_independent(drawn):
    parents = (drawn[2] > 0).numpy()[:, ::4]
    p = SMALL.frequencies.numpy()[::4]
    both = multivariate_normal(cov=[[1, 0.5], [0.5, 1]]).cdf([norm.ppf(p[0]), norm.ppf(p[8])])
    assert both > 1.8 * p[0] * p[8]
    assert within((parents[:, 0] & parents[:, 8]).mean(), both)
    assert within((parents[:, 0] & parents[:, 1]).mean(), p[0] * p[1])


def test_every_child_has_its_parent_and_no_sibling(drawn):
    on = (drawn[2] > 0).view(ROWS, 16, 4)
    children = on[:, :, 1:].sum(2)
    assert int(children.max()) == 1 and not (children.bool() & ~on[:, :, 0]).any()
    with_parent = int(on[:, :, 0].sum())
    share = float(children.sum()) / with_parent
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / with_parent) ** 0.5


def test_the_noise_has_its_level(drawn):
    atoms, x, z = drawn
    left = x - z @ atoms
    numbers = left.numel()
    assert float(left.std()) == pytest.approx(0.05, rel=5 / (2 * numbers) ** 0.5)
    assert abs(float(left.mean())) < 5 * 0.05 / numbers**0.5


def test_the_size_of_synthsaebench_draws_without_much_memory():
    large = SETTINGS["large"].problem
    assert (large.N, large.M) == (16_384, 768) and float(large.frequencies.sum()) == pytest.approx(large.K)
    x, z = large.draw(500, large.dictionary(0), 0)
    assert x.shape == (500, 768) and float((z > 0).sum(1).double().mean()) == pytest.approx(large.K, rel=0.1)
    assert next(training_rows(large, large.dictionary(0), 0))[1].numel() <= 2**23


@pytest.mark.parametrize("change", [{"N": 62}, {"rho": 1.0}, {"group": 17}, {"K": 30}])
def test_impossible_problems(change):
    with pytest.raises(BadInput):
        Hard(**{"N": 64, "M": 16, "K": 4, **change})


def test_unknown_setting():
    with pytest.raises(BadInput, match="did you mean 'large'"):
        setting_of("lagre")


def test_training_rows_are_all_different_and_as_many_as_asked(monkeypatch):
    monkeypatch.setattr(hard, "TRAIN_ROWS", 2**23 // 1024 + 10)
    blocks = [x for x, _ in training_rows(Hard(), Hard().dictionary(0), 0)]
    assert [len(x) for x in blocks] == [2**23 // 1024, 10] and not torch.equal(blocks[0][:10], blocks[1])


def test_split_leaves_out_what_it_says():
    seen = Split.of(100)
    assert seen.M == 47 and Split.of(1000).M == 93  # 20 ln 10 = 46.05, 20 ln 100 = 92.1
    _, z = seen.draw(4000, seen.dictionary(0), 0)
    on = z > 0
    first = on[:, 0]
    assert on.sum(1).eq(10).all() and float(z[on].min()) > 0 and float(z.max()) < 1
    assert abs(float(first.double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5
    assert not on[first][:, 50:].any() and on[~first][:, 50:].any(0).all() and on[:, 1:50].any(0).all()
    unseen = Split(100, 47, unseen=True)
    new = unseen.draw(500, seen.dictionary(0), 0)[1] > 0
    assert new[:, 0].all() and not new[:, 1:50].any() and new.sum(1).eq(10).all()


def test_support_scores_by_hand():
    z = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    codes = torch.tensor([[0.5, 0.0, 0.1], [0.0, 0.0, 2.0]])
    scores = support_scores(codes, z)  # two hits, three on, three true
    assert (scores["precision"], scores["recall"], scores["L0"]) == pytest.approx((2 / 3, 2 / 3, 1.5))
    assert support_scores(torch.zeros(2, 3), z)["precision"] == 0


def test_published_mcc_is_over_sources_that_vary():
    z = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    z[:, 3:] = 0
    codes = torch.cat([torch.zeros(50, 2), z[:, [2, 0, 1]], torch.full((50, 1), 0.3)], dim=1)
    assert published_mcc(codes, z) == pytest.approx(1) and mcc(codes, z) == pytest.approx(0.5)


def test_ways_have_the_encoders_l0_and_find_an_orthogonal_truth():
    problem = Problem(6, 6, 2, noise=0.0)
    atoms = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    x, z = problem.draw(400, atoms, 1)
    sae = with_best_encoder(atoms, [(x, z)], 5)  # k is given again below
    from repro.inference import infer

    optimum = infer(sae, x, "non", lam=0.1, gap=False).codes
    found = ways(sae, x, 2, optimum)
    for way, codes in found.items():
        assert codes.l0.eq(2).all() and support_scores(codes.to_dense(), z)["precision"] == 1, way
        if way != "encoder":
            assert torch.allclose(sae.decode(codes, x), x, atol=1e-4)
    assert ways(sae, x, 1, optimum)["pursuit"].l0.eq(1).all() and sae.config.k == 5


def test_the_narrow_encoder_is_the_least_squares_fit_of_its_own_sources(drawn):
    atoms, x, z = drawn
    some = torch.tensor([0, 5, 9])
    part = part_of(with_best_encoder(atoms, [(x, z)], 4), some)
    alone = with_best_encoder(atoms[some], [(x, z[:, some])], 3)
    assert torch.allclose(part.W_enc, alone.W_enc, atol=1e-5) and torch.allclose(part.b_enc, alone.b_enc, atol=1e-5)
    assert torch.equal(part.W_dec, atoms[some]) and part.config.k == 3


def test_the_share_of_the_noise_that_a_code_fits():
    g = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(6, 6, generator=g))[0]
    clean = 3 * torch.rand(4000, 2, generator=g) @ atoms[:2]
    x = clean + 0.1 * torch.randn(4000, 6, generator=g)
    assert noise_fitted(x, clean, x) == pytest.approx(1) and noise_fitted(x, clean, clean) == 0
    on_support = x @ atoms[:2].T @ atoms[:2]  # least squares on 2 right atoms in 6 dimensions
    assert noise_fitted(x, clean, on_support) == pytest.approx(2 / 6, abs=0.02)


def planted(precision, error=-0.1, spread=0.001):
    """A table in which pursuit changes error and precision of the encoder by these amounts, everywhere."""
    rows = []
    for seed, shift in enumerate((-spread, 0.0, spread)):
        for dictionary in ("true", "narrow", "learned"):
            for times in hard.TIMES:
                for way in hard.WAYS:
                    by = 0.0 if way == "encoder" else 1.0
                    scores = {"NMSE": 0.5 + by * (error + shift), "precision": 0.5 + by * (precision + shift)}
                    scores |= dict.fromkeys(("noise_fitted", "recall", "support_F1", "MCC_codes"), 0.5) | {"L0": 4.0}
                    facts = {"problem": "p", "seed": seed, "dictionary": dictionary, "times": times, "way": way}
                    rows.append(facts | scores)
    return pd.DataFrame(rows)


def test_the_claim_on_tables_whose_answer_is_known():
    def words(table):
        return (
            claims.ledger("tiny", tables={"ground_truth_hard": table}).set_index("claim")["verdict"].filter(like="E4")
        )

    assert words(planted(-0.1)).tolist() == [SUPPORTED] * 4
    assert words(planted(0.1)).tolist() == [SUPPORTED] + [REFUTED] * 3
    assert set(words(planted(-0.1, spread=0.1))) == {OPEN}
    assert words(planted(-0.1, error=0.0))["E4a"] == REFUTED


def test_sentences_follow_the_table():
    noisy = ground_truth.hard_findings(planted(-0.1))
    assert "precision with the true dictionary at 0.5, 1, 2, 4 ×" in noisy and "raises the precision with none" in noisy
    assert "-0.100 [-0.102, -0.098]" in noisy
    assert "lowers error and precision with none" in ground_truth.hard_findings(planted(0.1))
    assert ground_truth.exchange(planted(-0.1)).shape == (12, 4)
    figure = ground_truth.hard_figure(planted(-0.1))
    assert len(figure.data) == 12 and figure.layout.meta["caption"]


def test_run_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr(hard, "TRAIN_ROWS", 3000)
    monkeypatch.setitem(SETTINGS, "tiny", Setting(Hard(32, 12, 3), (100,), 1))
    scale = scale_of("tiny", steps=20, batch_size=64, eval_tokens=200)
    table, split = run_hard(scale, seeds=2)
    assert len(table) == 2 * 3 * 4 * 4 and table["precision"].between(0, 1).all()
    assert table.query("dictionary != 'learned'")["MCC_dictionary"].to_numpy() == pytest.approx(1)
    by = table.groupby(["dictionary", "way"])["NMSE"].mean()
    assert (by.xs("refit", level="way") <= by.xs("encoder", level="way")).all()
    l0 = table.pivot_table("L0", ["dictionary", "times"], "way")
    assert (l0["pursuit"] <= l0["encoder"] + 1e-6).all() and (l0["optimum"] <= l0["encoder"] + 1e-6).all()
    assert len(split) == 2 * 2 * 3 * 5 and set(split["combinations"]) == {"seen", "unseen"}
    shown = ground_truth.split_overview(split)
    assert sorted(shown["published, unseen"].dropna()) == [0.705, 0.865, 0.986]
    assert "Published: 0.705" in ground_truth.split_findings(split)
    assert ground_truth.answers().data.startswith("**E4.") and len(ground_truth.by_size("ground_truth_hard")) >= 1
