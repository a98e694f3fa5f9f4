"""Loss of the language model under reconstructions: plain hooks of transformers, closed forms, arithmetic by hand."""

import dataclasses

import language_models
import numpy as np
import pytest
import torch
from scipy.stats import t
from test_sites_of_models import MODULES, hooked
from torch.nn.functional import cross_entropy, kl_div

from repro.activations.collect import collect
from repro.activations.held_out import open_meter
from repro.activations.language_models.load import as_loaded, load_model
from repro.activations.language_models.loss import LossMeter, PatchedLoss
from repro.activations.store import open_store
from repro.base.config import DatasetConfig, ModelConfig, RunConfig
from repro.base.errors import BadInput
from repro.metrics.intervals import by_document
from repro.metrics.loss import loss_columns, price

LAYER = 1


def small(family):
    return as_loaded(language_models.model(family), language_models.tokenizer(), LAYER)


def text(sequences=5, length=12, vocabulary=300):
    """ids, patched, documents: a BOS that is not patched, padding behind the last, two sequences of one document."""
    ids = torch.randint(3, vocabulary, (sequences, length), generator=torch.Generator().manual_seed(1))
    documents = torch.tensor([7, 7, 9, 12, 13])[:sequences, None].repeat(1, length)
    documents[-1, 8:] = -1
    patched = documents >= 0
    patched[:, 0] = patched[2, 5] = False
    return ids, patched, documents


def plainly(model, module, ids, patched, documents, new, inputs=False):
    """CE, clean CE and KL of each document by transformers alone, a sequence at a time, `new` at patched positions.

    It replaces what the module writes, or with `inputs` what it reads.
    """
    sums = {}
    for row, here, docs in zip(ids, patched, documents, strict=True):
        n = int((docs >= 0).sum())

        def other_than(hidden, here=here[:n]):
            changed = hidden.clone().view(len(here), -1)
            changed[here] = new(changed[here])
            return changed.view_as(hidden)

        def hook(module, args, output):
            return (other_than(output[0]), *output[1:]) if isinstance(output, tuple) else other_than(output)

        with torch.no_grad():
            clean = model(row[None, :n]).logits[0].double().log_softmax(-1)
            if inputs:
                handle = module.register_forward_pre_hook(lambda module, args: (other_than(args[0]), *args[1:]))
            else:
                handle = module.register_forward_hook(hook)
            other = model(row[None, :n]).logits[0].double().log_softmax(-1)
            handle.remove()
        for i in range(n - 1):
            if here[i]:
                losses = [float(cross_entropy(p[i], row[i + 1])) for p in (other, clean)]
                kl = float(kl_div(other[i], clean[i], log_target=True, reduction="sum"))
                old = sums.get(int(docs[i]), np.zeros(4))
                sums[int(docs[i])] = old + np.array([1, *losses, kl])
    return np.stack([sums[doc] for doc in sorted(sums)], 1)


@pytest.mark.parametrize("family", language_models.FAMILIES)
def test_losses_are_those_of_plain_hooks(family, monkeypatch):
    """Running only the blocks behind the patch changes nothing, in any family, and batches leave no trace."""
    lm = small(family)
    direction = torch.randn(lm.d)
    ways = (torch.zeros_like, lambda x: direction.expand_as(x), lambda x: 0.7 * x)
    monkeypatch.setattr("repro.activations.language_models.loss.LOGITS", 2 * 12 * lm.vocabulary)  # two at a time
    monkeypatch.setattr("repro.activations.language_models.loss.CHUNK", 5)
    meter = LossMeter(lm, LAYER, *text())
    losses = meter.each(lambda x: (new(x) for new in ways), 3)
    for loss, way in zip(losses, ways, strict=True):
        theirs = plainly(lm.model, lm.blocks[LAYER], *text(), way)
        ours = np.stack([loss.tokens, loss.ce, loss.ce_clean, loss.kl])
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    assert meter.zero.value()["NMSE"] == 1 and meter.zero.positions.sum() == text()[1].sum()


PARTS = ("attn_out", "mlp_out", "hook_z")


