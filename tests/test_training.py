"""Training: every variant's loss against plain autograd, recovery of a known dictionary, files, resuming, bad input."""

import csv
import dataclasses
import json
import math
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from repro.activations.held_out import open_meter
from repro.activations.language_models.loss import LossMeter
from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.checkpoints import load_sae
from repro.checkpoints.formats.dictionary_learning import state_dict
from repro.commands.train import jobs, recipe, run, with_defaults
from repro.commands.training_flags import TrainConfig
from repro.loca.grouped import LocaJob
from repro.sae import VARIANTS
from repro.sae.matryoshka import group_sizes
from repro.training.language import loss_recovered
from repro.training.losses import LOSSES, Situation, auxk, general
from repro.training.places import Dense, Sparse
from repro.training.recipe import TRAINED, Job, Recipe, sparsity_grid
from repro.training.selection import batch_top_k, row_top_k
from repro.training.train import evaluate, train
from repro.training.trainer import Trainer, remove_parallel
from repro.training.weights import Weights, geometric_median

D, M, FEATURES = 32, 80, 40


@dataclasses.dataclass
class Rows:
    """Tokens in memory, with the methods of activations.store.Rows that training uses."""

    x: torch.Tensor
    fail_at: int | None = None
    drawn: list[int] = dataclasses.field(default_factory=list)

    n = property(lambda self: len(self.x))
    d = property(lambda self: self.x.shape[1])

    def batches(self, batch_size, seed, start_batch=0):
        i = start_batch
        while True:
            if i == self.fail_at:
                raise KeyboardInterrupt
            self.drawn.append(i)
            generator = torch.Generator().manual_seed(1000 * seed + i)
            yield self.x[torch.randint(self.n, (batch_size,), generator=generator)]
            i += 1

    def take(self, n, seed=None):
        return dataclasses.make_dataclass("Batch", ["x"])(self.x[:n])

    def describe(self):
        return {"kept": self.n, "checksum": float(self.x.double().sum())}


@pytest.fixture(scope="module")
def data():
    """24,000 tokens of norm about 30: a mean plus 3 of 40 known unit atoms on average; (tokens, atoms)."""
    g = torch.Generator().manual_seed(3)
    atoms = normalize(torch.randn(FEATURES, D, generator=g), dim=1)
    rate = 1 / torch.arange(1, FEATURES + 1)
    rate = (3 * rate / rate.sum()).clamp(max=0.5)
    on = torch.rand(24_000, FEATURES, generator=g) < rate
    z = on * (torch.rand(24_000, FEATURES, generator=g) + 0.5)
    return 15 * (z @ atoms + 0.3 * normalize(torch.randn(D, generator=g), dim=0)), atoms


def short(steps=60, **given):
    return Recipe.scaled(steps, 128, **given)


def trained(data, tmp_path, jobs, recipe, **given):
    x = data[0]
    return train(Rows(x[:20_000]), jobs, recipe, tmp_path, "lm", 3, "cpu", held_out=x[20_000:], progress=False, **given)


def results(folder):
    return json.loads((folder / "eval_results.json").read_text())


def weights_of(variant, sparsity, seed=0, noise=0.1):
    """Weights as in the middle of training: encoder and decoder no longer tied, biases not 0."""
    w = Weights(Job(variant, sparsity, M, seed), D)
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, t in w.tensors.items():
            t += noise * torch.randn(t.shape, generator=g) * (0.3 if name == "threshold" else 1)
        if w.unit_norm:
            w.W_dec.copy_(normalize(w.W_dec, dim=1))
    return w


def as_sae(w):
    """The SAE with exactly these tensors, in autograd's hands."""
    sae = VARIANTS[w.job.variant](w.config)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(w.rows.t() if name == "W_enc" else w.tensors[name])
    return sae


