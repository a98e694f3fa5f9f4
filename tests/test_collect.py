"""Collection: packing, padding, what is on disk, and that a killed run ends in the same bytes."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import random
import threading

import language_models
import numpy as np
import pytest
import torch

from repro import bench
from repro.activations import collect as collect_module
from repro.activations import forward as forward_module
from repro.activations.collect import collect, collect_texts
from repro.activations.language_models.load import as_loaded, load_model
from repro.activations.store import open_store
from repro.activations.text.documents import Document
from repro.activations.tokenise import Count, encode_long, sequences
from repro.base.config import DatasetConfig, ModelConfig, RunConfig
from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.base.lock import only_one

pytest.importorskip("transformers")
WORDS = language_models.TEXT.split()
TEXTS = [" ".join(WORDS[i % 7 :][: 1 + (5 * i) % 17]) for i in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t, "topic": "xyz"[len(t) % 3]}) + "\n" for t in TEXTS))
    return path


@pytest.fixture
def config(lm, corpus, tmp_path):
    return RunConfig(
        output_dir=str(tmp_path / "out"),
        model=ModelConfig(name=str(lm), layer_index=1),
        dataset=DatasetConfig(name=str(corpus), max_tokens=400, seq_len=16, batch_size=4),
        device="cpu",
    )


def changed(config, **options):
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **options))


def digests(path):
    """Of the arrays of the store at `path`, which is returned by `collect`."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.parent.glob("*.npy")}


def manifest(path):
    """The manifest without what depends on the clock."""
    meta = dict(open_store(path, verify=True).meta)
    assert meta.pop("seconds") > 0 and meta.pop("tokens_per_second") > 0
    return meta


# --- tokens -------------------------------------------------------------------------------------------


def rows_of(texts, seq_len, packing, max_tokens=10**6, bos=False):
    loaded = as_loaded(language_models.model("llama"), language_models.tokenizer(bos), 0)
    count = Count()
    docs = (Document(t, None, i) for i, t in enumerate(texts))
    rows = list(sequences(loaded, docs, seq_len, packing, max_tokens, count))
    encode = [loaded.tokenizer(t, add_special_tokens=False).input_ids for t in texts]
    return [(ids.tolist(), of.tolist()) for ids, of, _ in rows], count, encode


@pytest.mark.parametrize("seq_len", [1, 3, 16, 1000])
def test_packing_joins_documents_with_eos(seq_len):
    rows, count, encoded = rows_of(TEXTS, seq_len, packing=True)
    stream = [t for ids in encoded for t in [*ids, 0]]
    owner = [i for i, ids in enumerate(encoded) for _ in [*ids, 0]]
    assert [t for ids, _ in rows for t in ids] == stream and [o for _, of in rows for o in of] == owner
    assert all(len(ids) == seq_len for ids, _ in rows[:-1])
    assert dataclasses.astuple(count) == (60, 0, len(stream), 59, True)


def test_packing_with_bos_puts_it_in_front_of_every_sequence():
    rows, count, encoded = rows_of(TEXTS, 16, packing=True, bos=True)
    stream = [t for ids in encoded for t in [*ids, 0]]
    assert all(ids[0] == 1 and of[0] == of[1] for ids, of in rows)
    assert [t for ids, _ in rows for t in ids[1:]] == stream
    assert count.tokens == len(stream) + len(rows)


@pytest.mark.parametrize("bos", [False, True])
def test_one_document_a_sequence(bos):
    rows, count, encoded = rows_of(["", *TEXTS], 16, packing=False, bos=bos)
    front = [1] if bos else []
    assert [ids for ids, _ in rows] == [(front + ids)[:16] for ids in encoded if ids]
    assert [of for _, of in rows] == [[i] * len(ids) for i, (ids, _) in enumerate(rows)]
    assert count.truncated == sum(len(front + ids) > 16 for ids in encoded) > 0


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 15, 16, 17, 200])
def test_exactly_as_many_tokens_as_asked(packing, max_tokens):
    rows, count, _ = rows_of(TEXTS, 16, packing, max_tokens)
    everything = rows_of(TEXTS, 16, packing)[0]
    assert sum(len(ids) for ids, _ in rows) == count.tokens == max_tokens and not count.exhausted
    assert [t for ids, _ in rows for t in ids] == [t for ids, _ in everything for t in ids][:max_tokens]
    assert count.documents == rows[-1][1][-1] + 1 == count.last_row + 1