@pytest.mark.parametrize("site", PARTS)
@pytest.mark.parametrize("family", [*language_models.FAMILIES, *language_models.ALIKE])
def test_losses_inside_a_block_are_those_of_plain_hooks(family, site, monkeypatch):
    """Zeros, the mean and a scaled copy of what attention adds, the MLP adds, or the heads write, in any family."""
    lm = small(family)
    inputs, module = site == "hook_z", lm.blocks[LAYER].get_submodule(MODULES[family][PARTS.index(site)])
    mean = hooked(lm.model, module, inputs).mean((0, 1))
    ways = (lambda x: x, torch.zeros_like, lambda x: mean.expand_as(x), lambda x: 0.7 * x)
    monkeypatch.setattr("repro.activations.language_models.loss.LOGITS", 2 * 12 * lm.vocabulary)  # two at a time
    meter = LossMeter(lm, LAYER, *text(), site)
    same, *losses = meter.each(lambda x: (new(x) for new in ways), 4)
    assert np.array_equal(same.ce, same.ce_clean) and not same.kl.any() and not same.sse.any()
    for loss, way in zip(losses, ways[1:], strict=True):
        theirs = plainly(lm.model, module, *text(), way, inputs)
        ours = np.stack([loss.tokens, loss.ce, loss.ce_clean, loss.kl])
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    assert np.abs(losses[0].ce - losses[0].ce_clean).max() > 1e-3  # an ablation is seen
    parts = (lm.blocks[LAYER], module)
    assert not any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in parts)


def test_the_input_of_a_block_is_the_output_of_the_one_before():
    lm, direction = small("gpt_neox"), torch.randn(32)
    new = lambda x: x + direction  # noqa: E731
    before, after = LossMeter(lm, 0, *text()).of(new), LossMeter(lm, 1, *text(), "resid_pre").of(new)
    assert np.array_equal(before.ce, after.ce) and np.array_equal(before.kl, after.kl)
    first = LossMeter(lm, 0, *text(), "resid_pre").of(new)
    theirs = plainly(lm.model, lm.model.gpt_neox.embed_in, *text(), new)
    np.testing.assert_allclose([first.tokens, first.ce, first.ce_clean, first.kl], theirs, rtol=2e-5, atol=2e-5)