def plain_loss(sae, x, at, variant):
    """The losses written out on dense codes, by the variants' own definitions."""
    pre = sae.pre(x)
    z = sae.train_activate(pre)
    mse = lambda x_hat: (x - x_hat).square().sum(1).mean()  # noqa: E731
    if variant == "matryoshka_batch_topk":
        prefixes = accumulate(sae.config.group_sizes)
        return torch.stack([mse(z[:, :c] @ sae.W_dec[:c] + sae.b_dec) for c in prefixes]).mean()
    loss = mse(sae.decode(z))
    if variant == "standard":
        loss = loss + at.sparsity * at.warm * (z * sae.W_dec.norm(dim=1)).sum(1).mean()
    if variant == "gated":
        gate = (pre + sae.gate_bias).relu()
        loss = loss + at.sparsity * at.warm * gate.sum(1).mean()
        loss = loss + mse(gate @ sae.W_dec.detach() + sae.b_dec.detach())
    return loss


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    ("variant", "sparsity"),
    [("standard", 0.04), ("topk", 5), ("batch_topk", 5), ("matryoshka_batch_topk", 5), ("gated", 0.04)],
)
def test_losses_and_gradients_are_those_of_plain_autograd(variant, sparsity, sparse):
    w = weights_of(variant, sparsity)
    x = torch.randn(37, D)
    at = Situation(sparsity=sparsity, warm=0.7, sparse=sparse)
    loss = LOSSES[variant](w, x, at)
    loss.total.backward()
    sae = as_sae(w)
    plain = plain_loss(sae, x, at, variant)
    plain.backward()
    torch.testing.assert_close(loss.total, plain, rtol=1e-5, atol=1e-6)
    for name, p in sae.named_parameters():
        mine = w.rows.grad.t() if name == "W_enc" else w.tensors[name].grad
        torch.testing.assert_close(mine, p.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    z = sae.train_activate(sae.pre(x))
    assert loss.nonzeros == int((z > 0).sum())
    assert torch.equal(loss.fired, (z > 0).any(0))
    torch.testing.assert_close(loss.error, x - sae.decode(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [v for v in TRAINED if VARIANTS[v].trainer_class])
def test_twenty_steps_are_those_of_dictionary_learning(variant):
    """Same start, same batches: weights, losses, dead latents and threshold after 20 updates of its trainers."""
    with np.load(Path(__file__).parent / "golden/training/dictionary_learning.npz") as file:
        golden = {k.removeprefix(f"{variant}/"): torch.tensor(v) for k, v in file.items()}
    x, start = golden["x"], golden["start"]
    sparsity = {"standard": 0.1, "gated": 0.1, "jumprelu": 4}.get(variant, 3)
    recipe = Recipe(
        steps=10**6,
        batch_size=48,
        lr=2e-3,
        warmup_steps=0,
        sparsity_warmup_steps=10 if variant != "jumprelu" else 10**12,
        decay_start=1.0,
        threshold_beta=0.9,
        threshold_start_step=5,
        dead_after_tokens=48,
        bandwidth=0.05,
        grad_clip=1e9 if variant == "gated" else 1.0,
    )
    trainer = Trainer(Job(variant, sparsity, len(start)), recipe, x.shape[1])
    with torch.no_grad():
        for name in ("rows", "W_dec"):
            trainer.weights.tensors[name].copy_(start * (0.1 if variant == "standard" else 1))
        if variant == "jumprelu":
            trainer.weights.threshold.fill_(0.2)
    stats = [trainer.update(batch) for batch in x.split(48)]
    if "losses" in golden:
        torch.testing.assert_close(
            torch.tensor([s.loss for s in stats]), golden["losses"].float(), rtol=1e-5, atol=1e-6
        )
    if "dead" in golden:
        assert [round(s.dead * len(start)) for s in stats] == golden["dead"].tolist()
        assert variant == "jumprelu" or sum(golden["dead"]) > 5  # AuxK had something to do
    for key, mine in state_dict(as_sae(trainer.weights)).items():
        if key == "threshold" and mine.ndim == 0:
            mine = torch.tensor(trainer.threshold)
        torch.testing.assert_close(mine, golden[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("variant", "sparsity"), [("standard", 0.04), ("topk", 5), ("batch_topk", 5)])
def test_the_general_loss_is_that_of_the_variants_that_need_no_other(variant, sparsity):
    at = {"sparsity": sparsity, "warm": 0.7, "auxk_alpha": 0.1, "dead_after": 5, "silent": torch.full((M,), 9)}
    x, found = torch.randn(2, D), []
    for loss_of in (LOSSES[variant], general):
        w = weights_of(variant, sparsity)
        loss = loss_of(w, x, Situation(**at))
        loss.total.backward()
        found.append((loss, {name: t.grad for name, t in w.tensors.items()}))
    (own, gradients), (dense, same) = found
    assert (own.nonzeros, own.fired.tolist()) == (dense.nonzeros, dense.fired.tolist())
    torch.testing.assert_close(dense.total, own.total, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparse", [True, False])
def test_jumprelu_gradients_by_hand(sparse):
    """One token, one dimension, two latents with pre = (0.5, 0.5), thresholds (0.45, 0.2), window 0.2.

    z = (.5, .5), both atoms 1, x = 1: no error. l0 = 2, target 1: penalty (2 - 1)^2 = 1, and its gradient to l0 is
    2 (2 - 1) = 2. Only the first threshold lies within 0.1 of its pre: d threshold = -2 / 0.2 = -10.
    With x_hat 0.5 off (W_dec = 1.5 x), error = 1 - 1.5 = -.5; d z = 2 * 0.5 * 1.5 = 1.5; the jump adds
    -(0.45 / 0.2) * 1.5 = -3.375 to the first threshold.
    """
    w = Weights(Job("jumprelu", 1, 2), 1)
    with torch.no_grad():
        w.rows.fill_(0.5), w.W_dec.fill_(1.0), w.threshold.copy_(torch.tensor([0.45, 0.2]))
    x = torch.ones(1, 1)
    loss = LOSSES["jumprelu"](w, x, Situation(1.0, bandwidth=0.2, sparse=sparse))
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(1.0)
    torch.testing.assert_close(w.threshold.grad, torch.tensor([-10.0, 0.0]))
    w.threshold.grad = None
    with torch.no_grad():
        w.W_dec.fill_(1.5)
    LOSSES["jumprelu"](w, x, Situation(1.0, bandwidth=0.2, sparse=sparse)).total.backward()
    torch.testing.assert_close(w.threshold.grad, torch.tensor([-13.375, 0.0]))
    torch.testing.assert_close(w.b_enc.grad, torch.tensor([1.5, 1.5]))


def test_jumprelu_layouts_agree():
    w, other = weights_of("jumprelu", 8), weights_of("jumprelu", 8)
    x = torch.randn(50, D)
    for weights, sparse in ((w, True), (other, False)):
        LOSSES["jumprelu"](weights, x, Situation(8.0, bandwidth=0.1, sparse=sparse)).total.backward()
    for name in w.tensors:
        torch.testing.assert_close(w.tensors[name].grad, other.tensors[name].grad, rtol=1e-4, atol=1e-5)


def test_auxk_leaves_the_live_latents_alone_and_by_hand():
    plain, w, x = weights_of("topk", 4), weights_of("topk", 4), torch.randn(8, D)
    without = LOSSES["topk"](plain, x, Situation(4.0))
    without.total.backward()
    silent = torch.zeros(M, dtype=torch.long)
    silent[::2] = 992
    loss = LOSSES["topk"](w, x, Situation(4.0, auxk_alpha=1 / 32, silent=silent, dead_after=1000))
    loss.total.backward()
    dead = (silent > 0) & ~loss.fired
    assert 0 < dead.sum() < M / 2 and loss.total > without.total
    torch.testing.assert_close(w.W_dec.grad[~dead], plain.W_dec.grad[~dead])  # the residual is detached
    torch.testing.assert_close(w.b_enc.grad[~dead], plain.b_enc.grad[~dead])
    assert (w.W_dec.grad[dead] != 0).any(1).all() and not plain.W_dec.grad[dead].any()

    # by hand: residual rows (2, 0) and (-2, 0); the dead latent scores 1 and 0 with atom (1, 0):
    # missed = ((2 - 1)^2 + 2^2) / 2 = 2.5, variance = (4 + 4) / 2 = 4
    w = Weights(Job("topk", 1, 2), 2)
    with torch.no_grad():
        w.rows.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0]])), w.W_dec.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    value = auxk(w, x, torch.zeros(2), 2 * x, torch.tensor([False, True]))
    assert float(value.detach()) == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(("n", "m", "k"), [(7, 96, 5), (3, 4096, 20), (2, 8192, 64), (5, 17, 17), (1, 1, 1)])
