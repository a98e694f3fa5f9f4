"""`repro.adapt`: codes and reconstructions by hand arithmetic, the interface, and the real libraries where they are."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import planted, tokens

from repro import adapt
from repro.base.errors import BadInput
from repro.sae import SAE, TopK
from repro.sae.base import Source


def by_hand(**source):
    """Atoms (2, 0, 0), (0, 3, 0), (0, 0, 1), bias (1, 0, 0). The encoder gives latent 0 the code 3 for (2, 3, 2)."""
    sae = TopK(TopK.Config(3, 3, k=1), replace(Source(lm_name="model", layer=5), **source)).requires_grad_(False)
    sae.W_dec.copy_(torch.tensor([2.0, 3, 1]).diag())
    sae.b_dec.copy_(torch.tensor([1.0, 0, 0]))
    sae.W_enc.copy_(torch.tensor([3.0, 0.5, 0]).diag())
    return sae


DATA = Path(__file__).parent.parent / "data"
X = torch.tensor([[2.0, 3, 2]])  # minus the bias: (1, 3, 2)
EXPECTED = {
    "encoder": ([6.0, 0, 0], [7.0, 0, 0]),  # 3 times the norm 2 of its atom; 6 (1, 0, 0) + (1, 0, 0)
    "encoder_refit": ([1.0, 0, 0], [2.0, 0, 0]),  # (1, 3, 2) on (1, 0, 0) is 1
    "pursuit": ([0, 3.0, 0], [1.0, 3, 0]),  # (0, 1, 0) explains most
    "ompr": ([0, 3.0, 0], [1.0, 3, 0]),  # the other two enter, and 1 and 2 leave before 3
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_codes_on_unit_atoms(mode):
    module = adapt(by_hand(), mode)
    z, x_hat = (torch.tensor([values]) for values in EXPECTED[mode])
    torch.testing.assert_close(module.encode(X), z)
    torch.testing.assert_close(module.decode(z), x_hat)
    torch.testing.assert_close(module(X), x_hat)


def test_the_interface():
    module = adapt(by_hand())
    torch.testing.assert_close(module.W_dec, torch.eye(3))
    assert [tuple(p.shape) for p in (module.W_enc, module.b_enc, module.b_dec)] == [(3, 3), (3,), (3,)]
    assert all(isinstance(p, torch.nn.Parameter) for p in (module.W_enc, module.W_dec, module.b_enc, module.b_dec))
    assert (module.cfg.d_in, module.cfg.d_sae, module.cfg.model_name, module.cfg.hook_layer) == (3, 3, "model", 5)
    assert module.cfg.hook_name == module.cfg.metadata.hook_name == "blocks.5.hook_resid_post"
    assert module.cfg.to_dict()["architecture"] == "topk, ompr"
    batch = X.expand(2, 4, 3)
    half = module.to(dtype=torch.bfloat16, device="cpu")
    z = half.encode(batch.bfloat16())
    assert z.shape == (2, 4, 3) and z.dtype == half.dtype == torch.bfloat16 and half.device == torch.device("cpu")
    torch.testing.assert_close(half.decode(z).float(), torch.tensor([1.0, 3, 0]).expand(2, 4, 3), rtol=0, atol=0)
    assert adapt(by_hand(site="mlp_out"), layer=2).cfg.hook_name == "blocks.2.hook_mlp_out"


@pytest.mark.parametrize("mode", ["encoder", "ompr"])
def test_no_more_latents_than_the_encoder_and_no_larger_error(mode):
    sae = planted(seed=3)
    x = tokens(sae, 40)
    module = adapt(sae, mode, "model", 1)
    own, z = sae.encode(x), module.encode(x)
    assert ((z != 0).sum(1) <= (own != 0).sum(1)).all() and (z >= 0).all()
    error, before = ((module.decode(z) - x).square().sum(1), (sae(x) - x).square().sum(1))
    assert (error <= before * (1 + 1e-5) + 1e-9).all()
    torch.testing.assert_close(error, before) if mode == "encoder" else None


@pytest.mark.parametrize(
    ("sae", "options", "named"),
    [
        (by_hand(), {"mode": "omp"}, "did you mean"),
        (by_hand(lm_name=""), {}, "model_name="),
        (by_hand(layer=None), {}, "layer="),
        (by_hand(site="attn_z"), {}, "attn_z"),
        (SAE(SAE.Config(2, 3, normalisation="layer_norm"), Source(lm_name="m", layer=1)), {}, "normalises each token"),
    ],
)
def test_refuses(sae, options, named):
    with pytest.raises(BadInput, match=named):
        adapt(sae, **options)


def test_importing_the_package_alone_needs_no_torch():
    code = "import repro, sys; assert 'torch' not in sys.modules; from repro import adapt; assert callable(adapt)"
    code += "; import repro.adapted; assert callable(repro.adapt)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_saebench_takes_it():
    """SAEBench's own check of an SAE: unit atoms, and the fields that it fills in from ours."""
    utils = pytest.importorskip("sae_bench.sae_bench_utils.general_utils")
    module = adapt(by_hand())
    name, same, _ = utils.load_and_format_sae("", module, "cpu")
    assert same is module and name == "custom_sae"
    assert utils.check_decoder_norms(module.W_dec.data)
    assert (same.cfg.hook_layer, same.cfg.hook_name, same.cfg.model_name) == (5, "blocks.5.hook_resid_post", "model")
