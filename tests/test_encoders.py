"""Encoders on a dictionary that stays, dictionaries learned in part or by pursuit, and what the section says."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning
from torch.nn.functional import normalize

from repro.base.errors import BadInput
from repro.checkpoints import load_sae, save_sae
from repro.commands import train
from repro.commands.training_flags import TrainConfig
from repro.sae import LISTA, MLP, VARIANTS, AbsTopK, Standard, TopK
from repro.sections.encoders import claims, figures, names, words
from repro.sections.encoders import draw as draw_module
from repro.sections.encoders.run import TABLES
from repro.sections.encoders.run import run as run_section
from repro.sections.scales import scale_of
from repro.sections.verdict import judge
from repro.solvers import pursuit
from repro.training.encoders import FORMS, beginning, encoder_job, flops, form_of, parameters
from repro.training.frozen import FrozenJob, matching, near
from repro.training.recipe import Job, Recipe
from repro.training.trainer import Trainer

D, M, K, BATCH = 24, 60, 3, 128


def atoms(seed=100, m=M):
    return normalize(torch.randn(m, D, generator=torch.Generator().manual_seed(seed)))


def draw(n, seed, true=None):
    """x [n, D] of K of the true atoms with values in [0.5, 1.5], and a little noise."""
    true = atoms() if true is None else true
    g = torch.Generator().manual_seed(seed)
    on = torch.rand(n, len(true), generator=g).topk(K, 1).indices
    z = torch.zeros(n, len(true)).scatter_(1, on, 0.5 + torch.rand(n, K, generator=g))
    return z @ true + 0.02 * torch.randn(n, D, generator=g)


def trained(job, steps=300, start=None, true=None):
    recipe = Recipe.scaled(steps, BATCH)
    trainer = (job.trainer_class or Trainer)(job, recipe, D, start=start)
    for i in range(steps):
        trainer.update(draw(BATCH, i + 1, true))
    return trainer.sae(1.0, draw(BATCH, 9_999, true)).requires_grad_(False)


def nmse(x, x_hat):
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@pytest.fixture(scope="module")
def sae():
    return trained(Job("topk", K, M))


@pytest.mark.parametrize(("name", "steps"), [*((name, None) for name in FORMS), ("lista", 1)])
@pytest.mark.parametrize("imitates", [False, True])
def test_the_decoder_stays_to_the_bit_and_the_encoder_learns(sae, name, steps, imitates):
    x = draw(1000, 12_345)
    job = encoder_job(form_of(name, steps), sae, K, 0, imitates)
    start = beginning(job, sae, x)
    encoder = trained(job, 200, start)
    assert torch.equal(encoder.W_dec, sae.W_dec) and torch.equal(encoder.b_dec, sae.b_dec)
    assert not torch.equal(encoder.W_enc, start.W_enc)
    wanted = pursuit(sae.target(x), sae.W_dec, K).to_dense()
    if imitates:
        assert (encoder.encode(x) - wanted).square().sum() < (sae.encode(x) - wanted).square().sum()
    else:
        assert nmse(x, encoder(x)) < {"linear": 1.05, "mlp": 0.9}.get(name, 0.8) * nmse(x, sae(x))


def test_encoders_begin_at_the_saes_own(sae):
    """A hidden layer that adds nothing is the linear encoder; a step of hard thresholding moves along the residual."""
    x = draw(50, 7)
    for name in ("linear", "mlp"):
        start = beginning(encoder_job(form_of(name), sae, K), sae, x)
        assert torch.equal(start.encode(x), sae.encode(x))
    start = beginning(encoder_job(form_of("correction"), sae, K), sae, x)
    z = sae.encode(x)
    scores = z + LISTA.first_step * (sae.target(x) - z @ sae.W_dec) @ sae.W_dec.T
    torch.testing.assert_close(start.pre(x), scores)


def test_lista_by_hand():
    """y = (2, 1), atoms e1, e2, (.6, .8): p0 = (2, 1, 2); less .5: z = (1.5, .5, 1.5), z D = (2.4, 1.7);
    y - z D = (-.4, -.7), times D: (-.4, -.7, -.8); half of it: p1 = (1.3, .15, 1.1); k = 2 keeps 1.3 and 1.1."""
    lista = LISTA(LISTA.Config(2, 3, k=2, unrolled=1)).requires_grad_(False)
    lista.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    lista.W_enc.copy_(lista.W_dec.T)
    lista.begin(torch.Generator())
    lista.s.fill_(0.5)
    lista.theta.fill_(0.5)
    x = torch.tensor([[2.0, 1.0]])
    torch.testing.assert_close(lista.pre(x), torch.tensor([[1.3, 0.15, 1.1]]))
    torch.testing.assert_close(lista.encode(x), torch.tensor([[1.3, 0.0, 1.1]]))


def test_costs_by_hand():
    d, m, h, k = 4, 10, 8, 2
    mlp = MLP(MLP.Config(d, m, k=k))
    assert (parameters(mlp), flops(mlp)) == (d * m + d * h + h * m + m + h, 2 * (d * m + d * h + h * m))
    lista = LISTA(LISTA.Config(d, m, k=k, unrolled=3))
    assert (parameters(lista), flops(lista)) == (2 * d * m + 2 * m + 3, 2 * (d * m + 3 * 2 * d * m))
    correction = LISTA(LISTA.Config(d, m, k=k, unrolled=1, inner="topk"))
    assert (parameters(correction), flops(correction)) == (2 * d * m + m + 1, 2 * (2 * d * m + d * k))


def test_orthogonal_atoms_leave_nothing_to_win(sae):
    """The closed form: with an orthogonal dictionary the transposed encoder is pursuit, so no form can beat it."""
    true = torch.eye(D)
    x = draw(500, 3, true)
    topk = TopK(TopK.Config(D, D, k=K)).requires_grad_(False)
    topk.W_dec.copy_(true)
    topk.W_enc.copy_(true)
    best = nmse(x, topk.decode(pursuit(x, true, K)))
    assert nmse(x, topk(x)) == pytest.approx(best)
    for name in ("mlp", "lista"):
        job = encoder_job(form_of(name), topk, K)
        assert nmse(x, trained(job, 100, beginning(job, topk, x), true)(x)) > 0.99 * best


def cosine_to(true, found):
    return float((normalize(found) @ true.T).amax(0).mean())


@pytest.fixture(scope="module")
def reference():
    """How near scikit-learn comes: the mean cosine of each true atom with its nearest learned one."""
    x = torch.cat([draw(BATCH, i + 1) for i in range(60)])
    theirs = MiniBatchDictionaryLearning(
        M, alpha=0.2, batch_size=BATCH, max_iter=1, positive_code=True, fit_algorithm="cd", random_state=0
    ).fit(x.numpy())
    return cosine_to(atoms(), torch.from_numpy(theirs.components_).float())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("codes", ["pursuit", "matching_pursuit"])
def test_pursuit_learns_a_planted_dictionary_as_well_as_scikit_learn(codes, reference):
    """Both see the same tokens."""
    ours = trained(FrozenJob("topk", K, M, codes=codes), 400)
    assert torch.equal(ours.W_enc, ours.W_dec.T)
    assert cosine_to(atoms(), ours.W_dec) > max(0.95, reference - 0.02)


def test_matching_is_the_variants_own_rule():
    pursuer = VARIANTS["matching_pursuit"](VARIANTS["matching_pursuit"].Config(D, M, max_iterations=K))
    pursuer.requires_grad_(False).W_dec.copy_(atoms())
    x = draw(40, 5)
    chosen, values, left = matching(x, pursuer.W_dec, K)
    z = torch.zeros(40, M).scatter_add_(1, chosen, values)
    torch.testing.assert_close(z, pursuer.encode(x))
    torch.testing.assert_close(left, x - pursuer(x))


def test_gradients_flow_through_the_codes_of_matching_pursuit():
    """Against finite differences in float64."""
    x, d = draw(6, 5).double(), atoms().double().requires_grad_()
    matching(x, d, K)[2].square().sum().backward()
    step = 1e-6 * torch.randn(d.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up, down = (matching(x, d.detach() + s * step, K)[2].square().sum() for s in (1, -1))
    assert float((d.grad * step).sum()) == pytest.approx(float(up - down) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("how", "stays"),
    [({"frozen": ("W_dec",)}, "W_dec"), ({"frozen": ("rows", "b_enc")}, "W_enc"), ({"least_cosine": 0.8}, "")],
)
def test_parts_stay(how, stays):
    job = FrozenJob("topk", K, M, 3, **how)
    before, after = trained(job, 1).requires_grad_(False), trained(job, 150)
    for name in ("W_enc", "W_dec"):
        assert torch.equal(getattr(before, name), getattr(after, name)) == (name == stays)
    first = normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(3)))
    cosines = (first * after.W_dec).sum(1)
    torch.testing.assert_close(after.W_dec.norm(dim=1), torch.ones(M))
    if "least_cosine" in how:
        assert cosines.min() > 0.8 - 1e-5 and cosines.min() < 0.81


def test_near_keeps_the_plane():
    """(0, 1) beside (1, 0): turned until its cosine with it is .8, it is (.8, .6)."""
    moved = near(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0.8)
    torch.testing.assert_close(moved, torch.tensor([[0.8, 0.6], [1.0, 0.0]]))


def test_bad_input(sae):
    with pytest.raises(BadInput, match=r"No encoder .listo.*lista"):
        form_of("listo")
    with pytest.raises(BadInput, match="has no k"):
        FrozenJob("standard", 0.1, M)
    with pytest.raises(BadInput, match="at least one step"):
        LISTA.Config(D, M, k=K, unrolled=0)
    signed = AbsTopK(AbsTopK.Config(D, M, k=K))
    with pytest.raises(BadInput, match="cannot be frozen"):
        beginning(encoder_job(form_of("linear"), signed, K), signed, draw(10, 1))


def test_other_variants_lend_their_decoder():
    """A Standard SAE with atoms of any norm, whose encoder reads the same scores after renormalisation."""
    standard = Standard(Standard.Config(D, M)).requires_grad_(False)
    standard.W_dec.copy_(2 * atoms())
    standard.W_enc.copy_(atoms().T)
    x = draw(20, 2)
    start = beginning(encoder_job(form_of("linear"), standard, K), standard, x)
    torch.testing.assert_close(start.W_dec, atoms())
    torch.testing.assert_close(start.pre(x), 2 * standard.pre(x))
    assert np.isclose(float(start.W_dec.norm(dim=1).max()), 1)


def test_the_command_trains_encoders_on_the_decoder_of_a_file(sae, tmp_path):
    """Three forms at two seeds, k from the SAE; saved, loaded, and trained again by nobody."""
    np.save(tmp_path / "acts.npy", draw(3000, 5).numpy())
    save_sae(sae, tmp_path / "sae.safetensors")
    config = TrainConfig(
        str(tmp_path / "acts.npy"),
        str(tmp_path / "out"),
        frozen_decoder=str(tmp_path / "sae.safetensors"),
        encoder=("linear", "lista", "mlp"),
        steps_unrolled=(1, 2),
        steps=6,
        batch_size=64,
        seeds=(0, 1),
        layer=2,
    )
    folders = train.run(config, progress=False)
    assert [f.relative_to(tmp_path / "out").as_posix() for f in folders] == [
        f"{variant}/resid_post_layer_2/trainer_{i}"
        for variant, many in (("topk", 2), ("lista", 4), ("mlp", 2))
        for i in range(many)
    ]
    loaded = [load_sae(folder) for folder in folders]
    for one in loaded:
        torch.testing.assert_close(one.W_dec, sae.W_dec)
        assert one.config.k == K
    assert [getattr(one.config, "unrolled", None) for one in loaded] == [None, None, 1, 1, 2, 2, None, None]
    times = [(folder / "eval_results.json").stat().st_mtime_ns for folder in folders]
    assert train.run(config, progress=False) == folders
    assert times == [(folder / "eval_results.json").stat().st_mtime_ns for folder in folders]
    for change, word in (
        ({"encoder": ("deep",)}, "No encoder 'deep'"),
        ({"steps_unrolled": (0,)}, "at least one step"),
        ({"sparsity": (2.5,)}, "whole number"),
        ({"acts": str(tmp_path / "wide.npy")}, "reads activations of width 24"),
        ({"imitate": True, "frozen_decoder": None}, "frozen-decoder"),
    ):
        np.save(tmp_path / "wide.npy", np.zeros((300, D + 1), np.float32) + 1)
        with pytest.raises(BadInput, match=word):
            train.run(dataclasses.replace(config, **change), progress=False)


# --- the section ----------------------------------------------------------------------------------------------------


def planted(errors, what="encoder"):
    """A table of three seeds, (name, kind of codes) -> NMSE of the first; the seeds differ by .01 in all alike."""
    rows = [
        {what: name, "mode": mode, "seed": seed, "NMSE": value + 0.01 * seed, "KL": 2 * value}
        for (name, mode), value in errors.items()
        for seed in range(3)
    ]
    return pd.DataFrame(rows).assign(documents=20, n_tokens=1000, loss_increase=1.0)


FORM_ERRORS = {
    ("own", "encoder"): 0.30,
    ("own", "pursuit"): 0.20,
    ("linear", "encoder"): 0.29,
    ("mlp", "encoder"): 0.27,
    ("lista3", "encoder"): 0.22,
}


def test_what_is_won_back_by_hand():
    """LISTA: (.30 − .22) / (.30 − .20) = .8, of which the linear encoder alone wins .1; the seeds agree."""
    table = planted(FORM_ERRORS)
    assert words.recovered(table, "lista3", "NMSE").to_list() == pytest.approx([0.8] * 3)
    finding = claims.beyond_linear({"encoders": table}, "lista3", "NMSE")
    assert (finding.corrected.value, finding.corrected.n) == (pytest.approx(0.7), 3)
    assert finding.corrected.tokens == 3000 and "10%" in finding.why


DICTIONARY_ERRORS = {
    ("trained", "encoder"): 0.30,
    ("trained", "pursuit"): 0.20,
    ("pursuit", "encoder"): 0.26,
    ("pursuit", "pursuit"): 0.12,
    ("frozen_decoder", "encoder"): 0.50,
}


def test_inference_against_dictionary_by_hand():
    """Inference takes .10 off .30. The dictionary takes .08 off pursuit's .20, .04 off the .30; KL doubles."""
    table = planted(DICTIONARY_ERRORS, "dictionary")
    for codes, gain in (("pursuit", 0.08), ("encoder", 0.04)):
        inference, dictionary = words.exchange(table, "NMSE", codes)
        assert (inference.value, dictionary.value) == (pytest.approx(0.10), pytest.approx(gain))
        for metric, times in (("NMSE", 1), ("KL", 2)):
            found = claims.more_than_inference({"dictionaries": table}, metric, codes)
            assert found.corrected.value == pytest.approx(times * (gain - 0.10))
    table["F1@1"] = table["NMSE"]
    assert claims.frozen_part({"dictionaries": table}, "frozen_decoder").corrected.value == pytest.approx(0.20)