def test_row_top_k_is_topk(n, m, k):
    pre = torch.randn(n, m)
    mine = row_top_k(pre, k).view(n, k)
    assert torch.equal(mine.sort(1).values % m, pre.topk(k, 1).indices.sort(1).values)
    assert torch.equal(mine // m, torch.arange(n)[:, None].expand(n, k))


@pytest.mark.parametrize("guess", [0.0, 0.5, 1e6])
def test_batch_top_k_is_topk_whatever_the_guess(guess):
    pre = torch.randn(13, 40)
    for count in (1, 26, 130):
        expected = pre.flatten().topk(count).indices.sort().values
        assert torch.equal(batch_top_k(pre, count, guess), expected)
    assert torch.equal(batch_top_k(pre, 520, guess), (pre.flatten() > 0).nonzero().squeeze(1))
    assert len(batch_top_k(-pre.abs(), 5, guess)) == 0


def test_sparse_products_are_the_dense_ones():
    pre, atoms, x = torch.randn(9, 30), torch.randn(30, 4), torch.randn(9, 4)
    flat = (pre > 1).view(-1).nonzero().squeeze(1)
    places, dense = Sparse(pre, flat), Dense(pre, pre > 1)
    z = pre * (pre > 1)
    torch.testing.assert_close(places.times(places.values, atoms), z @ atoms)
    torch.testing.assert_close(places.transposed_times(places.values, x), z.t() @ x)
    torch.testing.assert_close(places.per_latent(places.values), dense.per_latent(dense.keep(pre)))
    empty = Sparse(pre, flat[:0])
    assert empty.decode(empty.values, atoms).abs().sum() == 0


def test_parallel_gradient_is_removed_and_geometric_median_is_found():
    atoms = normalize(torch.randn(5, 3), dim=1).requires_grad_()
    atoms.grad = torch.randn(5, 3)
    remove_parallel(atoms)
    assert (atoms.grad * atoms).sum(1).abs().max() < 1e-6
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    outlier = torch.cat([square, square, torch.tensor([[1.0, 1.0], [1000.0, 1000.0]])])
    assert (geometric_median(square) - 1).abs().max() < 1e-4
    assert (geometric_median(outlier) - 1).abs().max() < 0.2  # the mean would be 100.9


@pytest.mark.parametrize("variant", TRAINED)
def test_every_variant_learns_a_known_dictionary(variant, data, tmp_path):
    sparsity = {"standard": 0.1, "gated": 0.3}.get(variant, 4)
    (folder,) = trained(data, tmp_path, [Job(variant, sparsity, M)], short(400, lr=6e-3))
    out = results(folder)
    random = evaluate(load_sae(folder, step=0), data[0][20_000:])
    assert out["FVE"] > 0.92 and random["FVE"] < 0.7
    assert 3 < out["L0"] < 14
    assert out["tokens"] == "held out" and out["n_tokens"] == 4000
    sae = load_sae(folder)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(M))
    cosine = (normalize(data[1], dim=1) @ sae.W_dec.T).amax(1)
    assert float((cosine > 0.9).float()[: FEATURES // 2].mean()) > 0.7  # of the frequent half of the atoms
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 399 and lines[-1]["FVE"] > lines[0]["FVE"] + 0.2


@pytest.mark.parametrize("variant", TRAINED)
def test_folding_is_exact(variant):
    """encode and decode of the saved SAE on s x are s times those of the trained weights on x."""
    w = weights_of(variant, 5)
    s, x = 37.5, torch.randn(50, D)
    threshold = 0.2 if w.job.sparsity_name == "k" else None
    raw, unit = w.to_sae(s, threshold), w.to_sae(1.0, threshold)
    z, z_raw = unit.encode(x), raw.encode(s * x)
    assert (z > 0).any()
    torch.testing.assert_close(z_raw, s * z, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(raw.decode(z_raw), s * unit.decode(z), rtol=1e-4, atol=1e-3)
    if variant == "standard":  # unit atoms, same reconstruction
        torch.testing.assert_close(unit.decode(z), as_sae(w)(x), rtol=1e-4, atol=1e-5)


def test_killed_and_resumed_gives_the_same_bits(data, tmp_path):
    jobs = [Job(v, s, M) for v, s in (("standard", 0.05), ("batch_topk", 4), ("matryoshka_batch_topk", 4))]
    recipe = short(60, dead_after_tokens=1000)
    whole = trained(data, tmp_path / "whole", jobs, recipe)
    rows = Rows(data[0][:20_000], fail_at=47)
    given = {"held_out": data[0][20_000:], "progress": False, "state_every": 10}
    with pytest.raises(KeyboardInterrupt):
        train(rows, jobs, recipe, tmp_path / "cut", "lm", 3, "cpu", **given)
    cut = tmp_path / "cut" / "batch_topk" / "resid_post_layer_3" / "trainer_0"
    assert (cut / "training_state.pt").is_file() and not (cut / "ae.pt").exists()
    (cut / ".training_state.1.draft.pt").write_bytes(b"half")
    rows = Rows(rows.x)
    resumed = train(rows, jobs, recipe, tmp_path / "cut", "lm", 3, "cpu", **given)
    assert rows.drawn[0] == 40
    for a, b in zip(whole, resumed, strict=True):
        names = sorted(p.relative_to(a).as_posix() for p in a.rglob("*.*"))
        assert names == sorted(p.relative_to(b).as_posix() for p in b.rglob("*.*"))
        for name in names:
            if name.endswith(".pt") or name == "eval_results.json":
                assert (a / name).read_bytes() == (b / name).read_bytes(), name
        steps = [json.loads(line)["step"] for line in (b / "log.jsonl").read_text().splitlines()]
        assert steps == list(range(60))


def test_same_seed_same_bytes_other_seed_other_bytes_and_side_by_side_is_alone(data, tmp_path, monkeypatch):
    jobs = [Job("topk", 4, M), Job("topk", 4, M, seed=1), Job("batch_topk", 4, M)]
    together = trained(data, tmp_path / "a", jobs, short())
    monkeypatch.setattr("os.getpid", lambda: 7)  # as if by another process: drafts get other names
    alone = trained(data, tmp_path / "b", jobs[:1], short())
    read = lambda folder: (folder / "ae.pt").read_bytes()  # noqa: E731
    assert read(together[0]) == read(alone[0]) != read(together[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # two SAEs at a time, one thread each
    try:
        side_by_side = trained(data, tmp_path / "c", jobs, short())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [read(a) for a in side_by_side] == [read(a) for a in together]


def test_finished_runs_are_skipped_and_other_configs_refused(data, tmp_path):
    jobs = [Job("topk", 4, M)]
    (folder,) = trained(data, tmp_path, jobs, short(20))
    before = (folder / "ae.pt").stat().st_mtime_ns
    rows = Rows(data[0][:20_000])
    assert train(rows, jobs, short(20), tmp_path, "lm", 3, "cpu", progress=False) == [folder]
    assert not rows.drawn and (folder / "ae.pt").stat().st_mtime_ns == before
    for other_jobs, other, word in (
        (jobs, short(20, lr=1e-3), "recipe.lr is"),
        ([Job("topk", 5, M)], short(20), "job.sparsity is 4.0 there and 5.0 here"),
    ):
        with pytest.raises(BadInput, match=word):
            trained(data, tmp_path, other_jobs, other)
    with pytest.raises(BadInput, match=r"data\.checksum"):
        train(Rows(data[0][:19_000]), jobs, short(20), tmp_path, "lm", 3, "cpu", progress=False)
    both = trained(data, tmp_path, [*jobs, Job("topk", 8, M)], short(20))  # one finished, one new
    assert both[0] == folder and (folder / "ae.pt").stat().st_mtime_ns == before and (both[1] / "ae.pt").is_file()


def test_trajectory_is_the_papers_and_loads(data, tmp_path):
    full = Recipe()
    assert full.checkpoint_steps() == (0, 244, 772, 2441, 7720, 24414, 77203, 244140)
    assert short(500).checkpoint_steps() == (0, 1, 2, 5, 15, 50, 158, 500)
    assert Recipe.scaled(3, 8).checkpoint_steps() == (0, 1, 2, 3)
    (folder,) = trained(data, tmp_path, [Job("batch_topk", 4, M)], short(40))
    steps = sorted(int(p.stem[3:]) for p in (folder / "checkpoints").iterdir())
    assert steps == [0, 1, 2, 3, 4, 5, 12]
    x = data[0][:2000]
    for step in (*steps, None):
        sae = load_sae(folder, step=step)
        assert sae.source.k == 4 and sae.source.step == step and sae.source.layer == 3 and sae.source.lm_name == "lm"
        assert float((sae.encode(x) > 0).float().sum(1).mean()) == pytest.approx(4, rel=0.2)  # even before the average
    assert torch.equal(load_sae(folder, step=0).b_dec, torch.zeros(D))


@pytest.mark.parametrize("job", [Job("topk", 3, M), LocaJob("topk", 3, M, normalisation="unit_norm")])
def test_an_sae_knows_the_site_of_its_store(job, data, tmp_path):
    for site, layer, place in (("mlp_out", 4, ("mlp_out", 4)), ("resid_pre", 4, ("resid_post", 3))):
        (folder,) = train(Rows(data[0]), [job], short(3), tmp_path, "tiny", layer, "cpu", progress=False, site=site)
        assert folder.parent.name == f"{site}_layer_4"
        source = load_sae(folder).source
        assert (source.site, source.layer) == place


def test_recipe_is_saebenchs_at_full_length_and_shrinks():
    assert Recipe.scaled(244_140, 2048) == Recipe()
    r = Recipe()
    assert r.lr_at(0) == pytest.approx(3e-4 / 1000) and r.lr_at(999) == r.lr_at(150_000) == pytest.approx(3e-4)
    assert r.lr_at(195_312) == pytest.approx(3e-4) and r.lr_at(219_726) == pytest.approx(1.5e-4, rel=1e-4)
    assert r.lr_at(244_139) > 0
    assert r.sparsity_factor(0) == 0 and r.sparsity_factor(2500) == 0.5 and r.sparsity_factor(9999) == 1
    small = Recipe.scaled(400, 1024)
    assert small.warmup_steps < 100 and small.lr > 1e-3 and small.threshold_start_step < 320
    assert sparsity_grid("topk", 16_384, 2304) == (20, 40, 80, 160, 320, 640)
    assert sparsity_grid("batch_topk", 1024, 256) == (5, 10, 20, 40, 80, 160)
    assert sparsity_grid("standard", 1024, 256) == (0.012, 0.015, 0.02, 0.03, 0.04, 0.06)
    assert group_sizes(1024) == (32, 64, 128, 256, 544)


def test_more_l1_fewer_codes(data, tmp_path):
    folders = trained(data, tmp_path, [Job("standard", l1, M) for l1 in (0.02, 0.08, 0.2)], short(200))
    l0 = [results(f)["L0"] for f in folders]
    assert l0[0] > 1.3 * l0[1] > 1.3 * 1.2 * l0[2]
    assert results(folders[0])["FVE"] > results(folders[2])["FVE"]


def test_the_threshold_keeps_k_on_held_out_tokens(data, tmp_path):
    (folder,) = trained(data, tmp_path, [Job("batch_topk", 6, M)], short(400))
    assert results(folder)["L0"] == pytest.approx(6, rel=0.05)


def test_dead_latents_are_tracked_and_revived(data):
    """Half of the latents start with a bias that keeps them silent: AuxK brings most back, without it they stay."""
    dead = {}
    for alpha in (0.0, 1 / 32):
        trainer = Trainer(Job("topk", 3, M), short(300, lr=3e-3, dead_after_tokens=1000, auxk_alpha=alpha), D)
        with torch.no_grad():
            trainer.weights.b_enc[: M // 2] = -0.35
        rows = Rows(data[0] / data[0].square().sum(1).mean().sqrt()).batches(128, 0)
        for _ in range(150):
            stats = trainer.update(next(rows))
        dead[alpha] = stats.dead
    assert dead[0.0] > 0.3 > 0.2 > dead[1 / 32]


def test_bad_input_is_one_sentence(data, tmp_path):
    x = data[0][:500]
    go = lambda jobs, recipe=None, rows=None, **given: train(  # noqa: E731
        rows or Rows(x), jobs, recipe or short(5), tmp_path, "lm", 3, "cpu", progress=False, **given
    )
    cases = [
        (lambda: go([Job("topk", 97, 96)]), "k is 97"),
        (lambda: go([Job("batch_topk", 0.5, 96)]), "whole number"),
        (lambda: go([Job("jumprelu", 0, 96)]), "target_l0"),
        (lambda: go([Job("standard", -1, 96)]), "l1_penalty"),
        (lambda: go([Job("matryoshka", 4, 96)]), "did you mean"),
        (lambda: go([Job("matryoshka_batch_topk", 1, 4)]), "Matryoshka needs"),
        (lambda: go([]), "at least one sparsity"),
        (lambda: go([Job("topk", 4, 96)] * 2), "twice"),
        (lambda: go([Job("topk", 4, 96)], Recipe.scaled(5, 501)), "fewer than one batch"),
        (lambda: go([Job("topk", 4, 96)], held_out=torch.zeros(5, D + 1)), "width 32"),
        (lambda: go([Job("topk", 4, 96)], rows=Rows(x * math.nan)), "NaN"),
        (lambda: go([Job("topk", 4, 96)], rows=Rows(x * 0)), "All activations are 0"),
        (lambda: go([Job("topk", 4, 10**9)]), "GB free"),
        (lambda: Recipe.scaled(0, 128), "at least 1"),
        (lambda: Recipe(lr=0), "lr is 0"),
        (lambda: Recipe(checkpoints=(2.0,)), "between 0 and 1"),
    ]
    for call, word in cases:
        with pytest.raises(BadInput, match=word) as caught:
            call()
        assert str(caught.value).count(". ") == 0 and "\n" not in str(caught.value)
    assert not any(tmp_path.rglob("ae*.pt"))


def test_the_command_trains_variants_times_sparsities_on_a_bare_file(data, tmp_path):
    np.save(tmp_path / "acts.npy", data[0][:3000].numpy())
    config = TrainConfig(
        str(tmp_path / "acts.npy"),
        str(tmp_path / "out"),
        ("topk", "jumprelu"),
        (3, 5),
        m=M,
        steps=8,
        batch_size=64,
        seeds=(0, 1),
        layer=2,
    )
    folders = run(config, progress=False)
    assert [f.relative_to(tmp_path / "out").as_posix() for f in folders] == [
        f"{v}/resid_post_layer_2/trainer_{i}" for v in ("topk", "jumprelu") for i in range(4)
    ]
    asked = [(v, k, s) for v in ("topk", "jumprelu") for k in (3, 5) for s in (0, 1)]
    for folder, (variant, sparsity, seed) in zip(folders, asked, strict=True):
        sae = load_sae(folder)
        assert sae.name == variant and sae.source.sparsity == sparsity and results(folder)["n_tokens"] == 300
        kept = json.loads((folder / "config.json").read_text())["repro"]
        assert kept["job"]["seed"] == seed and kept["data"]["training_tokens"] == 2700
    assert len(jobs(dataclasses.replace(config, sparsity=None), D)) == 16  # k = 1, 2, 5, 10, two seeds each
    for change, word in (
        ({"sparsity": ()}, "list of sparsities is empty"),
        ({"variant": ()}, "No variant"),
        ({"variant": ("standard", "topk")}, "in two commands"),
        ({"train_tokens": 4000}, "3000 usable tokens"),
        ({"acts": str(tmp_path / "no.npy")}, "No activations"),
    ):
        with pytest.raises(BadInput, match=word):
            run(dataclasses.replace(config, **change))


def test_divergence_and_full_disk_stop_with_a_sentence(data, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="lower the learning rate"):
        trained(data, tmp_path / "a", [Job("standard", 0.02, M)], short(60, lr=1e30, grad_clip=1e30))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.training.files.torch.save", full)
    with pytest.raises(BadInput, match="No space left"):
        trained(data, tmp_path / "b", [Job("topk", 4, M)], short(5))


@pytest.fixture(scope="module")
def tiny_lm():
    from repro.activations.language_models.load import load_model
    from repro.base.config import ModelConfig

    return load_model(ModelConfig("tiny"), "cpu")


def mirror(d, share):
    """z = ReLU(x), ReLU(-x); x_hat = x in the first `share` of the dimensions, 0 in the others."""
    sae = VARIANTS["standard_uncentred"](VARIANTS["standard_uncentred"].Config(d, 2 * d))
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(d), -torch.eye(d)], 1))
        sae.W_dec.copy_(sae.W_enc.T * (torch.arange(d) < share * d))
    return sae.requires_grad_(False)


def test_cross_entropy_recovered(tiny_lm):
    """The identity recovers everything, zeros nothing; the losses are transformers' own, by another path."""
    text = "A library is a collection of books. People borrow books there, read them and bring them back. " * 12
    ids = torch.tensor(tiny_lm.tokenizer(text).input_ids[:192]).view(4, 48)
    d, layer, docs = tiny_lm.d, tiny_lm.layer, torch.arange(4)[:, None].expand(4, 48)
    every = torch.ones_like(ids, dtype=torch.bool)
    meter = LossMeter(tiny_lm, layer, ids, every, docs)
    same = loss_recovered(meter, mirror(d, 1.0))
    assert same["frac_recovered"] == pytest.approx(1, abs=1e-5)
    assert same["loss_original"] == pytest.approx(float(tiny_lm.model(input_ids=ids, labels=ids).loss), rel=1e-5)
    nothing = loss_recovered(meter, mirror(d, 0.0))
    assert nothing["frac_recovered"] == pytest.approx(0, abs=1e-5)
    assert nothing["loss_zero"] == pytest.approx(same["loss_zero"], rel=1e-5) and same["loss_zero"] > 5
    part = loss_recovered(meter, mirror(d, 0.8))
    assert 0.5 < part["frac_recovered"] < 1 and part["loss_reconstructed"] > part["loss_original"]

    first = every.clone()
    first[:, 0] = False  # position 0 keeps its activation, in the ablation too
    assert loss_recovered(LossMeter(tiny_lm, layer, ids, first, docs), mirror(d, 0.0))["loss_zero"] < same["loss_zero"]

    mask = every.clone()
    mask[:, 30:] = False  # padding counts nowhere
    padded = LossMeter(tiny_lm, layer, torch.where(mask, ids, 0), every, torch.where(mask, docs, -1))
    assert loss_recovered(padded, mirror(d, 1.0))["loss_original"] == pytest.approx(
        float(tiny_lm.model(input_ids=ids[:, :30], labels=ids[:, :30]).loss), rel=1e-5
    )


def test_finished_runs_report_the_loss_recovered(tiny_lm, tmp_path):
    from repro.activations.collect import collect
    from repro.base.config import DatasetConfig, ModelConfig, RunConfig

    data = DatasetConfig(name="tiny", max_tokens=4000, seq_len=64)
    acts = collect(RunConfig(output_dir=str(tmp_path), model=ModelConfig("tiny"), dataset=data, device="cpu"))
    config = TrainConfig(str(acts), str(tmp_path / "out"), ("topk",), (20,), m=256, steps=60, batch_size=256)
    (folder,) = run(config, progress=False)
    out = results(folder)
    assert out["loss_original"] < out["loss_reconstructed"] < out["loss_zero"] and 0.2 < out["frac_recovered"] < 1
    store, rows = open_store(acts), open_store(acts).select()
    found = open_meter(dataclasses.replace(rows, index=rows.index[3000:]), 128, "cpu")
    first = 3000 * 64 // 63 // 64  # position 0 of each sequence is left out
    assert torch.equal(found.ids, torch.as_tensor(store.tokens[first + 1 : first + 3].astype("int64")))
    assert not found.patched[:, 0].any() and found.patched[:, 5].all()
    last = int((rows.index < (len(store.x) - 1) * 64).sum())
    assert len(open_meter(dataclasses.replace(rows, index=rows.index[last:]), 128, "cpu").ids) == 1
    with pytest.raises(BadInput, match="No whole sequence"):
        open_meter(dataclasses.replace(rows, index=rows.index[last + 1 :]), 128, "cpu")
    quiet = run(dataclasses.replace(config, output_dir=str(tmp_path / "quiet"), ce_tokens=0), progress=False)
    assert "frac_recovered" not in results(quiet[0])


def test_defaults_scale_with_the_data():
    config = TrainConfig("acts", "out")
    tiny = with_defaults(config, 180_000, 256)
    assert (tiny.m, tiny.steps, tiny.batch_size) == (512, 400, 1024)
    assert with_defaults(config, 500_000_000, 2304).steps == 244_140
    full = with_defaults(config, 10_000_000, 768)
    assert (full.m, full.steps, full.batch_size) == (4096, 4882, 2048)
    given = dataclasses.replace(config, m=96, steps=7, batch_size=5)
    assert with_defaults(given, 100, 8) == given
    for variant in TRAINED:
        assert len(jobs(dataclasses.replace(tiny, variant=(variant,)), 256)) == 6
    assert recipe(tiny).checkpoint_steps() == (0, 1, 2, 4, 12, 40, 126, 400)


def test_training_benchmark_writes_rows(tmp_path, capsys, monkeypatch):
    from repro.bench import train as bench_train

    monkeypatch.setattr(bench_train, "LIBRARY", "no_such_library")
    config = bench_train.Train(
        d=12, m=64, k=3, batch=16, steps=4, warmup=1, variants=("topk", "gated"), seeds=(0, 1), out=tmp_path
    )
    path = config.run()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["variant"], r["seed"]) for r in rows] == [(v, s) for s in "01" for v in ("topk", "gated")]
    assert all(float(r["tokens_per_s"]) > 0 and r["implementation"] == "repro" and r["torch"] for r in rows)
    assert {r["l0"] for r in rows if r["variant"] == "topk"} == {"3.0"}
    assert "pip install dictionary-learning" in capsys.readouterr().out
    for change in ({"variants": ("top_k",)}, {"warmup": 4}):
        with pytest.raises(BadInput, match="warmup below steps"):
            dataclasses.replace(config, **change).run()
