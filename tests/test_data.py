"""The embedded text and language model: what the manifest says, what is held out of what, and that the LM works."""

import gzip
import hashlib
import itertools
import json
import re
import struct
import tomllib
import zlib
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from repro.base.files import repo_root

DATA = repo_root() / "data"
LM = DATA / "tiny/lm"
TRAINING_TEXT = DATA / "cache/tiny/train.jsonl.gz"


@cache
def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def read_json(name):
    return json.loads((LM / name).read_text(encoding="utf-8"))


def general():
    return rows(DATA / "tiny/general.jsonl.gz")


def glosses():
    return rows(DATA / "tiny/glosses.jsonl.gz")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(DATA / "scripts"))


# --- the files ----------------------------------------------------------------------------------------


def test_manifest_is_true_and_complete(scripts):
    from refresh_manifest import refreshed

    text = (DATA / "manifest.toml").read_text(encoding="utf-8")
    manifest = tomllib.loads(text)
    for item in manifest["item"]:
        content = (repo_root() / item["path"]).read_bytes()
        assert len(content) == item["bytes"], item["path"]
        assert hashlib.sha256(content).hexdigest() == item["sha256"], item["path"]
        assert all(item[key] for key in ("what", "licence", "rebuild"))
    there = {p.relative_to(repo_root()).as_posix() for p in (DATA / "tiny").rglob("*") if p.is_file()}
    assert {item["path"] for item in manifest["item"]} == there
    named = {package for item in manifest["item"] for package in item["sources"]}
    assert named == {source["package"] for source in manifest["source"]}
    assert refreshed(text) == text


@pytest.mark.parametrize("name", ["general", "glosses"])
def test_gzip_bytes_depend_on_the_text_alone(name):
    content = (DATA / f"tiny/{name}.jsonl.gz").read_bytes()
    assert content[:4] == b"\x1f\x8b\x08\x00"  # deflate, no flags: no file name
    assert struct.unpack("<I", content[4:8]) == (0,)  # no time
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng packs the same text into other bytes
        assert gzip.compress(gzip.decompress(content), 9, mtime=0) == content


def test_the_model_folder_tells_nothing_of_the_machine():
    for path in LM.glob("*.json"):
        if path.name != "tokenizer.json":
            assert not re.search(r'"(/|~|[A-Z]:\\)', path.read_text(encoding="utf-8")), path.name
    assert sum(p.stat().st_size for p in LM.glob("*.safetensors")) < 8.5e6


# --- the text -----------------------------------------------------------------------------------------


def test_glosses_are_balanced_and_carry_their_origin():
    classes = ("person", "artifact", "location", "animal")
    expected = {(c, split): n for c in classes for split, n in (("train", 1600), ("test", 400))}
    assert Counter((row["label"], row["split"]) for row in glosses()) == expected
    for row in glosses():
        assert row["lexfile"] == f"noun.{row['label']}" and row["pos"] == "noun"
        assert re.fullmatch(r"n\d{8}", row["id"]) and row["word"]
        assert not row["text"].startswith("(")  # "(Roman mythology)" would give the class away
    for key in ("id", "text"):
        assert len({row[key].casefold() for row in glosses()}) == len(glosses())


def test_classes_are_shuffled():
    labels = Counter(row["label"] for row in glosses()[:800])
    assert min(labels.values()) > 150  # 200 each, five standard deviations of 12


def test_general_text():
    assert {row["source"] for row in general()} == {"austen", "bible", "devil", "jargon", "wordnet"}
    assert len({row["id"] for row in general()}) == len(general())
    assert all(row["text"] == row["text"].strip() and row["text"] for row in general())
    sources = [row["source"] for row in general()]
    assert set(sources[:400]) == set(sources[-400:]) == set(sources)  # mixed, so that the first tokens are of all


def numbered(texts, number_of):
    """The words of all texts as numbers, a 0 after each text, and for each the number of its text."""
    ids = [[*(number_of.setdefault(w, len(number_of) + 1) for w in re.findall(r"\w+", t.casefold())), 0] for t in texts]
    flat = np.fromiter((i for row in ids for i in row), np.uint32)
    return flat, np.repeat(np.arange(len(ids)), [len(row) for row in ids])


def runs(flat, n):
    """A hash of the n words from each word on; equal runs of words have equal hashes."""
    hashes = np.zeros(len(flat) - n + 1, np.uint64)
    for k in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + flat[k : k + len(hashes)] * np.uint64(0xC2B2AE3D27D4EB4F)
    return hashes


