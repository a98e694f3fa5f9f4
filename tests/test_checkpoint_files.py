"""Files as people have them: wrapped weights, several configs, encodings, links, options that do nothing."""

import json

import pytest
import torch
from safetensors.torch import save_file

from repro.base.files import files_below
from repro.checkpoints import CheckpointError, index_checkpoints, load_sae
from repro.sae import VARIANTS, TopK

D, M = 6, 20
G = torch.Generator().manual_seed(0)
ATOMS = torch.nn.functional.normalize(torch.randn(M, D, generator=G), dim=1)
BATCH_TOPK = {
    "encoder.weight": torch.randn(M, D, generator=G),
    "encoder.bias": torch.randn(M, generator=G),
    "decoder.weight": ATOMS.T.contiguous(),
    "b_dec": torch.randn(D, generator=G),
    "k": torch.tensor(4),
    "threshold": torch.tensor(0.2),
}
CONFIG = {"trainer": {"dict_class": "BatchTopKSAE", "activation_dim": D, "dict_size": M, "k": 4, "layer": 1}}
SAELENS = {"architecture": "standard", "d_in": D, "d_sae": M, "apply_b_dec_to_input": True}
X = torch.randn(40, D, generator=G)


def batch_topk():
    p = ((X - BATCH_TOPK["b_dec"]) @ BATCH_TOPK["encoder.weight"].T + BATCH_TOPK["encoder.bias"]).relu()
    return p * (p > 0.2)


