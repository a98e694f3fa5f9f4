"""Numbers that disagree: each formula by hand, against scikit-learn, and as `repro check` prints them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import explained_variance_score, mean_squared_error, r2_score

from repro.codes import SparseCodes
from repro.metrics import Firing, Reconstruction
from repro.metrics.conventions import FORMULAS, by_formula, by_tokens, token_counts
from repro.sae import TopK


def test_every_formula_by_hand():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    x_hat = torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    # e = (0, 1), (1, 0): ‖e‖² 1 and 1; ‖x‖² 25 and 1; x̄ = (2, 2), ‖x − x̄‖² 1 + 4 and 1 + 4; ē = (1/2, 1/2)
    assert by_formula(x, x_hat) == pytest.approx(
        {
            "FVE": 1 - 2 / 10,
            "FVE_centred": 1 - 1 / 10,  # ‖e − ē‖² = 1/2 and 1/2
            "FVE_by_token": 1 - (1 / 5 + 1 / 5) / 2,
            "FVE_by_dimension": 1 - (1 / 2 + 1 / 8) / 2,
            "FVE_uncentred": 1 - 2 / 26,
            "FVU": 2 / 10,
            "NMSE": 2 / 26,
            "NMSE_by_token": (1 / 25 + 1) / 2,
            "MSE": 1,
            "MSE_by_element": 1 / 2,
            "error_norm": 1,
        }
    )


@pytest.fixture
def drawn():
    """Activations with a large mean and unlike dimensions, a biased reconstruction."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)) * [1, 2, 3, 4, 5, 20] + [0, 0, 50, 0, 0, 5]
    return x, 0.8 * x + 0.3 * rng.standard_normal(x.shape) + 1


def test_formulas_against_scikit_learn(drawn):
    x, x_hat = drawn
    value = by_formula(torch.tensor(x), torch.tensor(x_hat))
    assert value["FVE"] == pytest.approx(r2_score(x, x_hat, multioutput="variance_weighted"))
    assert value["FVE_by_dimension"] == pytest.approx(r2_score(x, x_hat))  # uniform average
    assert value["FVE_centred"] == pytest.approx(explained_variance_score(x, x_hat, multioutput="variance_weighted"))
    assert value["MSE_by_element"] == pytest.approx(mean_squared_error(x, x_hat))
    assert value["FVU"] == pytest.approx(1 - value["FVE"])
    assert value["NMSE"] == pytest.approx(1 - value["FVE_uncentred"])
    assert max(value[name] for name in FORMULAS if name.startswith("FVE")) - value["FVE"] > 0.05  # they do disagree


def test_formulas_agree_with_the_metrics(drawn):
    x, x_hat = (torch.tensor(v, dtype=torch.float32) for v in drawn)
    value, own = by_formula(x, x_hat), Reconstruction.of(x, x_hat).value()
    assert {name: value[name] for name in own} == pytest.approx(own)


def test_a_constant_dimension_has_no_variance_to_explain():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7
    assert np.isfinite(by_formula(x, x + 0.1)["FVE_by_dimension"])


def test_dead_latents_by_tokens():
    """Token i is latent i's atom, so that after n tokens n of the 8 latents have fired; one fires a token."""
    sae = TopK(TopK.Config(d=8, m=8, k=1))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(8))
        sae.W_dec.copy_(torch.eye(8))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    x = torch.eye(8)
    rows, x_hat = by_tokens(sae, x, [2, 6, 8], block=3)
    assert rows == [
        {"tokens": 2, "L0": 1.0, "dead_rate": 6 / 8},
        {"tokens": 6, "L0": 1.0, "dead_rate": 2 / 8},
        {"tokens": 8, "L0": 1.0, "dead_rate": 0.0},
    ]
    assert torch.equal(x_hat, x)
    whole = Firing.of(SparseCodes.from_dense(sae.encode(x))).value()
    assert rows[-1]["dead_rate"] == whole["dead_rate"]


def test_token_counts():
    assert token_counts(4096) == [64, 256, 1024, 4096]
    assert token_counts(3) == [3] and token_counts(20) == [1, 5, 20]


def test_check_prints_every_convention(tmp_path, capsys):
    from repro.cli import main

    sae = Path(__file__).parent / "golden/checkpoints/dictionary_learning/BatchTopK/resid_post_layer_8/trainer_0"
    files = [tmp_path / f"acts_layer{layer}.npy" for layer in (7, 8)]
    for file in files:
        np.save(file, np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32))
    with pytest.raises(SystemExit, match="1"):  # noise is not what this SAE was trained on
        main(["check", str(sae), "--acts", *map(str, files)])
    said, tables = capsys.readouterr().out.split("The same reconstruction")
    assert "batch_topk SAE" in said and max(map(len, tables.splitlines())) <= 80
    names = [line.split()[0] for line in tables.splitlines() if line.split()]
    assert set(FORMULAS) <= set(names) and "hidden_states[L + 1]" in tables
    assert [name for name in names if name in ("6", "25", "100")] == ["6", "25", "100"]
