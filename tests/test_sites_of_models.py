"""Every site of every family, held to a plain forward hook and to the sum of a block's parts."""

import language_models
import pytest
import torch

from repro.activations.collect import collect
from repro.activations.language_models.load import as_loaded, find_blocks, load_model
from repro.activations.language_models.sites import projection_of
from repro.activations.store import open_store
from repro.base.config import DatasetConfig, ModelConfig, RunConfig
from repro.base.errors import BadInput

LAYER = 1
TOKENS = torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(0))
# (what attention adds, what the MLP adds: modules whose output it is; W_O, whose input is hook_z)
LLAMA = ("self_attn", "mlp", "self_attn.o_proj")
NORMED = ("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj")
MODULES = dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "phi3"), LLAMA)
MODULES |= dict.fromkeys(("gemma2", "gemma3", "olmo2"), NORMED)
MODULES |= {
    "gpt_neox": ("attention", "mlp", "attention.dense"),
    "gpt2": ("attn", "mlp", "attn.c_proj"),
    "opt": ("self_attn", "fc2", "self_attn.out_proj"),
}


def hooked(model, module, inputs):
    """What a module reads or writes in a whole forward pass, [3, 11, width]."""
    seen = []
    hook = (lambda _, args, out: seen.append(args[0])) if inputs else (lambda _, args, out: seen.append(out))
    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    value = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return value.reshape(3, 11, -1)


@pytest.mark.parametrize("family", [*language_models.FAMILIES, *language_models.ALIKE])
def test_sites_are_what_a_plain_hook_sees(family):
    model = language_models.model(family)
    block, tok = find_blocks(model)[LAYER], language_models.tokenizer()
    attention, mlp, projection = (block.get_submodule(name) for name in MODULES[family])
    with torch.no_grad():
        pre, post = model(TOKENS, output_hidden_states=True).hidden_states[LAYER : LAYER + 2]
    theirs = {"resid_pre": pre, "resid_post": post, "hook_z": hooked(model, projection, inputs=True)}
    theirs |= {"attn_out": hooked(model, attention, inputs=False), "mlp_out": hooked(model, mlp, inputs=False)}
    ours = {site: as_loaded(model, tok, LAYER, site) for site in theirs}
    for site, value in theirs.items():
        assert torch.equal(ours[site].activations(TOKENS), value), site
        assert ours[site].d == value.shape[-1], site
    torch.testing.assert_close(pre + theirs["attn_out"] + theirs["mlp_out"], post)


def test_heads_are_collected_at_their_own_width(tmp_path):
    """Gemma's heads are 4 x 8 of a stream of 32 here, Qwen 3's 4 x 12."""
    folder = language_models.save(tmp_path / "lm", "qwen3")
    config = ModelConfig(str(folder), LAYER, site="hook_z")
    data = DatasetConfig(name="tiny", max_tokens=200, seq_len=16)
    store = open_store(collect(RunConfig(output_dir=str(tmp_path / "acts"), model=config, dataset=data, device="cpu")))
    assert store.place["site"] == "hook_z" and store.place["layer"] == LAYER and store.d == 48
    whole = load_model(config, "cpu").activations(torch.from_numpy(store.tokens[:1].astype(int)))
    here = torch.from_numpy(store.mask[0].copy())
    torch.testing.assert_close(torch.from_numpy(store.x[0].copy())[here].float(), whole[0][here], rtol=1e-2, atol=1e-2)
    with pytest.raises(BadInput, match="Cannot find the hook_z of Linear"):
        projection_of(torch.nn.Linear(2, 2))