def shares_known(flat, owner, training, n):
    """For each text, the share of its runs of n words that occur in the training text."""
    within = owner[: len(owner) - n] == owner[n:]  # one more than the run: it must not hold the 0
    owner, hashes = owner[: len(within)][within], runs(flat, n)[: len(within)][within]
    seen = np.sort(runs(training, n))
    known = seen[np.searchsorted(seen, hashes).clip(max=len(seen) - 1)] == hashes  # np.isin takes ten times as long
    return np.bincount(owner, known) / np.bincount(owner).clip(1)


def test_evaluation_text_was_not_trained_on():
    if not TRAINING_TEXT.is_file():
        pytest.skip("needs the LM's training text: data/scripts/build_text.py makes it")
    number_of = {}
    training, _ = numbered([row["text"] for row in rows(TRAINING_TEXT)], number_of)
    shares = shares_known(*numbered([row["text"] for row in general()], number_of), training, 16)
    # The Bible repeats itself: Isaiah 37 is 2 Kings 19 over again, and nothing else comes near it.
    assert shares.mean() < 0.005 and shares.max() < 0.6

    # Looking for 8,000 strings in a long one takes minutes: first those whose every run of five words is known.
    flat, owner = numbered([row["text"] for row in glosses()], number_of)
    assert np.bincount(owner).min() > 5
    suspects = np.flatnonzero(shares_known(flat, owner, training, 5) == 1)
    everything = training.tobytes()
    assert not [i for i in suspects if flat[owner == i][:-1].tobytes() in everything]
    # And it would have been found:
    planted, owner = training[1000:1040], np.zeros(40, int)
    assert planted.tobytes() in everything and shares_known(planted, owner, training, 16) == [1]


# --- the readers, on small examples ---------------------------------------------------------------------


def test_wordnet_line(scripts):
    """The format is that of the manual page wndb(5WN)."""
    from sources import synset

    s = synset('00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is; "an example"; known  ')
    assert (s.id, s.word, s.pos, s.lexfile) == ("n00001740", "entity", "noun", "noun.Tops")
    assert s.definition == "that which is" and s.gloss == 'that which is; "an example"; known'
    assert synset("00006777 00 s 02 cut_up(p) 0 x 0 000 | in pieces").word == "cut up"


def test_r_strings(scripts):
    """An R character vector of two strings, written out by hand from R Internals, section 1.8."""
    from sources import r_strings

    strings = b"".join(struct.pack(">Ii", 0x00040009, len(s)) + s for s in (b"Emma", b""))
    vector = struct.pack(">Ii", 16, 2) + strings
    assert r_strings(b"X\n" + struct.pack(">3i", 2, 0x30600, 0x20300) + vector) == ["Emma", ""]
    version3 = b"X\n" + struct.pack(">3i", 3, 0x30600, 0x30500) + struct.pack(">i", 5) + b"UTF-8"
    assert r_strings(version3 + vector) == ["Emma", ""]
    with pytest.raises(ValueError):
        r_strings(b"X\n" + struct.pack(">3i", 2, 0, 0) + struct.pack(">Ii", 13, 0))  # integers


def test_bible_markup(scripts):
    from sources import osis_text

    osis = '<title>Psalm 1</title><verse><l level="1">God<note>Or, El</note>created</l><l>light , and\u2014</l></verse>'
    assert osis_text(osis) == "God created\nlight, and--"


def test_jargon_entry(scripts):
    from sources import jargon_entry

    entry = "hack up\n /hak/, vt.\n\n    1. To do a quick job; see {\n    kluge}.\n\n    2. “To do it well.”"
    assert jargon_entry(entry) == 'hack up (vt): 1. To do a quick job; see kluge.\n2. "To do it well."'


def test_cutting_loses_nothing(scripts):
    from build_text import DOCUMENT, Unit, documents, gather, strip_domain

    text = "\n".join(f"Sentence {i} of Mr. Smith's. It has two parts!" for i in range(200))
    cut = documents(Unit("austen/Emma/1", "austen", text))
    assert " ".join(" ".join(d["text"] for d in cut).split()) == " ".join(text.split())
    assert [d["id"] for d in cut] == [f"austen/Emma/1#{i}" for i in range(len(cut))]
    assert all(0.8 * DOCUMENT < len(d["text"]) < 1.2 * DOCUMENT for d in cut)
    assert not any(d["text"].endswith("Mr.") for d in cut)
    entries = [f"entry {i} " * 30 for i in range(50)]
    assert "\n".join(gather(entries)) == "\n".join(entries)
    assert strip_domain("(Roman mythology) (rare) a god (of war)") == "a god (of war)"


