"""The released workflow command by command: on the bundled model, and on folders as the hub lays them out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hub_text
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from repro.base.config import RunConfig, load_yaml
from repro.cli import main, parse

ROOT = Path(__file__).parent.parent
METRICS = {"NMSE", "DeadRate", "DenseRate@0.1", "DenseRate@0.2", "F1@1", "F1@2", "ΔF1", "AbsorptionRate"}
MODES = ("amortized", "semi_amortized", "non_amortized")
COLUMNS = (
    "variant trainer step sparsity mode protocol NMSE FVE L0 dead_rate dense@0.1 dense@0.2 F1@1 F1@2 dF1 absorption "
    "amort_gap_mean amort_gap_median amort_gap_lower amort_gap_upper lam n_tokens seed"
)
FEW = ("--m", 48, "--batch-size", 128, "--held-out-tokens", 64, "--ce-tokens", 0)


def run(*args):
    main([str(a) for a in args])


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """collect, train, index, evaluate on the bundled model and labelled texts; the folder and its config."""
    pytest.importorskip("transformers")
    out = tmp_path_factory.mktemp("seed")
    config = {
        "output_dir": str(out),
        "model": {"name": "tiny", "layer_index": 2},
        "dataset": {
            "name": "tiny-labels",
            "label_column": "label",
            "max_tokens": 1500,
            "seq_len": 16,
            "packing": False,
        },
        "sae_checkpoints": {v: {"name": v, "roots": [f"{out}/saes/{v}"]} for v in ("topk", "standard")},
        "eval_modes": list(MODES),
        "semi_steps": 3,
        "non_steps": 5,
        "metrics": {"max_tokens": 150},
        "seed": 42,
    }
    file = out / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    run("collect", "--config", file)
    train = ("train", "--acts", out, "--output-dir", out / "saes", "--steps", 2, *FEW)
    run(*train, "--variant", "topk", "--sparsity", 4, 8)
    run(*train, "--variant", "standard", "--sparsity", 0.05)
    run("index", "--config", file)
    run("evaluate", "--config", file)
    return out, file


def test_collect_writes_the_released_array_and_what_it_lacked(seed):
    out, _ = seed
    x, mask, tokens = (np.load(out / f"{n}.npy") for n in ("acts_layer2", "acts_layer2.mask", "tokens_layer2"))
    S, T, d = x.shape
    assert (T, d) == (16, 256) and x.dtype == np.float32 and mask.dtype == bool and mask.shape == tokens.shape == (S, T)
    assert mask.sum() == 1500 and not x[~mask].any() and mask[:, 0].all()
    about = json.loads((out / "acts_layer2.json").read_text())
    assert about["tokens"] == 1500 and about["layer"] == 2 and len(about["label_names"]) > 1
    assert len(np.load(out / "acts_layer2.labels.npy")) == about["documents"] == S


def test_train_writes_dictionary_learnings_layout(seed):
    out, _ = seed
    for variant, count in (("topk", 2), ("standard", 1)):
        for i in range(count):
            folder = out / "saes" / variant / "resid_post_layer_2" / f"trainer_{i}"
            trainer = json.loads((folder / "config.json").read_text())["trainer"]
            assert (trainer["activation_dim"], trainer["dict_size"], trainer["steps"]) == (256, 48, 2)
            names = {p.relative_to(folder).as_posix() for p in folder.rglob("*.pt")}
            assert names == {"ae.pt", *(f"checkpoints/ae_{s}.pt" for s in (0, 1))}


def test_index_lists_them(seed):
    out, _ = seed
    index = pd.read_parquet(out / "checkpoint_index.parquet")
    assert {"variant", "family", "path", "trainer", "step", "sparsity", "d", "m", "sha256"} <= set(index.columns)
    assert len(index) == 9 and (index["status"] == "ok").all() and (index["m"] == 48).all()
    assert sorted(index.loc[index["final"], "sparsity"]) == [0.05, 4, 8]


def test_evaluate_writes_a_row_per_checkpoint_mode_and_protocol(seed):
    out, _ = seed
    table = pd.read_parquet(out / "metrics.parquet")
    assert set(COLUMNS.split()) <= set(table.columns) and len(table) == 9 * 3 * 2
    assert set(table["mode"]) == set(MODES) and set(table["protocol"]) == {"as_released", "corrected"}
    assert (table["seed"] == 42).all() and (table["n_tokens"] == 150).all()
    tokens, given = table.attrs["tokens"], table.attrs["config"]
    assert tokens["exclude"] == ["pad", "bos", "eos", "first"] and tokens["dropped"]["first"] > 0
    assert given["seed"] == 42 and given["metrics"]["max_tokens"] == 150 and table.attrs["commit"]
    about = json.loads((out / "acts_layer2.json").read_text())
    special = np.isin(np.load(out / "tokens_layer2.npy"), [i for ids in about["special_ids"].values() for i in ids])
    keep = np.load(out / "acts_layer2.mask.npy") & ~special
    keep[:, 0] = False
    x = np.load(out / "acts_layer2.npy")[keep][:150].astype(float)
    path = out / "saes" / "topk" / "resid_post_layer_2" / "trainer_0" / "ae.pt"
    w = {k: v.double().numpy() for k, v in torch.load(path, weights_only=True).items() if v.is_floating_point()}
    pre = np.maximum((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], 0)
    z = np.where(pre >= np.sort(pre, axis=1)[:, [-4]], pre, 0)
    nmse = ((x - z @ w["decoder.weight"].T - w["b_dec"]) ** 2).sum() / (x**2).sum()
    row = table[(table["path"] == str(path)) & (table["mode"] == "amortized") & (table["protocol"] == "corrected")]
    assert row["NMSE"].item() == pytest.approx(nmse, rel=1e-4)
    assert row["L0"].item() == pytest.approx((z > 0).sum(1).mean())


def test_evaluate_again_skips_what_is_done(seed, capfd):
    out, config = seed
    rows = sorted((out / "rows").iterdir())
    before = {p: p.stat().st_mtime_ns for p in rows}
    rows[5].unlink()
    table = pd.read_parquet(out / "metrics.parquet")
    run("evaluate", "--config", config)
    assert "token/s" in capfd.readouterr().err
    changed = [p for p in sorted((out / "rows").iterdir()) if p.stat().st_mtime_ns != before[p]]
    assert changed == [rows[5]]
    again = pd.read_parquet(out / "metrics.parquet")
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), again.drop(columns="seconds"))


def test_visualize_draws_every_checkpoint_by_step_and_sparsity(seed, monkeypatch):
    pytest.importorskip("plotly")
    from repro.commands.visualize import draw, with_steps
    from repro.metrics import names as metric_names

    out, _ = seed
    monkeypatch.setattr(metric_names, "METRIC_COLUMNS", ("NMSE", "F1@1"))
    table = pd.read_parquet(out / "metrics.parquet")
    figures = dict(draw(with_steps(table)))
    names = {"NMSE_corrected_by_step", "F1@1_as_released_by_sparsity", "amort_gap_mean_corrected_by_step"}
    assert names <= set(figures)
    part = table[(table["protocol"] == "corrected") & table["NMSE"].notna()]  # nothing trains an L1 SAE in two steps
    assert part["mode"].value_counts()["amortized"] == 9
    drawn = figures["NMSE_corrected_by_step"]
    assert (drawn.layout.legend.yref, drawn.layout.legend.y < 1) == ("container", True)  # else it is nowhere
    titles = {a.text for a in drawn.layout.annotations}
    assert titles == {f"{v}, {m}" for v in ("topk", "standard") for m in MODES}
    assert sorted(y for t in drawn.data for y in t.y) == pytest.approx(sorted(part["NMSE"]))
    assert {x for t in drawn.data for x in t.x} == {1 / 3, 1, 2}  # step 0 left of the first; the final at its last step
    final = part[part["step"].isna()]
    markers = [t for t in figures["NMSE_corrected_by_sparsity"].data if t.mode == "markers"]
    assert sorted(y for t in markers for y in t.y) == pytest.approx(sorted(final["NMSE"]))
    assert sorted((x, t.name) for t in markers for x in t.x) == sorted(zip(final["sparsity"], final["mode"]))


def test_visualize_writes_html_and_png_without_a_browser(seed, monkeypatch):
    pytest.importorskip("matplotlib")
    from repro.commands import visualize as figures
    from repro.metrics import names as metric_names

    out, config = seed
    monkeypatch.setattr(metric_names, "METRIC_COLUMNS", ("NMSE",))
    monkeypatch.setattr(figures, "GAPS", ())
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("BROWSER_PATH", "")
    run("visualize", "--config", config)
    names = {f"fig_NMSE_{p}_by_{along}" for p in ("as_released", "corrected") for along in ("step", "sparsity")}
    for suffix in ("html", "png"):
        assert {p.stem for p in out.glob(f"fig_*.{suffix}")} == names
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 20_000 for p in out.glob("fig_*.png"))
    assert not list(out.glob(".fig*"))


def check_modes(file):
    result = json.loads(file.read_text())
    for mode in MODES:
        assert set(result[mode]) == METRICS
        assert {"FVE", "L0", "NMSE"} <= set(result["corrected"][mode])
    return result


def test_compare_and_sweep(seed, tmp_path):
    out, _ = seed
    sae = out / "saes" / "topk" / "resid_post_layer_2" / "trainer_1"
    given = ("--model-name", "tiny", "--sae-variant", "topk", "--sae-path", sae, "--out-dir", tmp_path)
    given += ("--max-tokens", 150, "--semi-steps", 3)
    run("compare", *given, "--non-steps", 5)  # collects the text itself
    result = check_modes(tmp_path / "tiny_topk_3modes.json")
    assert result["provenance"]["sae"]["k"] == 8 and result["provenance"]["commit"]
    run("sweep", *given, "--acts", out / "acts_layer2.npy", "--steps", "1,3")
    swept = json.loads((tmp_path / "tiny_topk_semi_sweep.json").read_text())
    assert list(swept["semi_amortized"]) == ["1", "3"]
    assert all(set(swept["semi_amortized"][s]) == METRICS | {"lambda"} for s in "13")


def test_loca_trains_converts_and_evaluates(seed, tmp_path):
    out, _ = seed
    folder = tmp_path / "loca"
    few = (*FEW, "--k", 8, "--n-groups", 4, "--steps", 4)
    run("loca", "train", "--model-name", "tiny", "--acts", out, "--output-dir", folder, *few)
    released = {"standard_sae.pt", "multi_encoder_sae.pt", "loc_angular_meta.pt", "config.json", "sae.safetensors"}
    assert released <= {p.name for p in folder.iterdir()}
    keys = "model_name target_layer input_dim dict_size num_groups global_k group_ks lr batch_size max_steps seed"
    assert set(keys.split()) <= set(json.loads((folder / "config.json").read_text()))
    run("loca", "convert", "--sae-dir", folder)
    assert {"W_enc", "W_dec"} <= set(torch.load(folder / "ae.pt", weights_only=True))
    given = ("--model-name", "tiny", "--acts", out, "--out-dir", tmp_path, "--max-tokens", 150)
    run("loca", "evaluate", *given, "--sae-path", folder / "ae.pt")
    result = json.loads((tmp_path / "tiny_loc_amt_sae_metrics.json").read_text())
    assert set(result["amortized"]) == METRICS and result["corrected"]["amortized"]["L0"] <= 8


def test_the_examples_say_what_the_released_ones_say():
    """The keys of the seed README and of the released files; sequences there are tokens here."""
    folder = ROOT / "notebooks" / "params" / "release"
    pythia, agnews, evaluate = (
        load_yaml(RunConfig, folder / f"{name}.yaml")
        for name in ("collect_pythia", "collect_agnews", "eval_three_modes_example")
    )
    for config in (pythia, agnews, evaluate):
        assert (config.model.name, config.model.layer_index) == ("EleutherAI/pythia-160m-deduped", 8)
        assert (config.dataset.split, config.dataset.seq_len, config.dataset.packing) == ("train", 128, False)
    assert pythia.output_dir == evaluate.output_dir == "outputs/pythia160m_L8" and agnews.output_dir == "outputs"
    assert pythia.dataset == evaluate.dataset and pythia.dataset.text_column == "text"
    assert pythia.dataset.name == "monology/pile-uncopyrighted" and pythia.dataset.max_tokens == 10_000 * 128
    assert agnews.dataset.name == "ag_news" and pythia.seed == evaluate.seed == 42
    assert {name: (entry.name, *entry.roots) for name, entry in evaluate.sae_checkpoints.items()} == {
        "standard": ("standard", "path/to/standard_sae"),
        "topk": ("topk", "path/to/topk_sae"),
        "batch_topk": ("batch_topk", "batch_topk/pythia-160m"),
        "matryoshka_batch_topk": ("matryoshka_batch_topk", "matryoshka_batch_topk/pythia-160m"),
    }
    assert evaluate.eval_modes == MODES
    assert (evaluate.semi_steps, evaluate.non_steps, evaluate.target_dense_semi_non) == (30, 200, 0.1)
    assert (evaluate.metrics.max_tokens, evaluate.metrics.probe_ks) == (50_000, (1, 2, 3, 5))


RELEASED = """
sae_amortization.collect_activations sae_amortization.index_checkpoints sae_amortization.run_exp5
sae_amortization.visualize scripts/run_new_baselines.py scripts/run_semi_step_sweep.py loca_sae.train_pythia160m
loca_sae.convert_multi_to_saebench scripts/run_loc_amt_eval.py
"""


def test_the_page_maps_every_released_command_to_one_that_exists(capsys):
    page = (ROOT / "book" / "from-the-release.md").read_text()
    found = re.findall(r"^\| `python (?:-m )?(\S+).*?` \| `repro ((?:loca )?\w+) ([^`]*)`", page, re.M)
    assert {released for released, _, _ in found} == set(RELEASED.split())
    for _, command, flags in found:
        with pytest.raises(SystemExit) as stop:
            run(*command.split(), "--help")
        told = capsys.readouterr().out
        assert stop.value.code == 0 and all(flag in told for flag in re.findall(r"--[\w-]+", flags))


def test_a_device_map_comes_from_flag_and_file(tmp_path):
    (tmp_path / "c.yaml").write_text('model: {device_map: \'{"": "cpu"}\'}')
    _, config = parse(["collect", "--config", str(tmp_path / "c.yaml")])
    assert config.model.device_map == '{"": "cpu"}'
    _, config = parse(["collect", "--config", str(tmp_path / "c.yaml"), "--model.device-map", "auto"])
    assert config.model.device_map == "auto"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("evall_modes: [amortized]", "did you mean 'eval_modes'"),
        ("dataset: {splitt: test}", "did you mean 'split'"),
        ("sae_checkpoints: {topk: {root: [a]}}", "did you mean 'roots'"),
        ("semi_steps: many", "semi_steps must be int"),
    ],
)
def test_keys_that_do_not_exist_name_the_one_that_does(text, sentence, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        run("collect", "--config", tmp_path / "config.yaml")
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and sentence in error and "\n" not in error


# --- the hub, offline ---------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"gpt_neox": "EleutherAI/pythia-160m-deduped", "gemma2": "google/gemma-2-2b"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """HF_HOME with two models of two blocks, files as links into blobs; beside it a data set with its card."""
    pytest.importorskip("transformers")
    import language_models

    home = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_models, "BLOCKS", 2)
        for family, repo in HUB.items():
            cache = home / "hub" / f"models--{repo.replace('/', '--')}"
            blobs = language_models.save(cache / "blobs", family, bos=family == "gemma2")
            config = blobs / "config.json"
            longer = json.loads(config.read_text()) | {"max_position_embeddings": 128}
            config.write_text(json.dumps(longer))
            (cache / "snapshots" / COMMIT).mkdir(parents=True)
            for blob in blobs.iterdir():
                (cache / "snapshots" / COMMIT / blob.name).symlink_to(Path("../../blobs") / blob.name)
            (cache / "refs").mkdir()
            (cache / "refs" / "main").write_text(COMMIT)
    words = language_models.TEXT.split()
    texts = [" ".join(words[i % 7 :] + words[: i % 5]) for i in range(60)]
    hub_text.save(home / "news", train=texts, test=texts[:20])
    return home


@pytest.mark.parametrize("family", HUB)
def test_hub_ids_offline(family, home, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    import transformers
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = HUB[family]
    config = tmp_path / "config.yaml"
    model = {"name": repo, "layer_index": 0}
    text = {"name": str(home / "news"), "split": "train", "label_column": "label", "seq_len": 32, "max_tokens": 900}
    config.write_text(yaml.safe_dump({"output_dir": str(tmp_path), "model": model, "dataset": text}))
    run("collect", "--config", config)
    about = json.loads((tmp_path / "acts_layer0.json").read_text())
    assert about["model"]["revision"] == COMMIT and about["label_names"] == ["Sports", "World"]
    assert about["model"]["architecture"] == {"gpt_neox": "GPTNeoXForCausalLM", "gemma2": "Gemma2ForCausalLM"}[family]
    folder = home / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = torch.from_numpy(np.load(tmp_path / "tokens_layer0.npy")[:4].astype(np.int64))
    with torch.no_grad():
        x = theirs(tokens, output_hidden_states=True).hidden_states[1].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "acts_layer0.npy")[:4], x, rtol=1e-4, atol=1e-5)

    few = ("--m", 48, "--steps", 4, "--batch-size", 64, "--held-out-tokens", 32)
    run("train", "--acts", tmp_path, "--output-dir", tmp_path / "saes", "--variant", "topk", "--sparsity", 4, *few)
    sae = tmp_path / "saes" / "topk" / "resid_post_layer_0" / "trainer_0"
    results = json.loads((sae / "eval_results.json").read_text())
    assert "loss_note" not in results and results["loss_original"] > 0  # the model itself was found again
    given = ("--model-name", repo, "--layer", 0, "--dataset", home / "news", "--max-tokens", 150, "--out-dir", tmp_path)
    run("compare", *given, "--sae-variant", "topk", "--sae-path", sae, "--semi-steps", 3, "--non-steps", 5)
    name = repo.split("/")[1]
    assert check_modes(tmp_path / f"{name}_topk_3modes.json")["provenance"]["sae"]["lm_name"] == repo


@pytest.mark.slow
def test_hub_by_the_environment_alone(home, tmp_path):
    """A process of its own, which reads HF_HOME; a preset means the hub's model."""
    pytest.importorskip("datasets")
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_DATASETS_CACHE": str(tmp_path / "d")}
    env.pop("HF_HUB_CACHE", None)
    args = ("--model.name", "gemma-2-2b", "--model.layer-index", "1", "--dataset.name", str(home / "news"))
    args += ("--dataset.split", "test", "--dataset.max-tokens", "200", "--output-dir", str(tmp_path / "o"))
    done = subprocess.run([sys.executable, "-m", "repro", "collect", *args], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "o" / "acts_layer1.json").read_text())
    assert about["model"]["revision"] == COMMIT and about["model"]["dtype"] == "bfloat16"
    assert np.load(tmp_path / "o" / "acts_layer1.npy").dtype == np.float32
    assert about["bos_prepended"] and about["model"]["attention"] == "eager"