def test_identity_changes_nothing_and_the_model_is_as_before():
    lm = small("gpt_neox")
    ids, patched, documents = text()
    before = lm.model(ids).logits
    meter = LossMeter(lm, LAYER, ids, patched, documents)
    assert np.array_equal(meter.clean.ce, meter.clean.ce_clean)
    assert not meter.clean.kl.any() and not meter.clean.sse.any()
    with pytest.raises(ZeroDivisionError):
        meter.of(lambda x: x / (1 // 0))
    with pytest.raises(ValueError, match="shorter"):
        meter.each(lambda x: (x,), 2)
    assert torch.equal(lm.model(ids).logits, before)
    assert all("forward" not in vars(block) and not block._forward_hooks for block in lm.blocks)


def test_positions_that_are_left_out_keep_their_activations():
    """The block behind the patch sees the very activations of the clean run there, and the new ones elsewhere."""
    lm = small("llama")
    ids, patched, documents = text()
    seen = []
    handle = lm.blocks[LAYER + 1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    rows = []
    LossMeter(lm, LAYER, ids, patched, documents).of(lambda x: rows.append(x) or torch.full_like(x, 3.0))
    handle.remove()
    clean, other = seen
    assert torch.equal(clean[~patched], other[~patched]) and bool((other[patched] == 3).all())
    assert torch.equal(rows[0], clean[patched])


def test_a_meter_refuses_what_it_cannot_measure():
    lm = small("gpt_neox")
    ids, patched, documents = text()
    for bad, word in (
        (lambda: LossMeter(lm, 3, ids, patched, documents), "none is layer 3"),
        (lambda: LossMeter(lm, 1, ids[:, :1], patched[:, :1], documents[:, :1]), "at least two tokens"),
        (lambda: LossMeter(lm, 1, ids, patched[:2], documents), "the shape of the token ids"),
        (lambda: LossMeter(lm, 1, ids, torch.zeros_like(patched), documents), "exclude fewer positions"),
        (lambda: LossMeter(lm, 1, ids, patched, -torch.ones_like(documents)), "exclude fewer positions"),
    ):
        with pytest.raises(BadInput, match=word):
            bad()


# --- arithmetic ---------------------------------------------------------------------------------------


def record(ce, kl=(0.0, 0.0), sse=(0.0, 0.0), clean=(4.0, 9.0)):
    """Two documents of two and three predicted tokens."""
    fields = ((2, 3), ce, clean, kl, (3, 4), sse, (20, 30))
    return PatchedLoss(*(np.array(field, dtype=float) for field in fields))


def test_interval_of_two_documents_by_hand():
    """Means 10/5; without the first 6/3 + ... : the two leave-one-out means are 8/3 and 2/2."""
    out = by_document({"sum": np.array([2.0, 8.0]), "n": np.array([2.0, 3.0])}, lambda s: {"mean": s["sum"] / s["n"]})
    low, high = 8 / 3, 2 / 2  # without the first document, without the second
    half = t.ppf(0.975, 1) * (0.5 * ((low - 11 / 6) ** 2 + (high - 11 / 6) ** 2)) ** 0.5
    assert out == pytest.approx({"mean": 2.0, "mean_low": 2 - half, "mean_high": 2 + half})
    alone = by_document({"sum": np.array([2.0])}, lambda s: {"sum": s["sum"]})
    assert alone["sum"] == 2 and np.isnan(alone["sum_low"])


def test_columns_by_hand():
    """CE 18/5, clean 13/5, mean ablation 38/5, zero ablation 63/5."""
    columns = loss_columns(record((6, 12), kl=(2, 3)), record((14, 24)), record((24, 39)))
    expected = {"CE": 3.6, "CE_clean": 2.6, "KL": 1.0, "loss_increase": 1.0}
    expected |= {"loss_recovered_mean": 4 / 5, "loss_recovered_zero": 9 / 10}
    assert {name: columns[name] for name in expected} == pytest.approx(expected)
    half = t.ppf(0.975, 1) * (0.5 * (1.0 - 1.0) ** 2) ** 0.5  # the increase is 1 in both documents: 2/2 and 3/3
    assert columns["loss_increase_high"] == pytest.approx(1 + half) and columns["CE_low"] < 3.6 < columns["CE_high"]
    assert "loss_recovered_zero" not in loss_columns(record((6, 12)), record((14, 24)))
    longer = dataclasses.replace(record((6, 12)), tokens=np.array([2.0, 4.0]))
    with pytest.raises(BadInput, match="different text"):
        loss_columns(record((6, 12)), longer)


def test_the_parts_of_the_price_add_up():
    encoder, fitted, pursuit = (
        record((9, 14), (3, 4), (5, 5)),
        record((8, 12), (2, 2), (4, 4)),
        record((6, 10), (1, 1), (1, 2)),
    )
    parts = price(encoder, fitted, pursuit)
    assert parts["CE"]["values"] == pytest.approx(3 / 5) and parts["CE"]["support"] == pytest.approx(4 / 5)
    assert parts["CE"]["dictionary"] == pytest.approx(3 / 5) and parts["CE"]["share_of_increase"] == pytest.approx(0.7)
    assert parts["NMSE"]["values"] == pytest.approx(2 / 50) and parts["NMSE"]["dictionary"] == pytest.approx(3 / 50)
    for name, total in (("CE", (23 - 13) / 5), ("KL", 7 / 5), ("NMSE", 10 / 50)):
        part = parts[name]
        assert part["values"] + part["support"] + part["dictionary"] == pytest.approx(total)
        assert all(part[f"{key}_low"] <= part[key] <= part[f"{key}_high"] for key in ("values", "share_of_increase"))


# --- collected activations ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    data = DatasetConfig(name="tiny", max_tokens=3000, seq_len=64)
    folder = str(tmp_path_factory.mktemp("acts"))
    return collect(RunConfig(output_dir=folder, model=ModelConfig("tiny"), dataset=data, device="cpu"))


def test_a_store_knows_its_model(acts):
    """The meter sees the saved activations, and its clean loss is transformers' own on those tokens."""
    store = open_store(acts)
    rows = store.select(max_norm_ratio=1.2)
    meter = open_meter(rows, 500, "cpu")
    seen = []
    meter.of(lambda x: seen.append(x) or x)
    x = torch.cat(seen)
    torch.testing.assert_close(x, rows.read(slice(0, len(x))), rtol=1e-4, atol=1e-4)
    used = np.zeros(store.mask.shape, bool)
    used.reshape(-1)[rows.index] = True
    assert np.array_equal(meter.patched.numpy(), used[: len(meter.ids)]) and len(meter.ids) == 8
    assert meter.n_documents == len(np.unique(rows.docs[: len(x)]))
    lm = load_model(ModelConfig("tiny"), "cpu").model
    with torch.no_grad():
        logits = lm(meter.ids).logits[:, :-1].float()
    losses = cross_entropy(logits.flatten(0, 1), meter.ids[:, 1:].flatten(), reduction="none").view(8, 63)
    assert meter.clean.value()["CE"] == pytest.approx(float(losses[meter.patched[:, :-1]].mean()), rel=1e-5)


def test_a_store_of_heads_is_patched_where_it_was_read(tmp_path):
    data = DatasetConfig(name="tiny", max_tokens=300, seq_len=32)
    config = RunConfig(str(tmp_path), ModelConfig("tiny", 2, site="hook_z"), dataset=data, device="cpu")
    rows = open_store(collect(config)).select()
    meter, seen = open_meter(rows, 100, "cpu"), []
    assert (meter.layer, meter.site) == (2, "hook_z")
    zero = meter.of(lambda x: torch.zeros_like(seen.append(x) or x))
    x = torch.cat(seen)
    torch.testing.assert_close(x, rows.read(slice(0, len(x))), rtol=1e-4, atol=1e-4)
    projection = meter.model.blocks[2].attention.dense
    theirs = plainly(meter.model.model, projection, meter.ids, meter.patched, meter.documents, torch.zeros_like, True)
    np.testing.assert_allclose(np.stack([zero.tokens, zero.ce]), theirs[:2], rtol=2e-5)


def test_stores_without_a_loss_are_refused(acts, tmp_path):
    store = open_store(acts)
    rows = store.select()
    bare = tmp_path / "bare.npy"
    np.save(bare, np.asarray(store.x[:4]))
    other = dataclasses.replace(store, x=np.asarray(store.x) + 3.0)
    middle = dataclasses.replace(store, meta={**store.meta, "site": "resid_mid"})
    for some, word in (
        (open_store(bare).select(), "does not say the tokens"),
        (dataclasses.replace(rows, store=middle), "is of resid_mid, where no loss can be measured; it can at"),
        (dataclasses.replace(rows, index=rows.index[-10:-5]), "No whole sequence"),
        (dataclasses.replace(rows, store=other), "is not what tiny computes"),
    ):
        with pytest.raises(BadInput, match=word):
            open_meter(some, 100, "cpu")


def test_compare_has_the_loss_of_each_corrected_row(tmp_path):
    """On the bundled model; the released protocol has no such loss, and no loss is refused with its reason."""
    import json

    from repro.checkpoints import save_sae
    from repro.cli import main
    from repro.sae import TopK

    sae = TopK(TopK.Config(256, 64, k=5)).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(64, 256), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    save_sae(sae, tmp_path / "sae.safetensors")
    args = ["--sae-path", tmp_path / "sae.safetensors", "--model-name", "tiny", "--layer", 2, "--max-tokens", 1500]
    args += ["--eval-modes", "amortized", "encoder_refit", "--lm-tokens", 1200, "--out-dir", tmp_path]
    main(["compare", *map(str, args)])
    result = json.loads(next(tmp_path.glob("*_3modes.json")).read_text())
    rows = result["corrected"]
    for row in rows.values():
        assert row["CE_clean"] < row["CE"] and row["CE_low"] <= row["CE"] <= row["CE_high"]
        assert row["loss_increase"] == pytest.approx(row["CE"] - row["CE_clean"])
        assert row["loss_recovered_zero"] <= 1 and row["lm_tokens"] > 0
    assert not any("CE" in row for row in result["as_released"].values())