def put(folder, weights=BATCH_TOPK, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def lens_folder(folder, prefix="", config=SAELENS, **more):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"W_enc": ATOMS.T.contiguous(), "W_dec": ATOMS, "b_enc": torch.zeros(M), "b_dec": torch.zeros(D), **more}
    save_file({f"{prefix}{name}": value for name, value in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


WRAPPED = {
    "torch.compile": {f"_orig_mod.{name}": value for name, value in BATCH_TOPK.items()},
    "DataParallel": {f"module.{name}": value for name, value in BATCH_TOPK.items()},
    "both": {f"module._orig_mod.{name}": value for name, value in BATCH_TOPK.items()},
    "state_dict": {"state_dict": BATCH_TOPK, "epoch": 3},
    "Lightning": {"state_dict": {f"model.{name}": value for name, value in BATCH_TOPK.items()}, "hyper": {}},
    "model_state_dict": {"model_state_dict": BATCH_TOPK, "optimizer": {"state": {}}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_weights(name, tmp_path):
    torch.testing.assert_close(load_sae(put(tmp_path, WRAPPED[name])).encode(X), batch_topk())


def test_a_config_inside_the_file_counts(tmp_path):
    sae = load_sae(put(tmp_path, {"model_state_dict": BATCH_TOPK, "cfg": CONFIG}, None))
    assert sae.source.layer == 1
    torch.testing.assert_close(sae.encode(X), batch_topk())


def test_prefixed_safetensors(tmp_path):
    a, b = load_sae(lens_folder(tmp_path / "a")), load_sae(lens_folder(tmp_path / "b", prefix="_orig_mod."))
    assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.encode(X), b.encode(X))


def test_a_prefix_of_some_names_only_is_refused(tmp_path):
    mixed = {**WRAPPED["torch.compile"], "other": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"has no encoder\.weight"):
        load_sae(put(tmp_path, mixed))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_configs_in_any_unicode_encoding(encoding, tmp_path):
    put(tmp_path)
    (tmp_path / "config.json").write_bytes(json.dumps(CONFIG, indent=1).replace("\n", "\r\n").encode(encoding))
    assert load_sae(tmp_path).source.layer == 1


def test_a_language_models_config_is_not_the_saes(tmp_path):
    lens_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    assert load_sae(tmp_path).source.extra["format"] == "saelens"


def test_the_config_that_a_reader_knows_counts(tmp_path):
    put(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    assert load_sae(tmp_path).name == "batch_topk"
    lens_folder(tmp_path / "lens")
    (tmp_path / "lens" / "config.json").write_text('{"batch_size": 4}')
    assert load_sae(tmp_path / "lens").name == "standard"


def test_another_tools_yaml_is_no_config_of_the_sae(tmp_path):
    lens_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("output_dir: x\nmodel: [")
    assert load_sae(tmp_path).name == "standard"


def test_a_relative_path_knows_the_folders_above_it(tmp_path, monkeypatch):
    folder = put(tmp_path / "resid_post_layer_1" / "trainer_3")
    put(folder / "checkpoints").joinpath("ae.pt").rename(folder / "checkpoints" / "ae_50.pt")
    for cwd, path in ((folder, "."), (folder, "ae.pt"), (folder.parent, "trainer_3")):
        monkeypatch.chdir(cwd)
        source = load_sae(path).source
        assert (source.trainer, source.site, source.step) == (3, "resid_post", None)
        assert load_sae(path, step=50).source.step == 50
        assert {row["site"] for row in index_checkpoints({"a": [path]}, progress=False)} == {"resid_post"}


def test_weights_without_a_config_need_what_they_do_not_say(tmp_path):
    put(tmp_path, config=None)
    with pytest.raises(CheckpointError, match="pass variant='topk' or variant='batch_topk'"):
        load_sae(tmp_path)
    torch.testing.assert_close(load_sae(tmp_path, variant="batch_topk").encode(X), batch_topk())
    assert load_sae(tmp_path, variant="topk").config.k == 4


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (put, {"k": 4}),
        (put, {"variant": "batch_topk"}),
        (put, {"centred": True}),
        (put, {"normalize": True}),
        (put, {"norm_scaling_factor": 2.0}),
        (put, {"as_released": True}),
        (lens_folder, {"eval_activation": "batch_topk"}),
        (lens_folder, {"scaled_atoms": True}),
        (lens_folder, {"norm_scaling_factor": 2.0}),
    ],
)
def test_options_that_change_nothing_are_refused(make, options, tmp_path):
    (name,) = options
    with pytest.raises(CheckpointError, match=rf"{name}=.* would change nothing for .*; leave it out"):
        load_sae(make(tmp_path), **options)
    load_sae(tmp_path, fallback_batch_topk=True)  # a permission


def test_the_meaning_of_a_missing_rescaling_changed_in_version_6_14(tmp_path):
    config = {**SAELENS, "architecture": "batchtopk", "k": 3}
    threshold = torch.tensor(0.7, dtype=torch.float64)

    def read(version):
        meta = {} if version is None else {"metadata": {"sae_lens_version": version}}
        return load_sae(lens_folder(tmp_path, config=config | meta, W_dec=3 * ATOMS, topk_threshold=threshold))

    p = (X @ ATOMS.T).relu()
    for version in ("6.3.0", "6.12.3"):
        torch.testing.assert_close(read(version).encode(X), p * (p > 0.7))
    for version in ("6.14.0", "6.30.0", "7.0.0"):
        torch.testing.assert_close(read(version).encode(X), 3 * p * (3 * p > 0.7))
    with pytest.raises(CheckpointError, match="neither rescale_acts_by_decoder_norm nor sae_lens_version"):
        read(None)


def test_a_fractional_k_where_only_the_threshold_is_used(tmp_path):
    config = {**SAELENS, "architecture": "batchtopk", "k": 2.5, "rescale_acts_by_decoder_norm": False}
    lens_folder(tmp_path, config=config, topk_threshold=torch.tensor(0.7))
    sae, p = load_sae(tmp_path), (X @ ATOMS.T).relu()
    torch.testing.assert_close(sae.encode(X), p * (p > 0.7))
    assert sae.source.sparsity == 2.5
    with pytest.raises(CheckpointError, match=r"is 2\.5; a whole number"):
        load_sae(tmp_path, eval_activation="batch_topk")


def test_model_processing_is_a_note(tmp_path):
    for kwargs, note in (({"center_writing_weights": True, "fold_ln": False}, True), ({}, False)):
        meta = {"metadata": {"hook_name": "blocks.1.hook_resid_post", "model_from_pretrained_kwargs": kwargs}}
        notes = load_sae(lens_folder(tmp_path, config=SAELENS | meta)).source.extra["notes"]
        assert any("center_writing_weights" in text for text in notes) == note


# --- links and folders ----------------------------------------------------------------------------------


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    put(tmp_path / "elsewhere" / "trainer_0")
    root = tmp_path / "root"
    (root / "run").mkdir(parents=True)
    (root / "run" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "run" / "back").symlink_to(root)
    (root / "run" / "broken").symlink_to(tmp_path / "gone")
    file = root / "run" / "linked" / "trainer_0" / "ae.pt"
    assert [f for f in files_below(root) if f.suffix == ".pt"] == [file]
    assert load_sae(root).source.path == str(file)
    (row,) = index_checkpoints({"a": [root]}, progress=False)
    assert (row["path"], row["trainer"], row["status"]) == (str(file), 0, "ok")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)
    assert len(index_checkpoints({"a": [tmp_path]}, progress=False)) == 1


def test_a_file_keeps_its_own_name_before_that_of_a_link(tmp_path):
    put(tmp_path / "z_runs" / "trainer_3")
    (tmp_path / "a_link").symlink_to(tmp_path / "z_runs")
    assert files_below(tmp_path)[0] == tmp_path / "z_runs" / "trainer_3" / "ae.pt"


def test_unreadable_and_unknown_weights_are_rows_of_the_index(tmp_path):
    put(tmp_path / "good")
    for name, weights in {
        "damaged.safetensors": None,
        "crosscoder.pt": {"encoder.weight": torch.zeros(2, D, M), "decoder.weight": torch.zeros(2, M, D)},
        "llamascopium.pt": {"W_E": torch.zeros(D, M), "W_D": torch.zeros(M, D), "b_E": torch.zeros(M)},
        "nobody.pt": {"down": torch.zeros(D, M), "up": torch.zeros(M, D)},
        "metadata.pt": {"weight": torch.zeros(2)},
        "optimizer.pt": {"exp_avg": torch.zeros(D, M), "exp_avg_sq": torch.zeros(D, M)},
    }.items():
        if weights is None:
            (tmp_path / name).write_bytes(b"\x10" + b"\0" * 20)
        else:
            torch.save(weights, tmp_path / name)
    rows = {row["path"].rsplit("/", 1)[1]: row for row in index_checkpoints({"a": [tmp_path]}, progress=False)}
    reasons = {name: row["reason"] for name, row in rows.items() if row["status"] == "refused"}
    assert reasons.keys() == {"damaged.safetensors", "crosscoder.pt", "llamascopium.pt", "nobody.pt"}
    assert "is not a complete safetensors file" in reasons["damaged.safetensors"]
    assert "is a crosscoder" in reasons["crosscoder.pt"]
    assert "is a Llama Scope SAE" in reasons["llamascopium.pt"]
    assert "supported are SAEs of dictionary_learning" in reasons["nobody.pt"]
    assert rows["ae.pt"]["status"] == "ok"


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_tensors_without_a_config_are_a_variant_that_has_no_others(tmp_path, variant):
    shapes = {"W_enc": (8, 32), "W_dec": (32, 8), "b_enc": (32,), "b_dec": (8,)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "sae.safetensors")
    given = {} if variant.startswith("standard") else {"centred": True}
    if issubclass(VARIANTS[variant].Config, TopK.Config):
        given["k"] = 4
    if variant in ("standard", "standard_uncentred", "topk", "matching_pursuit", "abs_topk"):
        sae = load_sae(tmp_path / "sae.safetensors", variant=variant, **given)
        assert sae.name == variant and torch.isfinite(sae.encode(torch.randn(3, 8))).all()
    else:
        lacks = {"batch_topk": "was never set", "jumprelu": "has no threshold"}.get(variant, "several SAEs would fit")
        with pytest.raises(CheckpointError, match=lacks):
            load_sae(tmp_path / "sae.safetensors", variant=variant, **given)