def test_both_translations_of_a_chapter_go_the_same_way(scripts):
    from build_text import Unit, side

    names = [f"bible/Gen.{i}" for i in range(2000)]
    sides = [{side(Unit(name, source, "")) for source in ("bible", "kjv")} for name in names]
    assert all(s in ({"train"}, {"validation"}, {"general", "unused"}) for s in sides)
    share = sum("general" in s for s in sides) / 2000
    assert abs(share - 0.22) < 5 * (0.22 * 0.78 / 2000) ** 0.5


def test_training_windows_tile_each_epoch(scripts):
    from train_tiny_lm import window_starts

    starts = window_starts(1000, 100, 25, seed=0).tolist()
    for epoch in (starts[:9], starts[9:18]):
        assert len(set(epoch)) == 9 and {(b - a) % 100 for a, b in itertools.pairwise(epoch)} == {0}
    assert max(starts) + 100 < 1000
    assert starts == window_starts(1000, 100, 25, seed=0).tolist()


# --- the language model ---------------------------------------------------------------------------------


@cache
def language_model():
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(LM, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(LM, local_files_only=True, output_loading_info=True)
    return tokenizer, *model


def test_model_loads_with_nothing_missing():
    tokenizer, model, info = language_model()
    assert type(model).__name__ == "GPTNeoXForCausalLM" and model.dtype == torch.float32
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert sum(p.numel() for p in model.parameters()) == read_json("training.json")["parameters"]
    assert len(tokenizer) == model.config.vocab_size == 4096
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == tokenizer.eos_token_id == 0


def test_tokenizer_keeps_the_text():
    tokenizer, _, _ = language_model()
    for text in [*(row["text"] for row in general()[:30]), " two  spaces\n\tand \u00e9\u4e2d\U0001f600 bytes"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]  # as Pythia's: no BOS


@torch.no_grad()
def mean_loss(texts):
    """Nats a token over whole windows of 256 tokens of the texts end to end, the end token before each text."""
    tokenizer, model, _ = language_model()
    ids = torch.tensor([i for text in texts for i in (0, *tokenizer(text)["input_ids"])])
    windows = ids[: len(ids) // 256 * 256].view(-1, 256)
    return np.average(
        [model(input_ids=w, labels=w).loss.item() for w in windows.split(16)],
        weights=[len(w) for w in windows.split(16)],
    )


def test_model_predicts_text_it_has_not_seen():
    texts = [row["text"] for row in general()[:20]]
    loss = mean_loss(texts)
    assert loss < 3.4  # 3.18 when it was trained; guessing tokens evenly costs log 4096 = 8.3
    words = " ".join(texts).split()
    shuffled = [" ".join(words[i] for i in np.random.default_rng(0).permutation(len(words)))]
    assert mean_loss(shuffled) > loss + 1  # it reads context, not only frequencies


def test_stated_perplexity_is_the_models():
    stated = read_json("training.json")["general"]["devil"]
    texts = [row["text"] for row in general() if row["source"] == "devil"]
    assert len(texts) == stated["documents"]
    assert mean_loss(texts) == pytest.approx(stated["loss"], abs=0.02)  # stated: in bfloat16, windows of 257 tokens


def test_readme_quotes_the_files():
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    training, description = read_json("training.json"), read_json("description.json")
    for source, row in training["general"].items():
        line = f"| {source} | {row['documents']:,} | {row['tokens']:,} | {row['perplexity']:.1f} |"
        assert f"{line} {row['bits_per_character']:.2f} |" in readme, source
    assert f"{training['validation']['all']['perplexity']:.1f}" in readme
    for key in ("test_accuracy", "random_weights_test_accuracy", "tfidf_test_accuracy"):
        assert f"{description['probe'][key]:.2f}" in readme
    for key in ("norm_median", "norm_max", "norm_median_at_position_0", "effective_rank"):
        assert f"{description['residual'][key]:.0f}" in readme
    assert f"{description['glosses']['words_in_both_splits']} words" in readme
