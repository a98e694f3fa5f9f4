"""Files that other libraries wrote: the codes those libraries compute, to rounding, or a refusal that names the format.

golden/libraries/*/*/case.json: how it was made, what load_sae is given, and what has to come out: the place it reads
([site, layer]) and a piece of a note, or what the refusal says. expected.npz holds the library's own x, z and x_hat.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, load_sae

GOLDEN = Path(__file__).parent / "golden" / "libraries"
CASES = {str(file.parent.relative_to(GOLDEN)): json.loads(file.read_text()) for file in GOLDEN.rglob("case.json")}
READ = sorted(name for name, case in CASES.items() if "says" not in case)
REFUSED = sorted(CASES.keys() - set(READ))


def load(name, **options):
    case = CASES[name]
    return load_sae(GOLDEN / name / case.get("load", ""), layer=case.get("layer"), **case.get("options", {}), **options)


def expected(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name / "expected.npz").items()}


def same(z, reference):
    assert torch.equal(z != 0, reference != 0)
    assert ((z - reference).abs() <= 1e-5 * (1 + reference.abs().amax(1, keepdim=True))).all()


@pytest.mark.parametrize("name", READ)
def test_computes_what_the_library_computes(name):
    case, e = CASES[name], expected(name)
    sae = load(name)
    z = sae.encode(e["x"])
    same(z, e["z"])
    if not name.endswith("ties"):  # of equal scores the kernels keep the leftmost, torch.topk any
        same(sae.encode_sparse(e["x"]).to_dense(), e["z"])
    x_hat = sae.decode(z, e["x"])
    assert ((x_hat - e["x_hat"]).abs() <= 1e-5 * (1 + e["x_hat"].abs().amax(1, keepdim=True))).all()
    assert [sae.source.site, sae.source.layer] == case["place"]
    assert case.get("note", "") in " ".join(sae.source.extra["notes"])
    assert bool(sae.source.extra["notes"]) == ("note" in case)


@pytest.mark.parametrize("name", REFUSED)
def test_names_what_it_refuses(name):
    with pytest.raises(CheckpointError) as caught:
        load(name)
    assert CASES[name]["says"] in str(caught.value)
    assert "cfg.json of its training run beside it" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in READ if "z_of_bf16_x" in expected(name)])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_activations_are_cast_first(name, half):
    """The libraries cast to float32 before they take moments of a token."""
    e, sae = expected(name), load(name)
    x = e["x"].clamp(-6e4, 6e4).to(half)
    z = sae.encode(x)
    assert z.dtype == torch.float32
    assert torch.equal(z, sae.encode(x.float()))
    assert torch.equal(sae.decode(z, x), sae.decode(z, x.float()))
    if half is torch.bfloat16:
        assert ((z - e["z_of_bf16_x"]).abs() <= 1e-5 * (1 + e["z_of_bf16_x"].abs().amax(1, keepdim=True))).all()


def test_normalize_gives_the_codes_of_load_dictionary():
    name = "dictionary-learning/StandardAprilUpdate"
    e = expected(name)
    sae = load(name, normalize=True)
    same(sae.encode(e["x"]), e["z_load_dictionary"])
    torch.testing.assert_close(sae(e["x"]), e["x_hat"], rtol=1e-4, atol=1e-3)
    assert not sae.source.extra["notes"] and not load(name, normalize=False).source.extra["notes"]


def test_a_config_that_no_reader_knows_yields_only_to_the_user():
    """Four Linear tensors beside {"activation": "topk", "k": 9}: a top-k SAE, and never read as ReLU."""
    name = "generic/linear_topk_config"
    sae = load(name, variant="topk", k=9, centred=False)
    x = torch.randn(50, 24)
    w = torch.load(GOLDEN / name / "m" / "sae.pt")
    p = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    torch.testing.assert_close(sae.encode(x), p * (p >= p.topk(9).values[:, -1:]))
    torch.testing.assert_close(sae(x), sae.encode(x) @ w["decoder.weight"].T + w["decoder.bias"])
    for options, sentence in (
        ({"variant": "topk", "k": 9}, "pass centred=True or centred=False"),
        ({"variant": "topk", "k": 2.5, "centred": True}, "a whole number of latents is needed"),
        ({"variant": "topk", "centred": True}, "does not say its k: pass k="),
        ({"variant": "topq", "k": 9}, "did you mean 'topk'"),
        ({"variant": "standard", "k": 9}, "k=9 would change nothing"),
        ({"variant": "standard", "centred": False}, "variant='standard' means centred=True"),
    ):
        with pytest.raises(BadInput, match=sentence):
            load(name, **options)


def test_only_the_user_knows_which_jumprelu_a_bare_state_dict_is():
    name = "generic/saelens_jumprelu_state_dict_pt"
    w = torch.load(GOLDEN / name / "m" / "sae.pt")
    x = torch.randn(50, 24)
    for centred in (True, False):
        p = (x - centred * w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        torch.testing.assert_close(load(name, centred=centred).encode(x), p.relu() * (p > w["threshold"]))


def test_groupmax_keeps_the_first_of_equal_scores():
    """sparsify takes the maximum of each of k groups, and torch.max returns the first of equal ones."""
    sae = load("sparsify/groupmax")
    with torch.no_grad():
        sae.W_enc.round_()  # whole numbers: scores are exact and often equal
        sae.b_enc.round_()
        sae.b_dec.zero_()
    x = torch.randint(-1, 2, (500, 24), generator=torch.Generator().manual_seed(0)).float()
    p = (x @ sae.W_enc + sae.b_enc).relu().unflatten(1, (sae.config.k, -1))
    best = p.max(-1, keepdim=True)
    assert ((p == best.values).sum(-1) > 1).logical_and(best.values[..., 0] > 0).any()
    z = torch.zeros_like(p).scatter(-1, best.indices, best.values).flatten(1)
    assert torch.equal(sae.encode(x), z) and torch.equal(sae.encode_sparse(x).to_dense(), z)


@pytest.mark.parametrize("act", ["relu", "jumprelu", "topk", "batchtopk"])
@pytest.mark.parametrize("glu", [False, True])
def test_llamascopium_scaled_by_the_mean_norm_of_a_data_set(tmp_path, act, glu):
    """Its definition in plain torch: scores times the norms of the atoms decide, on tokens scaled to norm sqrt(d)."""
    g = torch.Generator().manual_seed(3)
    d, m, k, mean = 8, 40, 5, 3.0
    w = {"W_E": torch.randn(d, m, generator=g), "b_E": torch.randn(m, generator=g) / 4}
    w |= {"W_D": torch.randn(m, d, generator=g), "b_D": torch.randn(d, generator=g)}
    w |= {"dataset_average_activation_norm.blocks.8.hook_resid_post": torch.tensor(mean)}
    if glu:
        w |= {"W_E_glu": torch.randn(d, m, generator=g), "b_E_glu": torch.randn(m, generator=g)}
    if act == "jumprelu":
        w["activation_function.log_jumprelu_threshold"] = torch.randn(m, generator=g)
    save_file(w, tmp_path / "sae_weights.safetensors")
    config = {"act_fn": act, "top_k": k, "norm_activation": "dataset-wise", "hook_point_in": "blocks.8.hook_resid_post"}
    config |= {"hook_point_out": "blocks.8.hook_resid_post", "use_glu_encoder": glu, "d_model": d}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {"eval_activation": "batch_topk"} if act == "batchtopk" else {}
    if glu and act in ("topk", "batchtopk"):
        with pytest.raises(CheckpointError, match="has a GLU encoder with"):
            load_sae(tmp_path, **options)
        return
    sae, x = load_sae(tmp_path, **options), torch.randn(20, d, generator=g)
    scaled, norms = x * d**0.5 / mean, w["W_D"].norm(dim=1)
    pre = scaled @ w["W_E"] + w["b_E"]
    pre = pre * (scaled @ w["W_E_glu"] + w["b_E_glu"]).sigmoid() if glu else pre
    p = (pre * norms).relu()
    least = {"relu": torch.zeros(m), "topk": p.sort().values[:, -k - 1 : -k]}
    least["batchtopk"] = p.flatten().sort().values[-20 * k - 1]
    least["jumprelu"] = w.get("activation_function.log_jumprelu_threshold", torch.zeros(m)).exp()
    z = p * (p > least[act]) / norms
    same(sae.encode(x), z)
    same(sae.encode_sparse(x).to_dense(), z)
    torch.testing.assert_close(sae(x), (z @ w["W_D"] + w["b_D"]) * mean / d**0.5, rtol=1e-4, atol=1e-4)
