"""LocA's training: the group loss and its usage penalty against autograd, both settings, files, resuming, bad input."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_training import Rows
from torch.nn.functional import mse_loss, normalize

from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, load_sae
from repro.commands.loca import convert, evaluate
from repro.commands.loca import train as train_command
from repro.commands.training_flags import LocaConvert, LocaEvaluate, LocaTrain
from repro.loca.files import converted
from repro.loca.grouped import LocaJob, LocaTrainer, group_top_k
from repro.loca.phases import Loca, UnitRows, train_loca, unit
from repro.loca.released import ReleasedJob, ReleasedTrainer
from repro.sae import SAE, VARIANTS, LocA
from repro.training.recipe import Job, Recipe
from repro.training.trainer import Trainer

D, M = 24, 50
SIZES, KS = (13, 13, 12, 12), (3, 2, 1, 1)


@pytest.fixture(scope="module")
def x():
    """6,000 tokens of norm about 10: sparse sums of 30 unit atoms and a mean."""
    g = torch.Generator().manual_seed(5)
    atoms = normalize(torch.randn(30, D, generator=g), dim=1)
    z = (torch.rand(6000, 30, generator=g) < 0.1) * (0.5 + torch.rand(6000, 30, generator=g))
    return 6 * (z @ atoms + 0.5 * normalize(torch.randn(D, generator=g), dim=0))


def job(**given):
    return LocaJob("loca", sum(KS), M, 1, group_sizes=SIZES, group_ks=KS, **given)


def trainer_of(made, recipe=None):
    """A trainer in the middle of training: encoder and decoder apart, biases not 0."""
    out = LocaTrainer(made, recipe or Recipe.scaled(50, 64, checkpoints=(1.0,)), D)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for t in out.weights.tensors.values():
            t += 0.1 * torch.randn(t.shape, generator=g)
        out.weights.W_dec.copy_(normalize(out.weights.W_dec, dim=1))
    return out


def as_sae(trainer):
    sae = VARIANTS[trainer.job.variant](trainer.weights.config)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(trainer.weights.rows.t() if name == "W_enc" else trainer.weights.tensors[name])
    return sae


def gradients(trainer, sae):
    return {
        name: (trainer.weights.rows.grad.t() if name == "W_enc" else trainer.weights.tensors[name].grad, p.grad)
        for name, p in sae.named_parameters()
    }


def test_selection_is_that_of_the_variant():
    pre = torch.randn(9, M)
    flat, edges = group_top_k(pre, SIZES, KS)
    mask = torch.zeros(9 * M).index_fill_(0, flat, 1).view(9, M)
    config = LocA.Config(D, M, group_sizes=SIZES, group_ks=KS)
    assert torch.equal((pre * mask).relu(), LocA(config).activate(pre))
    assert torch.equal(flat // M, torch.arange(9).repeat_interleave(sum(KS)))
    assert torch.equal(edges[:, 0], pre[:, :13].topk(3, dim=1).values[:, -1])


def test_loss_and_gradients_are_those_of_autograd():
    trainer, batch = trainer_of(job()), torch.randn(40, D)
    loss = trainer._loss(batch)
    loss.total.backward()
    sae = as_sae(trainer)
    plain = (batch - sae(batch)).square().sum(1).mean()
    plain.backward()
    torch.testing.assert_close(loss.total, plain)
    for name, (mine, theirs) in gradients(trainer, sae).items():
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_usage_penalty_is_the_stated_one_with_a_gradient():
    """Against autograd of the surrogate on dense scores: d usage / d score = 1 / w within half a window of the edge."""
    made = job(usage_weight=0.7, usage_window=0.3)
    trainer, batch = trainer_of(made), torch.randn(40, D)
    trainer.step, trainer.usage = 5, torch.rand(M, generator=torch.Generator().manual_seed(4)) * 0.3
    loss = trainer._loss(batch)
    loss.total.backward()
    sae = as_sae(trainer)
    pre = sae.pre(batch)
    edge = torch.cat(
        [p.topk(k, 1).values[:, -1:].expand_as(p) for p, k in zip(pre.split(SIZES, 1), KS, strict=True)], 1
    ).detach()
    near = ((pre - edge).abs() < 0.15).detach()
    soft = ((pre - edge) / 0.3 * near).mean(0)  # its derivative is that of how often each latent fires
    excess = trainer.usage / (sum(KS) / M) - 1
    surrogate = (2 * excess * soft / (sum(KS) / M)).mean()
    plain = (batch - sae(batch)).square().sum(1).mean()
    (plain + 0.7 * surrogate).backward()
    torch.testing.assert_close(loss.total, plain + 0.7 * excess.square().mean())
    for name, (mine, theirs) in gradients(trainer, sae).items():
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert near.any() and surrogate != 0


def test_usage_penalty_evens_usage_out(x):
    spread = {}
    for weight in (0.0, 3.0):
        recipe = Recipe.scaled(150, 128, lr=2e-3, checkpoints=(1.0,))
        trainer = trainer_of(job(usage_weight=weight), recipe)
        batches = Rows(unit(x)).batches(128, 0)
        for _ in range(150):
            trainer.update(next(batches))
        within = [u.std() / u.mean() for u in trainer.usage.split(SIZES)]
        spread[weight] = float(torch.stack(within).mean())
    assert spread[3.0] < 0.8 * spread[0.0]


def test_one_group_is_plain_top_k_training(x):
    recipe = Recipe.scaled(30, 64, checkpoints=(1.0,))
    start = Trainer(Job("topk", 4, M), recipe, D)
    start.weights.b_enc.data.normal_(std=0.05)
    begin = start.sae(2.0, x[:64])
    one = LocA(LocA.Config(D, M, group_sizes=(M,), group_ks=(4,), centred=True, normalisation="none"))
    one.load_state_dict({k: v for k, v in begin.state_dict().items() if k != "threshold"})
    grouped = LocaTrainer(LocaJob("loca", 4, M, group_sizes=(M,), group_ks=(4,)), recipe, D, start=one, scale=2.0)
    plain = LocaTrainer(LocaJob("topk", 4, M), recipe, D, start=begin, scale=2.0)
    for t in plain.weights.tensors, grouped.weights.tensors:
        torch.testing.assert_close(t["b_enc"], start.weights.b_enc)  # scaled there and back
    for batch in (x / 2).split(64)[:10]:
        a, b = plain.update(batch), grouped.update(batch)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
    for name in plain.weights.tensors:
        torch.testing.assert_close(plain.weights.tensors[name], grouped.weights.tensors[name], rtol=1e-4, atol=1e-5)


def test_released_step_is_that_of_linear_modules(x):
    """One step from the same start by torch.nn.Linear, mse_loss and Adam; the stop comes with it."""
    made = ReleasedJob("topk", 4, M, 7)
    trainer = ReleasedTrainer(made, Recipe(steps=9, batch_size=64, lr=3e-4), D)
    encoder, decoder = torch.nn.Linear(D, M), torch.nn.Linear(M, D, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(trainer.model.W_enc.t()), encoder.bias.copy_(trainer.model.b_enc)
        decoder.weight.copy_(trainer.model.W_dec.t())
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-4)
    batch = unit(x[:64])
    scores = encoder(batch)
    best = scores.topk(4, dim=1)
    loss = mse_loss(decoder(torch.zeros_like(scores).scatter(1, best.indices, best.values.relu())), batch)
    loss.backward()
    adam.step()
    stats = trainer.update(batch)
    assert stats.loss == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(trainer.model.W_enc.t(), encoder.weight)
    torch.testing.assert_close(trainer.model.W_dec.t(), decoder.weight)
    assert trainer.stopped and not trainer.model.b_dec.any()
    assert mse_loss(torch.zeros_like(batch), batch).item() == pytest.approx(1 / D)  # zero already meets .1


def test_released_usage_penalty_moves_nothing(x):
    def after(weight):
        made = ReleasedJob(
            "loca", sum(KS), M, group_sizes=SIZES, group_ks=KS, usage_weight=weight, target_loss=0.0, usage_start=0
        )
        trainer = ReleasedTrainer(made, Recipe(steps=9, batch_size=64, lr=3e-4), D)
        losses = [trainer.update(unit(b)).loss for b in x.split(64)[:5]]
        return trainer.model.state_dict(), losses

    (without, low), (heavy, high) = after(0.0), after(1e4)
    assert all(torch.equal(without[k], heavy[k]) for k in without) and high[-1] > low[-1]


def test_released_start_has_the_figures_of_an_independent_simulation():
    """d = 768, m = 16,384 (numpy, elsewhere): NMSE 4.6 as dense ReLU, 1.11 by group top-k, mean square error .00143."""
    made = ReleasedJob("topk", 20, 16_384, 42)
    topk = ReleasedTrainer(made, Recipe(steps=1, batch_size=64), 768)
    batch = unit(torch.randn(48, 768, generator=torch.Generator().manual_seed(1)))
    stats = topk.update(batch)
    assert stats.loss == pytest.approx(0.00143, rel=0.02)
    sae = topk.sae(1.0, batch)
    grouped = LocA(LocA.Config(768, 16_384, group_sizes=(2048,) * 8, group_ks=(6, 5, 4, 3, 3, 2, 2, 1)))
    grouped.load_state_dict({k: v for k, v in sae.state_dict().items() if k != "threshold"})
    nmse = lambda s: float((batch - s(batch)).square().sum().detach()) / len(batch)  # noqa: E731
    assert nmse(grouped) == pytest.approx(1.11, rel=0.03)
    assert nmse(converted(grouped)) == pytest.approx(4.6, rel=0.1)


def small(**given):
    return Loca(**{"m": M, "k": 6, "n_groups": 4, "steps": 30, "batch_size": 128, "seed": 1} | given)


def go(x, out, method, **given):
    return train_loca(Rows(x[:5000]), method, out, "lm", 3, "cpu", held_out=x[5000:], progress=False, **given)


def test_corrected_trains_and_every_file_holds_the_same_sae(x, tmp_path):
    out = go(x, tmp_path, small(steps=120))
    results = json.loads((out / "eval_results.json").read_text())
    assert results["FVE"] > 0.5 and 5 < results["L0"] <= 6 and results["tokens"] == "held out"
    names = {"standard_sae.pt", "multi_encoder_sae.pt", "loc_angular_meta.pt", "config.json", "sae.safetensors"}
    assert names <= {p.name for p in out.iterdir()}
    own = load_sae(out / "sae.safetensors")
    released = load_sae(out)
    assert released.config == own.config and released.source.k == own.source.k == 6 and own.source.layer == 3
    assert own.config.group_sizes == (13, 13, 12, 12) and own.b_dec.any() and own.b_enc.any()
    torch.testing.assert_close(own.W_dec.norm(dim=1), torch.ones(M))
    one = load_sae(convert(LocaConvert(str(out))))
    for sae in (released, one):
        assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), sae.state_dict().values(), strict=True))
    meta = torch.load(out / "loc_angular_meta.pt", weights_only=True)
    assert sorted(torch.cat(meta["groups_indices"]).tolist()) == list(range(M)) and meta["group_ks"] == [2, 2, 1, 1]
    assert load_sae(out / "standard_sae.pt").config.k == 6
    fine = load_sae(next((out / "phases" / "4").rglob("sae.safetensors")))
    torch.testing.assert_close(fine(x[:50]), own(x[:50]), rtol=1e-4, atol=1e-4)

    convert(LocaConvert(str(out), "as_released"))
    assert set(torch.load(out / "ae.pt", weights_only=True)) == {"W_enc", "W_dec"}
    plain = load_sae(out, as_released=True)
    torch.testing.assert_close(plain.encode(x[:9]), (x[:9] @ own.W_enc).relu())
    with pytest.raises(CheckpointError, match="without biases"):
        load_sae(out / "ae.pt")


def test_as_released_halts_at_once(x, tmp_path):
    out = go(x, tmp_path, Loca("as_released", m=M - 2, k=6, steps=200, batch_size=128, seed=1))
    for phase, steps in ((1, 1), (4, 1)):
        file = next((out / "phases" / str(phase)).rglob("eval_results.json"))
        assert json.loads(file.read_text())["steps"] == steps
    sae = load_sae(out)
    assert sae.config.group_ks == (6, 5, 4, 3, 3, 2, 2, 1) and not sae.b_dec.any() and sae.source.k == 26
    assert json.loads((out / "eval_results.json").read_text())["NMSE"] > 0.7
    assert set(torch.load(out / "multi_encoder_sae.pt", weights_only=True)) == {
        f"{part}.{i}.{kind}"
        for i in range(8)
        for part, kind in (("encoders", "weight"), ("encoders", "bias"), ("decoders", "weight"))
    }
    trained = go(x, tmp_path / "0", Loca("as_released", m=48, k=6, steps=20, batch_size=128, target_loss=0.0))
    assert json.loads((trained / "eval_results.json").read_text())["steps"] == 20


@pytest.mark.parametrize("setting", ["corrected", "as_released"])
@pytest.mark.parametrize("phase", [1, 4])
def test_killed_and_resumed_gives_the_same_bytes(x, tmp_path, setting, phase):
    method = small(setting=setting, m=48, target_loss=0.0, usage_weight=0.1, total_k=None)
    whole = go(x, tmp_path / "whole", method)
    rows, killed = Rows(x[:5000]), tmp_path / "cut"
    if phase == 4:
        train_loca(rows, dataclasses.replace(method), killed, "lm", 3, "cpu", held_out=x[5000:], progress=False)
        for file in [*killed.glob("*.pt"), *killed.glob("sae.*"), killed / "eval_results.json"]:
            file.unlink()
        for file in (killed / "phases" / "4").rglob("*.*"):
            file.unlink()
    rows.fail_at = 17
    with pytest.raises(KeyboardInterrupt):
        train_loca(rows, method, killed, "lm", 3, "cpu", held_out=x[5000:], state_every=5, progress=False)
    assert not (killed / "multi_encoder_sae.pt").exists()
    resumed = go(x, killed, method, state_every=5)
    for name in ("standard_sae.pt", "multi_encoder_sae.pt", "loc_angular_meta.pt", "sae.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    before = (resumed / "sae.safetensors").read_bytes()
    assert go(x, killed, method) == resumed and (resumed / "sae.safetensors").read_bytes() == before


def test_ablations_change_one_thing(x, tmp_path):
    forms = {
        "none": small(groups="none"),
        "random": small(groups="random"),
        "frequency": small(groups="frequency"),
        "equal": small(equal_budgets=True, k=8),
        "still": small(fine_tune=False),
    }
    saes = {name: load_sae(go(x, tmp_path / name, method)) for name, method in forms.items()}
    assert saes["none"].config.group_ks == (6,) and saes["equal"].config.group_ks == (2, 2, 2, 2)
    assert saes["random"].config == saes["frequency"].config == saes["still"].config
    groups = {n: torch.load(tmp_path / n / "loc_angular_meta.pt", weights_only=True)["groups_indices"] for n in forms}
    assert len({tuple(torch.cat(groups[n]).tolist()) for n in ("random", "frequency", "still")}) == 3
    first = load_sae(tmp_path / "still" / "standard_sae.pt")
    order = torch.cat(groups["still"])
    torch.testing.assert_close(saes["still"].W_dec, first.W_dec[order])  # phase 3 copies
    assert not torch.equal(saes["random"].W_dec, first.W_dec[torch.cat(groups["random"])])


def test_stops_on_fve(x, tmp_path):
    out = go(x, tmp_path, small(steps=300, stop_fve=0.4))
    steps = [json.loads(f.read_text())["steps"] for f in sorted((out / "phases").rglob("eval_results.json"))]
    assert 0 < steps[0] < 200 and 0 < steps[1] < 200


def test_unit_rows_and_bad_input(x, tmp_path):
    rows = UnitRows(Rows(x))
    torch.testing.assert_close(rows.take(5).x.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(next(rows.batches(7, 0)).norm(dim=1), torch.ones(7))
    cases = [
        (lambda: small(k=51), "k is 51"),
        (lambda: small(group_ks=(3, 2, 1)), "3 group_ks for 4 groups"),
        (lambda: small(group_ks=(3, 2, 1, 1)), "declare the difference with total_k 7"),
        (lambda: small(group_ks=(3, 2, 1, 1), total_k=8), "not to 8"),
        (lambda: small(group_ks=(14, 2, 1, 1), total_k=18), "between 1 and the group sizes"),
        (lambda: small(k=3), "raise k or use fewer"),
        (lambda: Loca("as_released", m=50), "multiple of 8"),
        (lambda: small(variance_batches=0), "at least 1"),
        (lambda: LocaJob("loca", 5, M, group_sizes=SIZES, group_ks=KS), "add up to 7, not to 5"),
        (lambda: convert(LocaConvert(str(tmp_path))), "no multi_encoder_sae.pt"),
        (lambda: evaluate(LocaEvaluate(sae_path=str(tmp_path / "no"))), "no LocA SAE"),
    ]
    for call, word in cases:
        with pytest.raises(BadInput, match=word) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert small(group_ks=(3, 2, 1, 1), total_k=7).budgets() == (3, 2, 1, 1)
    assert Loca("as_released").budgets() == (6, 5, 4, 3, 3, 2, 2, 1)  # 26 from 20, as released
    go(x, tmp_path, small(steps=2))
    with pytest.raises(BadInput, match="k is 6 there and 7 here"):
        go(x, tmp_path, small(steps=2, k=7))
    wrong: SAE = load_sae(tmp_path)
    with pytest.raises(BadInput, match="cannot start from loca"):
        Trainer(Job("topk", 4, M), Recipe.scaled(5, 8), D, start=wrong)


def test_the_commands_on_a_bare_file(x, tmp_path):
    np.save(tmp_path / "acts.npy", x.numpy())
    config = LocaTrain(
        output_dir=str(tmp_path / "out"), acts=str(tmp_path / "acts.npy"), m=48, k=10, steps=20, batch_size=64, layer=1
    )
    out = train_command(config, progress=False)
    assert json.loads((out / "eval_results.json").read_text())["n_tokens"] == 600
    report = LocaEvaluate(
        sae_path=str(out), out_dir=str(tmp_path), acts=str(tmp_path / "acts.npy"), max_tokens=500, device="cpu"
    )
    file = evaluate(report)
    assert file.name == f"{tmp_path.name}_out_loc_amt_sae_metrics.json"  # no language model is named
    found = json.loads(file.read_text())
    assert list(found["amortized"]) == [
        "NMSE", "DeadRate", "DenseRate@0.1", "DenseRate@0.2", "F1@1", "F1@2", "ΔF1", "AbsorptionRate"
    ]  # fmt: skip
    x500 = x[:500]
    sae = load_sae(out)
    plain = (x500 @ sae.W_enc).relu() @ sae.W_dec
    nmse = float(((x500 - plain).square().sum() / x500.square().sum()).detach())
    assert found["amortized"]["NMSE"] == pytest.approx(nmse, rel=1e-4)
    assert found["corrected"]["amortized"]["L0"] <= 10 < found["as_released"]["amortized"]["L0"]
    convert(LocaConvert(str(out), "as_released"))
    (out / "multi_encoder_sae.pt").rename(tmp_path / "away.pt")
    again = json.loads(evaluate(dataclasses.replace(report, protocol="as_released")).read_text())
    assert again["amortized"] == found["amortized"] and "corrected" not in again
    with pytest.raises(BadInput, match="only --protocol as_released"):
        evaluate(dataclasses.replace(report, protocol="corrected"))