@pytest.mark.parametrize(("gain", "word"), [(0.12, "refuted"), (0.0, "supported"), (0.10, "refuted")])
def test_the_dictionary_binds_where_it_does(gain, word):
    """Inference takes `gain` off .30, the dictionary the rest down to .12: the verdict follows the larger one."""
    rng = np.random.default_rng(0)
    table = planted({**DICTIONARY_ERRORS, ("trained", "pursuit"): 0.30 - gain}, "dictionary")
    table["NMSE"] += rng.normal(0, 1e-4, len(table))
    table["KL"] += rng.normal(0, 1e-4, len(table))
    parts = [c for c in claims.CLAIMS if c.id.startswith("E2")]
    found = {c.id: c.test({"dictionaries": table}) for c in parts}
    assert judge(parts, found)["E2a"].word == word


def test_sentences_and_figures_are_drawn_from_any_number_of_models():
    form = planted({(n, m): 0.2 for n in names.ENCODER_NAMES for m in ("encoder", "pursuit")})
    form.loc[form["mode"] == "pursuit", "NMSE"] -= 0.1
    form.loc[form["mode"] == "pursuit", "KL"] -= 0.1
    form = form.assign(flops=1.0, parameters=10, ms_per_token=1.0)
    kinds = {(n, m): 0.2 for n in names.DICTIONARY_NAMES for m in names.KINDS}
    table = planted(kinds, "dictionary").assign(**dict.fromkeys(["dead_rate", "F1@1", "dF1", "absorption"], 0.1))
    for models in (("a",), ("a", "b")):
        assert len(figures.encoders_figure(dict.fromkeys(models, form)).data) == 2 * len(models)
        assert len(figures.dictionaries_figure(dict.fromkeys(models, table)).data) == 2 * len(models)
        assert len(words.encoders_overview(dict.fromkeys(models, form))) == len(models) * len(names.ENCODER_NAMES)
        assert len(words.two_by_two(dict.fromkeys(models, table))) == 4 * len(models)
        assert len(words.modes_overview(dict.fromkeys(models, table))) == len(models) * len(names.DICTIONARIES)
    assert "n = 3 seeds" in words.encoders_findings(form) and "takes off" in words.dictionaries_findings(table)
    worse = table.assign(NMSE=table["NMSE"] + 0.06 * (table["dictionary"] == "pursuit"))
    assert "linear encoder it adds 0.060 [0.060, 0.060], n = 3 seeds" in words.dictionaries_findings(worse)


@pytest.mark.slow
def test_the_section_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    monkeypatch.setitem(draw_module.PLANS, "tiny", draw_module.Plan(4, 4, 64, 3, 64, 24))
    small = scale_of("tiny", train_tokens=3_000, eval_tokens=6_000, label_docs=24, m=96)
    tables = run_section(small, 400, 2)
    for name, table in zip(TABLES, tables, strict=True):
        assert table["seed"].nunique() == 2, name
    form, _, dictionary = tables
    assert set(form["encoder"]) == set(names.ENCODER_NAMES) and set(dictionary["dictionary"]) == set(names.DICTIONARIES)
    stay = form[form["mode"] == "pursuit"].groupby("seed")["NMSE"]
    assert float((stay.max() - stay.min()).max()) < 1e-6  # one dictionary, so one pursuit
    again = run_section(small, 400, 2)
    pd.testing.assert_frame_equal(again[0].drop(columns="ms_per_token"), form.drop(columns="ms_per_token"))
