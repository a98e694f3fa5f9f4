"""Which place of a language model an SAE reads, from the names of all libraries; and which names are no facts.

The right values are the libraries' own definitions: TransformerLens's hook_resid_pre of block L is the output of block
L - 1, transformers' model.layers.L returns the stream after block L, hook_z is what the heads write before W_O.
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from repro.checkpoints import CheckpointError, index_checkpoints, load_sae, parse_layer
from repro.checkpoints.locate import parse_run, site_of_hook

D, M = 6, 20
G = torch.Generator().manual_seed(0)
ATOMS = torch.nn.functional.normalize(torch.randn(M, D, generator=G), dim=1)
LINEAR = {"encoder.weight": ATOMS, "encoder.bias": torch.zeros(M), "decoder.weight": ATOMS.T.contiguous()}

HOOKS = {
    "blocks.5.hook_resid_post": ("resid_post", 5),
    "blocks.5.hook_resid_pre": ("resid_post", 4),
    "blocks.8.hook_resid_pre_24576": ("resid_post", 7),
    "blocks.0.hook_resid_pre": ("resid_pre", 0),
    "blocks.5.hook_resid_mid": ("resid_mid", 5),
    "blocks.5.hook_mlp_out": ("mlp_out", 5),
    "blocks.5.hook_mlp_in": ("mlp_in", 5),
    "blocks.5.hook_attn_out": ("attn_out", 5),
    "blocks.5.attn.hook_z": ("hook_z", 5),
    "blocks.5.attn.hook_q": ("attn.hook_q", 5),
    "blocks.5.hook_out": ("resid_post", 5),
    "blocks.5.hook_in": ("resid_post", 4),
    "blocks.5.mlp.hook_out": ("mlp_out", 5),
    "hook_embed": ("embedding", None),
    "unembed.hook_in": ("unembed.hook_in", None),
    "model.layers.3": ("resid_post", 3),
    "model.layers.3.output": ("resid_post", 3),
    "model.language_model.layers.3": ("resid_post", 3),
    "gpt_neox.layers.3": ("resid_post", 3),
    "gpt_neox.layers.3.attention": ("attn_out", 3),
    "transformer.h.3": ("resid_post", 3),
    "transformer.h.3.attn": ("attn_out", 3),
    "layers.3.mlp": ("mlp_out", 3),
    "model.layers.3.self_attn": ("attn_out", 3),
    "model.layers.3.self_attn.o_proj.input": ("hook_z", 3),
    "gpt_neox.embed_in": ("embedding", None),
    "embed_tokens": ("embedding", None),
    "resid_post_layer_3": ("resid_post", 3),
    "resid_pre_layer_3": ("resid_post", 2),
    "resid_out_layer3": ("resid_post", 3),
    "mlp_out_layer_3": ("mlp_out", 3),
    "attention_out_layer_3": ("attn_out", 3),
    "layer_8": ("resid_post", 8),
    "": ("", None),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_one_table_of_names_for_all_libraries(hook):
    assert site_of_hook(hook) == HOOKS[hook]


def test_gemma_adds_what_mlp_and_attention_write_only_after_a_norm():
    for model in ("google/gemma-2-2b", "gemma-3-1b-pt", "gemma-v3-270m-pt", "allenai/OLMo-2-0425-1B"):
        assert site_of_hook("model.layers.3.mlp", model) == ("mlp", 3)  # not what is added to the stream
        assert site_of_hook("model.layers.3.post_feedforward_layernorm.output", model) == ("mlp_out", 3)
        assert site_of_hook("model.layers.3.post_attention_layernorm.output", model) == ("attn_out", 3)
        assert site_of_hook("blocks.3.hook_mlp_out", model) == ("mlp_out", 3)
    assert site_of_hook("model.layers.3.mlp", "google/gemma-2b") == ("mlp_out", 3)
    assert site_of_hook("model.layers.3.post_attention_layernorm.output", "meta-llama/Llama-3.1-8B")[0] != "attn_out"


def dictionary_learning(folder, name="ae.pt", **config):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(LINEAR | {"bias": torch.zeros(D)}, folder / name)
    trainer = {"dict_class": "AutoEncoder", "trainer_class": "StandardTrainer", "lm_name": "gpt2"}
    buffer = {"io": config.pop("io")} if "io" in config else {}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer | config, "buffer": buffer}))
    return folder


@pytest.mark.parametrize(
    ("folder", "config", "place"),
    [
        ("resid_post_layer_8/trainer_0", {"layer": 8}, ("resid_post", 8)),
        ("mlp_out_layer_8/trainer_0", {"layer": 8}, ("mlp_out", 8)),
        ("resid_pre_layer_8/trainer_0", {"layer": 8}, ("resid_post", 7)),
        ("resid_out_layer3/10_32768", {}, ("resid_post", 3)),
        ("run", {"layer": 8, "submodule_name": "mlp_out_layer_8"}, ("mlp_out", 8)),
        ("run", {"layer": 8, "submodule_name": "resid_pre_layer_8"}, ("resid_post", 7)),
        ("run", {"layer": 8, "submodule_name": "layer_8", "io": "in"}, ("resid_post", 7)),
        ("run", {"layer": 0, "submodule_name": "layer_0", "io": "in"}, ("resid_pre", 0)),
        ("run", {"layer": 8, "submodule_name": "mlp_out_layer_8", "io": "in"}, ("mlp_in", 8)),
        ("run", {"layer": 8}, ("", 8)),
        ("layer_8", {}, ("", 8)),
        ("run", {}, ("", None)),
    ],
)
def test_dictionary_learning(tmp_path, folder, config, place):
    source = load_sae(dictionary_learning(tmp_path / folder, **config)).source
    assert (source.site, source.layer) == place
    assert any("It reads" in note for note in source.extra["notes"]) == (place[0] not in ("", "resid_post"))


def test_dictionary_learning_transcoder(tmp_path):
    with pytest.raises(CheckpointError, match="is a transcoder, which is not read here"):
        load_sae(dictionary_learning(tmp_path, layer=8, io="in_and_out"))


def saelens(folder, hook):
    folder.mkdir(parents=True)
    weights = {"W_enc": ATOMS.T.contiguous(), "W_dec": ATOMS, "b_enc": torch.zeros(M), "b_dec": torch.zeros(D)}
    save_file(weights, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": D, "d_sae": M, "metadata": {"hook_name": hook, "model_name": "gpt2"}}
    (folder / "cfg.json").write_text(json.dumps(config))


def test_layer_means_the_output_of_a_block_in_a_folder_of_inputs(tmp_path):
    for block in (3, 4, 5):
        saelens(tmp_path / f"blocks.{block}.hook_resid_pre", f"blocks.{block}.hook_resid_pre")
    source = load_sae(tmp_path, layer=4).source
    assert (source.site, source.layer) == ("resid_post", 4) and "blocks.5.hook_resid_pre" in source.path
    with pytest.raises(CheckpointError, match="holds no checkpoint of layer 5"):
        load_sae(tmp_path, layer=5)
    saelens(tmp_path / "mlp", "blocks.3.hook_mlp_out")
    rows = index_checkpoints({"a": [tmp_path]}, progress=False)
    assert sorted((r["site"], r["layer"]) for r in rows) == [("mlp_out", 3), *(("resid_post", n) for n in (2, 3, 4))]


def test_configs_decide_before_folders(tmp_path):
    """A folder of buffers that read the input: the names of the folders are one too high."""
    for block in (7, 8):
        dictionary_learning(tmp_path / f"layer_{block}" / "trainer_0", layer=block, io="in")
    assert load_sae(tmp_path, layer=7).source.path.endswith("layer_8/trainer_0/ae.pt")


# --- names above the run are no facts -------------------------------------------------------------------


def test_a_step_or_k_above_the_run_is_none_of_this_sae(tmp_path):
    folder = dictionary_learning(tmp_path / "step_2" / "run" / "trainer_0", layer=1)
    later = {**LINEAR, "bias": torch.ones(D)}
    (folder / "checkpoints").mkdir()
    torch.save(later, folder / "checkpoints" / "ae_2.pt")
    assert load_sae(folder).source.step is None
    assert (load_sae(folder, step=2).b_dec == 1).all()
    rows = index_checkpoints({"a": [tmp_path / "step_2"]}, progress=False)
    assert sorted((r["step"], r["trainer"]) for r in rows if r["step"] is not None) == [(2, 0)]
    assert [r["final"] for r in rows].count(True) == 1

    folds = tmp_path / "k_3_folds"
    folds.mkdir()
    torch.save(LINEAR | {"b_dec": torch.zeros(D)}, folds / "ae.pt")
    for options in ({}, {"variant": "topk"}):
        with pytest.raises(CheckpointError, match=r"pass (variant|k)="):
            load_sae(folds, **options)
    assert load_sae(folds, variant="topk", k=4).config.k == 4


def test_what_a_path_says(tmp_path):
    assert parse_run(tmp_path / "step_2" / "run" / "trainer_0" / "ae.pt")["step"] is None
    assert parse_run(tmp_path / "trainer_0_step_97" / "ae.pt")["step"] == 97
    assert parse_run(tmp_path / "trainer_3" / "checkpoints" / "ae_5.pt") == {"trainer": 3, "step": 5, "sparsity": None}
    assert parse_layer("layer_2_experiments/run/trainer_0/ae.pt") is None
    assert parse_layer("layer_2/a/b/c/ae.pt") is None
    assert parse_layer("gpt2_layer_2_k32/ae.pt") == 2
    assert parse_layer("layer_12_width_16k_l0_small/params.safetensors") == 12