@pytest.mark.parametrize("packing, wanted", [(True, 40), (False, 40), (True, 3), (True, 700)])
def test_hardly_more_documents_are_tokenised_than_it_takes(packing, wanted):
    loaded = as_loaded(language_models.model("llama"), language_models.tokenizer(), 0)
    real, asked = loaded.tokenizer, []

    def counting(texts, **options):
        asked.append(len(texts))
        return real(texts, **options)

    loaded.tokenizer = counting
    docs = (Document(language_models.TEXT, None, i) for i in range(2000))
    each = len(real(language_models.TEXT).input_ids) + 1 if packing else 5
    count = Count()
    list(sequences(loaded, docs, 5, packing, wanted * each, count))
    assert count.documents == wanted and wanted <= sum(asked) <= max(8, 1.05 * wanted + 8) and max(asked) <= 256


@pytest.mark.parametrize("packing", [True, False])
def test_text_that_begins_with_bos_gets_no_second_one(packing):
    """In the middle of a packed row it stays; elsewhere the row is the one of the same text without it."""
    with pytest.warns(UserWarning, match="begins with BOS itself gets no second one"):
        rows, count, _ = rows_of(["<bos>" + TEXTS[16], TEXTS[3]], 8, packing, bos=True)
    plain_rows, plain_count, _ = rows_of([TEXTS[16], TEXTS[3]], 8, packing, bos=True)
    assert (rows, count) == (plain_rows, plain_count)
    assert all(ids[0] == 1 and 1 not in ids[1:] for ids, _ in rows)
    rows, _, encoded = rows_of(["the", "<bos>" + TEXTS[3]], 64, True, bos=True)
    assert rows[0][0] == [1, *encoded[0], 0, 1, *encoded[1][1:], 0]


