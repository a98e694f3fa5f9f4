"""What the sections evaluate on: tokens that no SAE was trained on, and no outliers, known by the activations."""

from types import SimpleNamespace

import pytest
import torch
from planted import planted

from repro.sae import TopK
from repro.sections.ablation.run import Sources
from repro.sections.controls import documents
from repro.sections.price.run import held_out
from repro.sections.scales import scale_of
from repro.sections.setup import prepare

RATIO = 1.2  # drops about a token in ten of the bundled model, whose norms vary little


@pytest.fixture(scope="module")
def scale():
    nano = {"train_tokens": 2000, "eval_tokens": 900, "label_docs": 20, "m": 64, "steps": 5, "batch_size": 64}
    return scale_of("tiny", **nano, ks=[4], l1=[0.2], max_norm_ratio=RATIO)


@pytest.fixture(scope="module")
def ready(scale, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield prepare(scale)


@pytest.fixture(scope="module")
def evaluated(ready, scale):
    return {
        "sections": ready.data.tokens.x,
        "price": held_out(ready, scale, 300).tokens.x[:],
        "documents": documents.held_out(ready, scale, 5000)[0],
        "ablation": Sources(scale, ready)(True, True).tokens.x,
    }


def test_no_token_is_trained_on_and_evaluated(ready, scale, evaluated):
    """But for a few whose sequences begin with the same words, and so have the same activations."""
    trained = {row.numpy().tobytes() for row in ready.rows.read(slice(None))}
    assert len(trained) > 1500 and 100 < len(evaluated["sections"]) <= 900
    raw = Sources(scale, ready)(True, False).tokens.x  # positions as released: every first token is the same
    for name, x in {**evaluated, "as released": raw}.items():
        seen = sum(row.numpy().tobytes() in trained for row in x)
        assert len(x) > 100 and seen <= len(x) / 50, name


@pytest.mark.parametrize("name", ["sections", "price", "ablation"])
def test_evaluation_begins_with_the_document_behind_the_training_text(ready, evaluated, name):
    """Its first token that is no outlier, found without counting tokens."""
    usable = ready.rows.store.select(max_norm_ratio=RATIO)
    after, x = usable.docs > ready.rows.docs[-1], evaluated[name]
    assert torch.equal(x[:], usable.read(after.nonzero()[0][: len(x)]))


def test_outliers_are_left_out(ready, evaluated):
    """The median is that of every usable token; the one just above the bound would be in, were it higher by 1 %."""
    store = ready.rows.store
    norms = store.select().read(slice(None)).norm(dim=1)
    bound = RATIO * float(norms.median())
    assert (norms > 1.01 * bound).float().mean() > 0.01
    for name, x in {"trained": ready.rows.read(slice(None)), **evaluated}.items():
        assert float(x.norm(dim=1).max()) <= 1.001 * bound, name


def topk(k, d=16, m=64):
    """An SAE that takes k latents on every token."""
    sae = planted(TopK, d=d, m=m, k=k)
    sae.b_enc.fill_(5.0)  # all latents are positive, so k are taken
    return sae


def test_modes_have_the_encoders_l0():
    """A Top-K SAE takes k on every token; pursuit takes as many, and lambda is bisected to as many on average."""
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)) * 2
    by_mode = documents.by_mode(topk(3), x, torch.arange(300) // 30, 1e-3)
    l0 = {mode: float(sums.nonzeros.sum() / sums.tokens.sum()) for mode, sums in by_mode.items()}
    assert l0["amortized"] == 3 and l0["pursuit"] == pytest.approx(3, abs=0.05)
    assert l0["semi"] == pytest.approx(3, abs=0.3) and l0["non"] == pytest.approx(3, abs=0.3)


def test_saes_denser_than_a_quarter_of_the_dimensions_are_left_out(monkeypatch):
    """d = 16: k = 4 is a quarter of it, k = 5 is more."""
    finals = [{"path": k, "variant": "topk", "trainer": k, "sparsity": k} for k in (2, 4, 5, 8)]
    ready = SimpleNamespace(device="cpu", finals=lambda: finals)
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * 2
    monkeypatch.setattr(documents, "prepare", lambda scale: ready)
    monkeypatch.setattr(documents, "held_out", lambda *_: (x, torch.arange(200) // 40))
    monkeypatch.setattr("repro.checkpoints.load_sae", lambda path: topk(path))
    monkeypatch.setattr(documents, "save_table", lambda name, scale, rows, seconds: rows)
    rows = documents.compared(scale_of("tiny"), 200)
    assert {row["sparsity"] for row in rows if row["variant"] == "topk"} == {2, 4}
    assert {row["documents"] for row in rows} == {5}
