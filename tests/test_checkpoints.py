"""Readers and writers: the libraries' own codes, round trips to the bit, and every refusal with its sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_variants import random_sae, tokens

from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, load_sae, parse_layer, parse_path, save_dictionary_learning, save_sae
from repro.checkpoints.formats.dictionary_learning import CLASSES
from repro.sae import VARIANTS, Source

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
EXPECTED = sorted(GOLDEN.rglob("expected*.npz"))
DL = GOLDEN / "dictionary_learning"
D, M = 6, 20


def close(a, b):
    return torch.allclose(a, torch.as_tensor(b), rtol=1e-5, atol=1e-5 * float(np.abs(b).max()))


# --- what other libraries compute -------------------------------------------------------------------


@pytest.mark.parametrize("file", EXPECTED, ids=lambda f: str(f.relative_to(GOLDEN)))
def test_agrees_with_the_library_that_wrote_it(file):
    step = int(file.stem.split("_")[1]) if file.parent.name == "checkpoints" else None
    sae = load_sae(file.parent.parent if step is not None else file.parent, step=step)
    x = torch.from_numpy(np.load(GOLDEN / ("other_width/x.npy" if "other_width" in file.parts else "x.npy")))
    expected = np.load(file)
    z = sae.encode(x)
    assert torch.equal(z != 0, torch.from_numpy(expected["z"] != 0))
    assert close(z, expected["z"])
    assert close(sae.decode(z, x), expected["x_hat"])
    assert not any(p.requires_grad for p in sae.parameters())
    assert len(sae.source.sha256) == 64


def test_reads_what_configs_and_paths_say():
    source = load_sae(DL / "TopK1109" / "resid_post_layer_12_checkpoints" / "trainer_3_step_1464").source
    assert (source.family, source.trainer, source.step, source.layer, source.k, source.sparsity) == (
        "top_k",
        3,
        1464,
        12,
        5,
        5.0,
    )
    assert source.lm_name == "google/gemma-2-2b"
    april = load_sae(DL / "StandardAprilUpdate")
    assert (april.source.family, april.source.sparsity, april.source.k) == ("standard_new", 0.02, None)
    assert april.W_dec.norm(dim=1).max() > 1.5  # kept as they are
    assert load_sae(DL / "JumpRelu").source.sparsity == 5  # target L0
    backup = load_sae(DL / "BatchTopKBackup").source
    assert backup.step == 5000
    assert "norm_factor 2.5" in backup.extra["notes"][0]


def test_april_update_renormalised_reconstructs_the_same():
    sae = load_sae(DL / "StandardAprilUpdate")
    x = torch.from_numpy(np.load(GOLDEN / "x.npy"))
    torch.testing.assert_close(sae.renormalised()(x), sae(x), rtol=1e-4, atol=1e-4)


def test_parse_path_agrees_with_the_release():
    for name in ("a", "b"):
        golden = json.loads((GOLDEN.parent / f"published_{name}.json").read_text())["paths"]
        assert {path: parse_path(path) for path in golden} == golden


def test_parse_path_of_other_layouts():
    assert parse_path("r/trainer_2/checkpoints/ae_772.pt") == {"trainer": 2, "step": 772, "sparsity": None}
    assert parse_path("layer_12/width_16k/average_l0_82/params.npz")["sparsity"] == 82
    assert parse_path("gemma-2-2b_top_k_width-2pow14/trainer_8/ae.pt") == {"trainer": 8, "step": None, "sparsity": None}
    assert parse_layer("x/resid_post_layer_12_checkpoints/trainer_3_step_97/ae.pt") == 12
    assert parse_layer("run/layers.23/sae.safetensors") == 23
    assert parse_layer("sae/ae.pt") is None


# --- round trips --------------------------------------------------------------------------------------


def equal(a, b):
    assert type(a) is type(b) and a.config == b.config
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
        assert b.state_dict()[name].dtype == torch.float32
        assert b.state_dict()[name].is_contiguous()


@pytest.mark.parametrize("variant", VARIANTS)
def test_own_format_round_trip(variant, tmp_path):
    sae = random_sae(variant, unit=False)
    sae.source = Source(family="mine", step=7, layer=3, lm_name="tiny", sparsity=2.5, extra={"seed": 1})
    path = save_sae(sae, tmp_path / "x.safetensors")
    again = load_sae(path)
    equal(sae, again)
    assert again.source.path == str(path) and again.source.extra["seed"] == 1
    assert (again.source.family, again.source.step, again.source.layer) == ("mine", 7, 3)
    assert json.loads((tmp_path / "x.json").read_text())["variant"] == variant
    equal(sae, load_sae(save_sae(sae, tmp_path / "folder").parent))
    assert torch.equal(again.encode(tokens()), sae.encode(tokens()))


@pytest.mark.parametrize("variant", [cls.name for cls in CLASSES.values()])
def test_dictionary_learning_round_trip(variant, tmp_path):
    sae = random_sae(variant)
    sae.source = Source(family=variant, layer=8, lm_name="EleutherAI/pythia-160m-deduped")
    folder = tmp_path / "trainer_4"
    save_dictionary_learning(sae, folder, trainer_config={"lr": 3e-4, "steps": 100}, buffer_config={"ctx_len": 128})
    save_dictionary_learning(sae, folder, step=10, trainer_config={"lr": 3e-4, "steps": 100})
    for step in (None, 10, 100):  # a run's last step is its final checkpoint
        again = load_sae(folder, step=step)
        equal(sae, again)
        assert (again.source.trainer, again.source.step, again.source.layer) == (4, 10 if step == 10 else None, 8)
    first = (folder / "ae.pt").read_bytes()
    save_dictionary_learning(sae, folder)
    assert (folder / "ae.pt").read_bytes() == first  # the same SAE has the same hash


@pytest.mark.parametrize("name", ["Standard", "TopK", "BatchTopK", "MatryoshkaBatchTopK", "GatedSAE", "JumpRelu"])
def test_writes_what_dictionary_learning_writes(name, tmp_path):
    theirs = DL / name / "resid_post_layer_8" / "trainer_0"
    save_dictionary_learning(load_sae(theirs), tmp_path)
    a, b = (torch.load(p / "ae.pt", weights_only=True) for p in (theirs, tmp_path))
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype, key
    written, read = (json.loads((p / "config.json").read_text())["trainer"] for p in (tmp_path, theirs))
    assert {k: v for k, v in written.items() if k in read} == read


def test_refuses_to_write_what_the_library_cannot_hold(tmp_path):
    for sae in (
        random_sae("loca"),
        random_sae("standard", normalisation="layer_norm"),
        random_sae("jumprelu", centred=True),
    ):
        with pytest.raises(CheckpointError, match="dictionary_learning has no class for this"):
            save_dictionary_learning(sae, tmp_path)
    with pytest.raises(BadInput, match=r"save_sae writes safetensors, not \.pt"):
        save_sae(random_sae("topk"), tmp_path / "x.pt")


# --- formats that have no file here: a reference of a few lines each --------------------------------------


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(folder: Path, weights, config=None, name="ae.pt", config_name="config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(weights, folder / name)
    elif name.endswith(".npz"):
        np.savez(folder / name, **{k: v.numpy() for k, v in weights.items()})
    else:
        torch.save(weights, folder / name)
    if config is not None:
        (folder / config_name).write_text(json.dumps(config))
    return folder / name


def matrices(**more):
    atoms = torch.nn.functional.normalize(numbers(M, D), dim=1)
    return {"W_enc": numbers(D, M), "W_dec": atoms, "b_enc": numbers(M), "b_dec": numbers(D), **more}


def bussmann(sae_type, **more):
    """The BatchTopK and matryoshka_sae repositories write lists and types as text."""
    return {"sae_type": sae_type, "act_size": D, "dict_size": M, "dtype": "torch.float32", "top_k": 3} | more


X = numbers(11, D, seed=5) * 2


def layer_normed(x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.std(-1, keepdim=True) + 1e-5)


def test_batch_topk_repository(tmp_path):
    w = matrices()
    folder = tmp_path / "gpt2-small_blocks.8.hook_resid_pre_12288_topk_32_0.0003_10000"
    common = {"hook_point": "blocks.8.hook_resid_pre", "model_name": "gpt2-small", "input_unit_norm": True}
    sae = load_sae(write(folder, w, bussmann("topk", **common), "sae.pt"))
    p = ((layer_normed(X) - w["b_dec"]) @ w["W_enc"]).relu()  # b_enc is in the file and not in the code
    assert torch.equal(sae.encode(X) != 0, p >= p.topk(3).values[:, -1:].clamp_min(1e-9))
    torch.testing.assert_close(sae.encode(X), p * (p >= p.topk(3).values[:, -1:]))
    assert (sae.source.step, sae.source.layer, sae.source.k) == (10000, 7, 3)

    file = write(tmp_path / "b", w, bussmann("batch-topk"), "sae.pt")
    with pytest.raises(CheckpointError, match="pass eval_activation='batch_topk'"):
        load_sae(file)
    z = load_sae(file, eval_activation="batch_topk").encode(X)
    p = ((X - w["b_dec"]) @ w["W_enc"]).relu()
    torch.testing.assert_close(z, p * (p >= p.flatten().topk(33).values[-1]))

    config = bussmann("global-matryoshka-topk", group_sizes="[5, 5, 10]")
    sae = load_sae(write(tmp_path / "m", w | {"threshold": torch.tensor(0.8)}, config, "sae.pt"))
    assert sae.config.group_sizes == (5, 5, 10)
    torch.testing.assert_close(sae.encode(X), p * (p > 0.8))

    sae = load_sae(
        write(tmp_path / "j", w | {"jumprelu.log_threshold": numbers(M, seed=9)}, bussmann("jumprelu"), "sae.pt")
    )
    p = (X @ w["W_enc"] + w["b_enc"]).relu()  # not centred
    torch.testing.assert_close(sae.encode(X), p * (p > numbers(M, seed=9).exp()))
    sae = load_sae(write(tmp_path / "v", w, bussmann("vanilla"), "sae.pt"))
    torch.testing.assert_close(sae.encode(X), ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu())


def test_gemma_scope(tmp_path):
    w = matrices(threshold=numbers(M, seed=2).abs())
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    sae = load_sae(write(folder, w, name="params.npz"))
    p = X @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(sae.encode(X), p * (p > w["threshold"]))
    torch.testing.assert_close(sae(X), sae.encode(X) @ w["W_dec"] + w["b_dec"])
    assert (sae.name, sae.source.layer, sae.source.sparsity, sae.source.lm_name) == (
        "jumprelu",
        12,
        82,
        "google/gemma-2-2b",
    )
    np.savez_compressed(folder / "params.npz", **{k: v.numpy() for k, v in w.items()})
    equal(sae, load_sae(folder))


def test_openai(tmp_path):
    state = {"k": 3, "postact_fn": "ReLU"}
    w = {
        "pre_bias": numbers(D),
        "encoder.weight": numbers(M, D),
        "latent_bias": numbers(M),
        "decoder.weight": numbers(D, M),
        "stats_last_nonzero": torch.zeros(M, dtype=torch.long),
        "latents_activation_frequency": torch.ones(M),
        "latents_mean_square": torch.zeros(M),
    }
    file = write(tmp_path, w | {"activation": "TopK", "activation_state_dict": state}, name="8.pt")
    sae = load_sae(file)
    p = (layer_normed(X) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    z = p.relu() * (p >= p.topk(3).values[:, -1:])
    torch.testing.assert_close(sae.encode(X), z)
    x_hat = (z @ w["decoder.weight"].T + w["pre_bias"]) * X.std(-1, keepdim=True) + X.mean(-1, keepdim=True)
    torch.testing.assert_close(sae(X), x_hat)
    sae = load_sae(write(tmp_path / "relu", w | {"activation": "ReLU"}, name="8.pt"))
    torch.testing.assert_close(sae.encode(X), ((X - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]).relu())
    with pytest.raises(CheckpointError, match="only ReLU, and TopK with ReLU, exist here"):
        load_sae(write(tmp_path / "no", w | {"activation": "Identity"}, name="8.pt"))


@pytest.fixture
def loca(tmp_path):
    sizes = (8, 7, 5)
    w = {}
    for i, size in enumerate(sizes):
        w[f"encoders.{i}.weight"], w[f"encoders.{i}.bias"] = numbers(size, D, seed=i), numbers(size, seed=i)
        w[f"decoders.{i}.weight"] = numbers(D, size, seed=i + 9)
    config = {"group_ks": [3, 2, 1], "global_k": 4, "model_name": "m", "target_layer": 8}
    write(tmp_path, w, config, "multi_encoder_sae.pt")
    phase_one = {"encoder.weight": numbers(M, D), "encoder.bias": numbers(M), "decoder.weight": numbers(D, M)}
    write(tmp_path, phase_one, name="standard_sae.pt")
    write(tmp_path, {"W_enc": numbers(M, D), "W_dec": numbers(D, M)}, name="ae.pt")
    write(tmp_path, {"angular_variance": numbers(M)}, name="loc_angular_meta.pt")
    return tmp_path, w


def test_loca_folder(loca):
    folder, w = loca
    sae = load_sae(folder)
    unit = X / X.norm(dim=1, keepdim=True)
    codes, x_hat = [], 0
    for i, k in enumerate((3, 2, 1)):
        p = unit @ w[f"encoders.{i}.weight"].T + w[f"encoders.{i}.bias"]
        codes.append((p * (p >= p.topk(k).values[:, -1:])).relu())
        x_hat = x_hat + codes[-1] @ w[f"decoders.{i}.weight"].T
    torch.testing.assert_close(sae.encode(X), torch.cat(codes, 1))
    torch.testing.assert_close(sae(X), x_hat * X.norm(dim=1, keepdim=True))
    assert (sae.source.k, sae.source.layer, sae.name) == (6, 8, "loca")


def test_loca_phase_one_and_converted(loca):
    folder, _ = loca
    sae = load_sae(folder / "standard_sae.pt")
    p = X / X.norm(dim=1, keepdim=True) @ numbers(M, D).T + numbers(M)
    torch.testing.assert_close(sae.encode(X), (p * (p >= p.topk(4).values[:, -1:])).relu())
    with pytest.raises(CheckpointError, match=r"load multi_encoder_sae\.pt instead, or pass as_released=True"):
        load_sae(folder / "ae.pt")
    for path in (folder, folder / "ae.pt"):
        sae = load_sae(path, as_released=True)
        torch.testing.assert_close(sae.encode(X), (X @ numbers(M, D).T).relu())
        torch.testing.assert_close(sae(X), sae.encode(X) @ numbers(D, M).T)
        assert "not the LocA SAE that was trained" in sae.source.extra["notes"][0]


def saelens(architecture="standard", **more):
    return {"d_in": D, "d_sae": M, "architecture": architecture, "dtype": "float32"} | more


def save_lens(folder, config, **more):
    return write(folder, matrices(**more), config, "sae_weights.safetensors", "cfg.json")


def test_saelens_before_version_6(tmp_path):
    old = {
        "d_in": D,
        "d_sae": M,
        "hook_point": "blocks.5.hook_resid_pre",
        "model_name": "gpt2",
        "normalize_activations": False,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
    }
    sae = load_sae(save_lens(tmp_path, old, scaling_factor=torch.ones(M)))
    assert (sae.name, sae.config.k, sae.source.layer, sae.source.lm_name) == ("topk", 3, 4, "gpt2")
    with pytest.raises(CheckpointError, match="fold it into W_dec"):
        load_sae(save_lens(tmp_path, old, scaling_factor=torch.full((M,), 2.0)))


def test_saelens_scaling_factor(tmp_path):
    """codes of the folded weights on x = codes of the trained weights on s x."""
    config = saelens("standard", normalize_activations="expected_average_only_in")
    file = save_lens(tmp_path, config)
    plain = load_sae(file)
    assert "pass norm_scaling_factor" in plain.source.extra["notes"][0]
    folded = load_sae(file, norm_scaling_factor=0.25)
    torch.testing.assert_close(folded.encode(X), plain.encode(0.25 * X))
    torch.testing.assert_close(folded(X), plain(0.25 * X) / 0.25)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25}))
    equal(folded, load_sae(file))


def test_saelens_training_checkpoints(tmp_path):
    w = matrices()
    scaled = w | {"W_dec": w["W_dec"] * 3, "topk_threshold": torch.tensor(0.7, dtype=torch.float64)}
    config = saelens("matryoshka_batchtopk", k=3, matryoshka_widths=[5, 12], rescale_acts_by_decoder_norm=True)
    sae = load_sae(write(tmp_path, scaled, config, "sae_weights.safetensors", "cfg.json"))
    p = (((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * 3).relu()  # scores are weighed by the atoms' norms
    torch.testing.assert_close(sae.encode(X), p * (p > 0.7))
    torch.testing.assert_close(sae(X), sae.encode(X) @ w["W_dec"] + w["b_dec"])
    assert sae.config.group_sizes == (5, 7, 8)
    log = load_sae(save_lens(tmp_path / "log", saelens("jumprelu"), log_threshold=torch.zeros(M)))
    assert (log.threshold == 1).all()


# --- eras and traps of dictionary_learning ------------------------------------------------------------


def linear(**more):
    atoms = torch.nn.functional.normalize(numbers(D, M), dim=0)
    return {"encoder.weight": numbers(M, D), "encoder.bias": numbers(M), "decoder.weight": atoms} | more


def topk_file(**more):
    return linear(b_dec=numbers(D), k=torch.tensor(3, dtype=torch.int32), threshold=torch.tensor(0.5)) | more


def trained(dict_class, **more):
    return {"trainer": {"dict_class": dict_class, "activation_dim": D, "dict_size": M} | more}


def test_half_precision_is_read_as_float32(tmp_path):
    w = topk_file(b_dec=numbers(D).bfloat16())
    sae = load_sae(write(tmp_path, w, trained("AutoEncoderTopK", k=3)))
    assert sae.b_dec.dtype == torch.float32 and torch.equal(sae.b_dec, w["b_dec"].float())


def test_columns_in_another_memory_order(tmp_path):
    w = topk_file()
    w["encoder.weight"] = numbers(D, M).T  # as in a fresh model, where it is the decoder turned round
    sae = load_sae(write(tmp_path, w, trained("AutoEncoderTopK", k=3)))
    assert torch.equal(sae.W_enc, numbers(D, M)) and sae.W_enc.is_contiguous()


def test_tied_tensors_are_read_twice(tmp_path):
    atoms = torch.nn.functional.normalize(numbers(M, 600), dim=1)  # several pages of memory
    w = {"encoder.weight": atoms, "decoder.weight": atoms.T, "encoder.bias": numbers(M), "bias": numbers(600)}
    for legacy in (False, True):
        torch.save(w, tmp_path / "ae.pt", _use_new_zipfile_serialization=not legacy)
        sae = load_sae(tmp_path / "ae.pt")
        assert torch.equal(sae.W_dec, atoms) and torch.equal(sae.W_enc, atoms.T)


def test_large_tensors_are_read_in_blocks(tmp_path):
    """3 blocks and a bit, in both orientations."""
    d, m = 1500, 2200
    w = {
        "encoder.weight": numbers(m, d),
        "decoder.weight": numbers(d, m),
        "encoder.bias": numbers(m),
        "bias": numbers(d),
    }
    sae = load_sae(write(tmp_path, w))
    assert torch.equal(sae.W_enc, w["encoder.weight"].T) and torch.equal(sae.W_dec, w["decoder.weight"].T)
    equal(sae, load_sae(save_sae(sae, tmp_path / "own")))


@pytest.mark.parametrize("name", ["Standard", "GatedSAE", "MatryoshkaBatchTopK"])
def test_without_config_the_names_decide_where_they_can(name, tmp_path):
    theirs = DL / name / "resid_post_layer_8" / "trainer_0"
    shutil.copy(theirs / "ae.pt", tmp_path / "ae.pt")
    equal(load_sae(theirs), load_sae(tmp_path))


@pytest.mark.parametrize("name", ["GatedSAE", "JumpRelu", "TopK", "Standard"])
def test_backup_of_every_class_is_in_raw_units(name, tmp_path):
    """Training sees x / s; codes of raw x are s times those."""
    theirs = DL / name / "resid_post_layer_8" / "trainer_0"
    trained_in_units = load_sae(theirs)
    inner = torch.load(theirs / "ae.pt", weights_only=True)
    content = {"step": 9, "ae": inner, "optimizer": {"state": {}}, "config": {}, "norm_factor": 2.5}
    write(tmp_path, content, json.loads((theirs / "config.json").read_text()))
    x = torch.from_numpy(np.load(GOLDEN / "x.npy"))
    torch.testing.assert_close(
        load_sae(tmp_path).encode(x), 2.5 * trained_in_units.encode(x / 2.5), rtol=1e-4, atol=1e-5
    )
    del content["norm_factor"]
    with pytest.raises(CheckpointError, match="the units of its biases are unknown"):
        load_sae(write(tmp_path, content))


def test_unset_threshold_of_a_trajectory(tmp_path):
    w = topk_file(threshold=torch.tensor(-1.0))
    file = write(tmp_path, w, trained("BatchTopKSAE", k=3))
    with pytest.raises(CheckpointError, match="never set"):
        load_sae(file)
    sae = load_sae(file, fallback_batch_topk=True)
    assert sae.config.eval_activation == "batch_topk" and (sae.encode(X) > 0).sum() == 3 * len(X)
    assert "never set" in sae.source.extra["notes"][0]
    kept = load_sae(write(tmp_path, topk_file(), trained("BatchTopKSAE", k=3)), fallback_batch_topk=True)
    assert kept.config.eval_activation == "threshold"  # it has one


# --- finding the file ---------------------------------------------------------------------------------


def test_finds_steps_in_both_layouts(tmp_path):
    w = {s: topk_file(**{"encoder.bias": torch.full((M,), float(s))}) for s in (7, 97, 500)}
    root = tmp_path / "run"
    config = trained("AutoEncoderTopK", k=3, layer=12)
    write(root / "resid_post_layer_12" / "trainer_0", w[500], config)
    write(root / "resid_post_layer_12_checkpoints" / "trainer_0_step_97", w[97], config)
    write(root / "resid_post_layer_12" / "trainer_0" / "checkpoints", w[7], name="ae_7.pt")
    trainer = root / "resid_post_layer_12" / "trainer_0"
    for path in (trainer, trainer / "ae.pt", root):
        for step, bias in ((None, 500), (7, 7), (97, 97)):
            sae = load_sae(path, step=step)
            assert (sae.b_enc[0].item(), sae.source.step, sae.source.layer) == (bias, step, 12)
    with pytest.raises(CheckpointError, match="no checkpoint of step 8: its steps are 7, 97"):
        load_sae(trainer, step=8)
    assert load_sae(trainer / "checkpoints" / "ae_7.pt").source.step == 7
    write(root / "resid_post_layer_5" / "trainer_0", w[500], trained("AutoEncoderTopK", k=3, layer=5))
    assert load_sae(root, layer=5).source.layer == 5
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints .*give the path of one"):
        load_sae(root)
    with pytest.raises(CheckpointError, match="was trained on layer 12, not 5"):
        load_sae(trainer, layer=5)
    with pytest.raises(CheckpointError, match="holds no checkpoint of layer 9"):
        load_sae(root, layer=9)


def test_any_name_of_a_weights_file_will_do(tmp_path):
    path = save_sae(random_sae("topk"), tmp_path / "my_sae.safetensors")
    equal(load_sae(path), load_sae(tmp_path))
    assert load_sae(path, layer=4).source.layer == 4


# --- refusals -----------------------------------------------------------------------------------------


class Payload:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def sparsify(**more):
    return {"d_in": D, "num_latents": M, "k": 3, "expansion_factor": 0} | more


def sparsify_file(folder, config, **more):
    w = {"encoder.weight": numbers(M, D), "encoder.bias": numbers(M), "W_dec": numbers(M, D), "b_dec": numbers(D)}
    return write(folder, w | more, config, "sae.safetensors", "cfg.json")


REFUSED = {
    "pickle": (lambda f: write(f, topk_file(extra=Payload())), "opening those could run code"),
    "not a dict": (lambda f: write(f, numbers(3)), "holds a Tensor, not a state_dict"),
    "class missing": (
        lambda f: write(f, linear(b_dec=numbers(D))),
        "several classes of dictionary_learning: put .* or pass variant='topk' or variant='batch_topk'",
    ),
    "k missing": (
        lambda f: write(f, linear(b_dec=numbers(D)), trained("AutoEncoderTopK")),
        "does not say its k: put the config.json .*, or pass k=",
    ),
    "TopK or BatchTopK": (lambda f: write(f, topk_file()), "pass variant='topk' or variant='batch_topk'"),
    "k differs": (
        lambda f: write(f, topk_file(), trained("AutoEncoderTopK", k=4)),
        "has k = 3, but its config.json says 4",
    ),
    "k impossible": (
        lambda f: write(f, linear(b_dec=numbers(D)), trained("AutoEncoderTopK", k=99)),
        "between 1 and the number of latents, 20",
    ),
    "width differs": (
        lambda f: write(f, topk_file(), trained("AutoEncoderTopK", k=3, activation_dim=9)),
        "has activation_dim 6, but its config says 9",
    ),
    "class unknown": (
        lambda f: write(f, topk_file(), trained("AutoEncoderTopk", k=3)),
        "did you mean 'AutoEncoderTopK'",
    ),
    "class of another file": (lambda f: write(f, topk_file(), trained("GatedAutoEncoder")), "has no decoder_bias"),
    "unknown key": (
        lambda f: write(f, topk_file(W_skip=numbers(D, D)), trained("AutoEncoderTopK", k=3)),
        "holds W_skip, which its format does not have",
    ),
    "bias too short": (
        lambda f: write(f, topk_file(**{"encoder.bias": numbers(M - 1)}), trained("AutoEncoderTopK", k=3)),
        "encoder.bias in .* has shape \\(19,\\) where \\(20,\\) is needed",
    ),
    "orientation": (
        lambda f: write(f, topk_file(**{"decoder.weight": numbers(M, D)}), trained("AutoEncoderTopK", k=3)),
        "decoder.weight in .* has shape \\(20, 6\\) where \\(6, 20\\) is needed",
    ),
    "atoms off unit norm": (
        lambda f: write(f, topk_file(**{"decoder.weight": numbers(D, M)}), trained("AutoEncoderTopK", k=3)),
        "pass scaled_atoms=True to use it as it is",
    ),
    "NaN": (
        lambda f: write(
            f, topk_file(**{"encoder.bias": torch.full((M,), float("nan"))}), trained("AutoEncoderTopK", k=3)
        ),
        "encoder.bias in .* holds NaN or Inf",
    ),
    "infinite threshold": (
        lambda f: write(f, topk_file(threshold=torch.tensor(float("inf"))), trained("BatchTopKSAE", k=3)),
        "threshold in .* is inf",
    ),
    "integer weights": (
        lambda f: write(
            f, topk_file(**{"encoder.weight": torch.ones(M, D, dtype=torch.int8)}), trained("AutoEncoderTopK", k=3)
        ),
        "weights in floating point are needed",
    ),
    "claims too much": (
        lambda f: write(
            f, topk_file(**{"encoder.weight": numbers(1, 1).expand(M, D)}), trained("AutoEncoderTopK", k=3)
        ),
        "claims more numbers than the file holds",
    ),
    "no known names": (
        lambda f: write(f, {"weight": numbers(3, 3)}),
        "holds weight, which no reader recognises; supported are SAEs of dictionary_learning",
    ),
    "config of nobody": (
        lambda f: write(f, {"weight": numbers(3, 3)}, {"a": 1}),
        r"its config \(a\) is of no known library",
    ),
    "text for a number": (
        lambda f: write(f, topk_file(), trained("AutoEncoderTopK", k="many")),
        "has k = 3, but its config.json says 'many'",
    ),
    "truth for a number": (lambda f: save_lens(f, saelens("topk", k=True)), "is True; a whole number"),
    "list for an object": (
        lambda f: save_lens(f, saelens(metadata=[1])),
        "holds values that its library does not write .*; restore the original one",
    ),
    "scaling factor of zero": (
        lambda f: save_lens(f, saelens(normalize_activations="expected_average_only_in", norm_scaling_factor=0.0)),
        "is 0.0; a positive number is needed",
    ),
    "no latents": (lambda f: save_lens(f, saelens("topk", k=0)), "k is 0; it must lie between 1 and"),
    "broken config": (
        lambda f: (write(f, topk_file()), (f / "config.json").write_text("{"))[0],
        "config.json is not valid JSON",
    ),
    "list config": (
        lambda f: (write(f, topk_file()), (f / "config.json").write_text("[]"))[0],
        "must hold a JSON object, not a list",
    ),
    "saelens without cfg": (
        lambda f: write(f, matrices(), name="sae_weights.safetensors"),
        "several SAEs would fit: put the config of its training run beside it, or pass variant=",
    ),
    "saelens architecture": (
        lambda f: save_lens(f, saelens("hierarchical")),
        "is a SAELens .hierarchical., which is not one of standard",
    ),
    "saelens activation": (
        lambda f: save_lens(f, saelens(activation_fn_str="tanh-relu")),
        "is a standard SAE with the activation 'tanh-relu'",
    ),
    "saelens whitening": (
        lambda f: save_lens(f, saelens(normalize_activations="covariance_whitening")),
        "normalises activations by 'covariance_whitening', which cannot be undone",
    ),
    "saelens k": (lambda f: save_lens(f, saelens("topk")), "names no k; without it top-k inference is a guess"),
    "saelens fractional k": (
        lambda f: save_lens(f, saelens("topk", k=2.5)),
        r"k of .* is 2\.5; a whole number",
    ),
    "saelens width": (lambda f: save_lens(f, saelens(d_sae=21)), "has d_sae 20, but its config says 21"),
    "sparsify skip": (
        lambda f: sparsify_file(f, sparsify(skip_connection=True), W_skip=numbers(D, D)),
        "has a skip connection, so its reconstruction is not codes times atoms",
    ),
    "sparsify transcoder": (lambda f: sparsify_file(f, sparsify(transcode=True)), "is a transcoder"),
    "sparsify signed": (lambda f: sparsify_file(f, sparsify(signed=True)), "has signed latents"),
    "sparsify activation": (lambda f: sparsify_file(f, sparsify(activation="relu")), "only topk and groupmax exist"),
    "sparsify groups": (
        lambda f: sparsify_file(f, sparsify(activation="groupmax")),
        "cannot have 3 equal groups of its 20",
    ),
    "sparsify width": (
        lambda f: sparsify_file(f, sparsify(num_latents=21)),
        "has num_latents 20, but its config says 21",
    ),
    "sparsify without cfg": (lambda f: sparsify_file(f, None), "put sparsify's cfg.json beside it"),
    "tied weights": (
        lambda f: write(f, matrices(), bussmann("topk", tied_weights=True), "sae.pt"),
        "only ReLU with free weights has exact inference",
    ),
    "no sae_type": (
        lambda f: write(f, matrices(), bussmann("other"), "sae.pt"),
        "sae_type 'other' of .* is not one of",
    ),
    "no top_k": (lambda f: write(f, matrices(), bussmann("topk", top_k=None), "sae.pt"), "names no top_k"),
    "loca without config": (
        lambda f: write(f, {"encoders.0.weight": numbers(3, D)}, name="multi_encoder_sae.pt"),
        "does not say the k of each group",
    ),
    "loca groups": (
        lambda f: write(f, {"encoders.0.weight": numbers(3, D)}, {"group_ks": [1, 2]}, "multi_encoder_sae.pt"),
        "has 1 groups, but its config.json gives 2 group_ks",
    ),
    "objects in npz": (
        lambda f: (
            np.savez(
                f / "params.npz", **{**{k: v.numpy() for k, v in matrices().items()}, "threshold": np.full(M, None)}
            ),
            f / "params.npz",
        )[1],
        "threshold in .* is object; weights in floating point",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, tmp_path):
    make, sentence = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_sae(path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_scaled_atoms_are_read_when_asked_for(tmp_path):
    file = write(tmp_path, topk_file(**{"decoder.weight": 3 * numbers(D, M)}), trained("AutoEncoderTopK", k=3))
    assert torch.equal(load_sae(file, scaled_atoms=True).W_dec, 3 * numbers(D, M).T)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_refuses_damaged_files(suffix, tmp_path):
    good = {".pt": "ae.pt", ".safetensors": "sae.safetensors", ".npz": "params.npz"}[suffix]
    file = write(tmp_path, matrices(threshold=numbers(M)), name=good)
    whole = file.read_bytes()
    for content, sentence in (
        (b"", "is empty; download or save it again"),
        (whole[: len(whole) // 2], "is not a complete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "is not a complete"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            load_sae(file)


def test_refuses_a_newer_format(tmp_path):
    from safetensors import safe_open

    path = save_sae(random_sae("topk"), tmp_path / "x.safetensors")
    with safe_open(path, "pt") as f:
        header, weights = f.metadata(), {k: f.get_tensor(k).clone() for k in f.keys()}  # noqa: SIM118
    for change, sentence in (
        ({"format_version": "2"}, "has format_version 2, and this version of repro reads up to 1: update repro"),
        ({"sae": header["sae"].replace('"topk"', '"topj"')}, "holds the variant 'topj', which is unknown"),
        ({"sae": header["sae"].replace('"k"', '"kk"')}, "does not fit topk"),
    ):
        save_file(weights, path, metadata=header | change)
        with pytest.raises(CheckpointError, match=sentence):
            load_sae(path)


def test_refuses_paths_without_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        load_sae(tmp_path / "none")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: none of multi_encoder_sae\.pt, ae\.pt"):
        load_sae(tmp_path)