def spaced_bpe():
    """As Gemma's: no words, so that a whole text is one run of merges; bytes stand for unknown characters."""
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    raw = t.Tokenizer(t.models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = t.normalizers.Sequence([t.normalizers.Prepend("\u2581"), t.normalizers.Replace(" ", "\u2581")])
    special = ["<eos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = t.trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    raw.train_from_iterator([language_models.TEXT, "x" * 40] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")


def thirds_bpe():
    """As Llama 3's: runs of digits are cut by threes, counted from their first."""
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    raw = t.Tokenizer(t.models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    words = t.pre_tokenizers.Split(t.Regex(pattern), "isolated")
    raw.pre_tokenizer = t.pre_tokenizers.Sequence([words, t.pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = t.pre_tokenizers.ByteLevel.alphabet()
    trainer = t.trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([language_models.TEXT, "1234567890 " * 9] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def bundled():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(repo_root() / "data" / "tiny" / "lm")


@functools.cache
def with_wholes(make):
    """A tokenizer, and texts with their tokens."""
    draw = random.Random(0).choices
    tokenizer = make()
    texts = [
        " ".join(draw(WORDS, k=5000)),
        "".join(draw("abcdefgh", k=20_000)),
        "x" * 20_000,
        "a" + " " * 20_000 + "b",
        "a" + " " * 9000 + "\n" * 9000 + " " * 2001 + "b",
        "".join(draw("0123456789", k=20_000)),
        "\u4e2d\u6587\U0001f600" * 5000,
        "e" + "\u0301" * 9000,
        "<eos>" * 3000,
        "".join(draw("ab \n\t\u00e9e\u0301\u4e2d\U0001f600'sdon.12\0", k=20_000)),
        "",
    ]
    return tokenizer, [(t, tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"]) for t in texts]


@pytest.mark.parametrize("piece, overlap", [(2000, 256), (1999, 128), (8191, 1024)])
@pytest.mark.parametrize("make", [bundled, language_models.tokenizer, spaced_bpe, thirds_bpe])
def test_pieces_have_the_tokens_of_the_whole(make, piece, overlap):
    tokenizer, wholes = with_wholes(make)
    for text, whole in wholes:
        assert encode_long(tokenizer, text, 10**9, piece, overlap).tolist() == whole
        first = encode_long(tokenizer, text, 500, piece, overlap).tolist()
        assert first == whole[: len(first)] and len(first) >= min(501, len(whole))


def test_a_long_document_is_tokenised_no_further_than_needed():
    loaded = as_loaded(language_models.model("llama"), language_models.tokenizer(), 0)
    real, characters = loaded.tokenizer, []

    class Counting:
        is_fast = True

        def __call__(self, text, **options):
            characters.append(len(text) if isinstance(text, str) else sum(map(len, text)))
            return real(text, **options)

    loaded.tokenizer = Counting()
    text = language_models.TEXT * 30_000
    for packing in (True, False):
        characters.clear()
        count = Count()
        docs = (Document(t, None, i) for i, t in enumerate([text, "a b", text, text]))
        rows = list(sequences(loaded, docs, 64, packing, 100, count))
        assert sum(characters) < 2**21 < len(text) and count.tokens == 100
        ids = real(text[:2000], add_special_tokens=False)["input_ids"]
        assert rows[0][0].tolist() == ids[:64] and count.truncated == (0 if packing else 2)


def test_tokenizer_of_another_model_is_noticed():
    loaded = as_loaded(language_models.model("llama"), language_models.tokenizer(), 0)
    loaded.model.resize_token_embeddings(20)
    with pytest.raises(BadInput, match="tokenizer of another model"):
        list(sequences(loaded, [Document("zzz", None, 0)], 8, True, 99, Count()))
    with pytest.raises(BadInput, match="seq_len must be at least"):
        list(sequences(loaded, [Document("zzz", None, 0)], 0, True, 99, Count()))


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", language_models.FAMILIES)
def test_what_is_on_disk_is_what_transformers_computes(tmp_path, corpus, family, packing):
    folder = language_models.save(tmp_path / "lm", family, bos=family == "llama")
    path = collect(
        RunConfig(
            output_dir=str(tmp_path / "out"),
            model=ModelConfig(name=str(folder), layer_index=1),
            dataset=DatasetConfig(
                name=str(corpus), max_tokens=300, seq_len=16, batch_size=3, packing=packing, label_column="topic"
            ),
            device="cpu",
        )
    )
    store = open_store(path, verify=True)
    assert path.name == "acts_layer1.npy" and store.x.dtype == np.float32 and store.d == 32
    assert store.mask.sum() == 300 == store.meta["tokens"]
    model = load_model(ModelConfig(name=str(folder), layer_index=1), "cpu").model
    for s in range(len(store.x)):
        n = store.mask[s].sum()
        with torch.no_grad():
            theirs = model(torch.tensor(store.tokens[s : s + 1, :n]).long(), output_hidden_states=True).hidden_states[
                2
            ][0]
        torch.testing.assert_close(torch.tensor(store.x[s, :n]), theirs, rtol=1e-5, atol=1e-6)
        assert store.mask[s, :n].all() and not store.mask[s, n:].any()
        assert not store.x[s, n:].any() and (store.docs[s, n:] == -1).all() and (store.tokens[s, n:] == 2).all()
    np.testing.assert_allclose(store.norms, np.linalg.norm(store.x, axis=-1), rtol=1e-5)
    assert store.label_names == ("x", "y", "z") and len(store.labels) == store.docs.max() + 1 == store.meta["documents"]
    assert [store.label_names[i] for i in store.labels] == ["xyz"[len(t) % 3] for t in TEXTS[: len(store.labels)]]
    assert store.meta["special_ids"] == {"bos": [1], "eos": [0], "pad": [2]}
    kept = store.select()
    flat = store.tokens.reshape(-1)[kept.index]
    assert kept.n > 0 and not set(flat.tolist()) & {0, 1} and (kept.index % 16).min() > 0
    assert not list((tmp_path / "out").glob(".*"))


def test_released_convention_reads_the_block_before(config):
    here = open_store(collect(config)).x.copy()
    other = dataclasses.replace(
        config,
        output_dir=config.output_dir + "2",
        model=dataclasses.replace(config.model, layer_index=2, layer_convention="hidden_states"),
    )
    released = open_store(collect(other))
    np.testing.assert_array_equal(released.x, here)
    assert released.meta["site"] == "resid_pre" and released.path.name == "acts_layer2.npy"


def test_a_second_call_does_nothing_and_other_options_replace(config, capsys, monkeypatch):
    first = collect(config)
    before, stamp = digests(first), first.stat().st_mtime_ns
    with monkeypatch.context() as m:
        m.setattr(collect_module, "load_model", lambda *_: pytest.fail("the model was loaded"))
        assert collect(config) == first
        assert "there already" in capsys.readouterr().err
        assert collect(config, quiet=True) == first and not capsys.readouterr().err
    assert first.stat().st_mtime_ns == stamp
    labelled = changed(config, label_column="topic")
    collect(labelled)
    assert "is replaced" in capsys.readouterr().err and open_store(first).labels is not None
    collect(config)
    assert open_store(first).labels is None and digests(first) == before  # no label file is left behind
    first.write_bytes(first.read_bytes()[:-8])
    collect(config)
    assert "not a complete .npy file" in capsys.readouterr().err and digests(first) == before


def test_where_the_weights_are_does_not_matter(config, capsys):
    pytest.importorskip("accelerate")
    first = collect(config)
    placed = dataclasses.replace(config, model=dataclasses.replace(config.model, device_map="cpu"))
    assert collect(placed) == first and "there already" in capsys.readouterr().err
    again = collect(dataclasses.replace(placed, output_dir=config.output_dir + "2"))
    assert digests(again) == digests(first)
    model = open_store(again).meta["model"]
    assert model["device_map"] == {"": "cpu"} and (model["blocks"], model["blocks_loaded"]) == (3, 2)


def test_text_that_ends_early_is_said(config):
    store = open_store(collect(changed(config, max_tokens=10**6)))
    assert store.meta["text_exhausted"] and store.meta["next_document"] == 60 == store.meta["documents"]
    shorter = open_store(collect(config))
    assert not shorter.meta["text_exhausted"]
    skip = shorter.meta["next_document"]
    rest = open_store(collect(changed(config, skip_documents=skip, max_tokens=50)))
    first = load_model(config.model, "cpu").tokenizer(TEXTS[skip]).input_ids
    assert rest.tokens.reshape(-1)[: len(first)].tolist() == first


def test_batches_hold_sequences_of_like_lengths():
    lengths = np.random.default_rng(0).integers(1, 17, 50)
    batches = forward_module.plan(np.arange(16) < lengths[:, None], 8)
    assert sorted(np.concatenate(batches).tolist()) == list(range(50)) and [len(b) for b in batches] == [8] * 6 + [2]
    longest, shortest = (np.array([f(lengths[b]) for b in batches]) for f in (np.max, np.min))
    assert (shortest[:-1] >= longest[1:]).all()


def test_a_batch_is_written_while_the_next_is_computed(config, monkeypatch):
    """The first one is not put in its place before the model has begun the second."""
    begun, put, forward = threading.Event(), forward_module.put, forward_module.forward
    calls = []

    def watched(*args):
        calls.append(1)
        if len(calls) == 2:
            begun.set()
        return forward(*args)

    monkeypatch.setattr(collect_module, "forward", watched)
    monkeypatch.setattr(collect_module, "put", lambda *args: (begun.wait(60) or pytest.fail("waited"), put(*args))[1])
    collect(config)
    assert len(calls) > 2


class Killed(BaseException):
    pass


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("where", ["forward", "put"])
def test_resumed_files_are_the_same_bytes(config, monkeypatch, packing, when, where):
    config = changed(config, packing=packing)
    undisturbed = collect(dataclasses.replace(config, output_dir=config.output_dir + "_whole"))
    whole = digests(undisturbed)
    real, calls = getattr(forward_module, where), []

    def dying(loaded, *args):
        calls.append(1)
        if len(calls) > when:
            if where == "put":  # half a batch is on disk when the run dies
                batch, _, _, x, norms = args
                x[batch[0]] = norms[batch[0]] = np.nan
            raise Killed
        return real(loaded, *args)

    monkeypatch.setattr(collect_module, where, dying)
    with pytest.raises(Killed):
        collect(config)
    out = collect_module.Path(config.output_dir)
    assert [p.name for p in out.iterdir()] == [".acts_layer1.draft"]
    ran = []
    monkeypatch.setattr(collect_module, where, lambda *args: (ran.append(1), real(*args))[1])
    assert digests(collect(config)) == whole
    assert manifest(collect(config)) == manifest(undisturbed)
    batches = -(-len(open_store(undisturbed).mask) // 4)
    assert batches - when <= len(ran) <= batches - when + 1  # the last batch before the kill may be lost


@pytest.mark.parametrize("renamed", range(7))
def test_killed_while_files_get_their_names(config, monkeypatch, renamed):
    collect(changed(config, max_tokens=100, label_column="topic"))  # something older is replaced
    whole = digests(collect(dataclasses.replace(config, output_dir=config.output_dir + "_whole")))
    real, calls = os.replace, []

    def dying(source, target):
        if collect_module.PROGRESS not in str(target) and ".draft" not in str(target):
            calls.append(1)
            if len(calls) > renamed:
                raise Killed
        real(source, target)

    acts = collect_module.Path(config.output_dir) / "acts_layer1.npy"
    with monkeypatch.context() as m:
        m.setattr(os, "replace", dying)
        if renamed < 6:
            with pytest.raises(Killed):
                collect(config)
            with pytest.raises(BadInput, match=r"json is missing beside"):
                open_store(acts)
        else:
            collect(config)
    assert digests(collect(config)) == whole
    open_store(acts, verify=True)


def test_two_runs_at_once(config):
    folder = collect_module.Path(config.output_dir) / ".acts_layer1.draft"
    with only_one(folder, "repro collect"), pytest.raises(BadInput, match=r"Another `repro collect`"):
        collect(config)
    collect(config)


# --- the manifest ---------------------------------------------------------------------------------------


def test_mean_scale_and_norms_are_those_of_the_real_tokens(config):
    store = open_store(collect(changed(config, packing=False)))
    x, norms = store.x[store.mask].astype(np.float64), store.norms[store.mask]
    np.testing.assert_allclose(store.meta["mean"], x.mean(0), rtol=1e-12, atol=1e-14)
    assert store.meta["scale"] == pytest.approx(np.sqrt((x**2).sum(1).mean()), rel=1e-12)
    described = store.meta["norms"]
    assert described["median"] == float(np.median(norms)) and described["max"] == float(norms.max())
    assert described["share_above_5_medians"] == (norms > 5 * np.median(norms)).mean()
    assert described["median_at_position_0"] == float(np.median(store.norms[:, 0]))


def test_a_damaged_store_is_found_by_verify_and_collected_again(config, capsys):
    path = collect(changed(config, max_tokens=4000))
    whole = digests(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 9] ^= 1
    path.write_bytes(data)
    collect(dataclasses.replace(changed(config, max_tokens=4000), verify=True))
    assert "acts_layer1.npy has changed" in capsys.readouterr().err and digests(path) == whole
    path.with_suffix(".mask.npy").unlink()
    collect(changed(config, max_tokens=4000))
    assert "acts_layer1.mask.npy is missing" in capsys.readouterr().err and digests(path) == whole


# --- what is wrong --------------------------------------------------------------------------------------


def test_nan_activations_name_the_fix(config, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = language_models.save(tmp_path / "broken", "gpt_neox")
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.bias"][3] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for dtype, fix in [("bfloat16", r"set model\.dtype: float32"), ("float32", "the weights are damaged")]:
        model = ModelConfig(name=str(folder), layer_index=1, dtype=dtype)
        with pytest.raises(BadInput, match=f"NaN or infinite activations in {dtype}: {fix}"):
            collect(dataclasses.replace(config, model=model))
    assert not list(collect_module.Path(config.output_dir).glob("*.npy"))
    collect(dataclasses.replace(config, model=dataclasses.replace(model, layer_index=0)))  # block 0 is fine


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"seq_len": 65}, "more than the 64 positions"),
        ({"max_tokens": 0}, "at least 1"),
        ({"skip_documents": -1}, "at least 0"),
        ({"skip_documents": 60}, "holds no text"),
        ({"split": "test"}, "without splits"),
        ({"text_column": "body"}, "no column 'body'"),
        ({"name": "/no/such.txt"}, "No text at"),
    ],
)
def test_bad_options_leave_nothing(config, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        collect(changed(config, **options))
    out = collect_module.Path(config.output_dir)
    assert not out.exists() or not list(out.iterdir())


def test_full_disk_is_said_before_the_work(config, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BadInput, match=r"no room for \(No space left on device\)"):
        collect(config)
    assert not list(collect_module.Path(config.output_dir).iterdir())


def test_output_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another output_dir"):
        collect(dataclasses.replace(config, output_dir=str(tmp_path / "file" / "out")))


# --- in memory ------------------------------------------------------------------------------------------


def test_texts_in_memory_equal_the_files(config):
    stored = open_store(collect(changed(config, packing=False)))
    loaded = load_model(config.model, "cpu")
    held = collect_texts(loaded, TEXTS[: stored.meta["documents"]], seq_len=16, batch_size=4, max_tokens=400)
    np.testing.assert_array_equal(held.docs, stored.docs)
    np.testing.assert_array_equal(held.x, stored.x)
    assert held.select().n == stored.select().n
    with pytest.raises(BadInput, match="no text"):
        collect_texts(loaded, [])


def test_bench_rows(lm, corpus, tmp_path):
    """Rows against the bare pass, and of a longer collection. Nothing is judged by its time."""
    options = {"model": lm, "layer": 1, "dataset": corpus, "tokens": 200, "rounds": 2, "seq-len": 16, "batch-size": 4}
    options |= {"longer": 2, "out": tmp_path}
    path = bench.run(["collect", *(str(w) for k, v in options.items() for w in (f"--{k}", v))])
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["tokens"], r["rounds"]) for r in rows] == [("200", "2"), ("400", "1")]
    for ratio in ("ratio_to_bare", "cpu_ratio_to_bare"):
        assert float(rows[0][ratio]) > 0 and rows[1][ratio] == ""
    assert rows[0]["d"] == "32" and rows[0]["dtype"] == "float32" and rows[0]["device"] and rows[0]["date"]
