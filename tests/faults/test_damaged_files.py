"""Files that were cut, flipped, swapped or emptied: every reader refuses them with a sentence that names the file.

Damage that a format cannot notice (a bit within a weight) must leave a readable file; damage that changes nothing that
is read must leave the same numbers. Nothing may end in another exception, and no file may run code.
"""

import gzip
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.activations.store import open_store
from repro.activations.text.documents import documents
from repro.base.config import DatasetConfig, RunConfig, load_yaml
from repro.base.errors import BadInput
from repro.checkpoints import load_sae

FAMILY = "damaged files"
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"


def cut(data, rng):
    return data[: rng.randrange(1, max(2, len(data)))]


def flipped_start(data, rng):
    """One to eight bits within the first 400 bytes: headers."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        out[rng.randrange(min(400, len(out)))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flipped_end(data, rng):
    """One to eight bits within the last 300 bytes: a zip's directory, a parquet's footer."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        out[-rng.randrange(1, min(300, len(out)) + 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


DAMAGE = {
    "empty": lambda data, rng: b"",
    "cut": cut,
    "cut short": lambda data, rng: data[: rng.randrange(1, min(64, len(data)) + 1)],
    "header flipped": flipped_start,
    "end flipped": flipped_end,
    "zeros": lambda data, rng: bytes(len(data)),
    "noise": lambda data, rng: rng.randbytes(len(data)),
    "foreign json": lambda data, rng: b'{"hello": [1, 2, {"x": null}]}',
    "foreign list": lambda data, rng: b"[]",
    "foreign npy": lambda data, rng: npy(np.zeros((2, 3), "<i8")),
    "grown": lambda data, rng: data + rng.randbytes(rng.randrange(1, 50)),
}


def npy(array):
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def damaged(name, data, seed):
    return DAMAGE[name](data, random.Random(f"{name}/{seed}"))


def sentence(error, *names):
    """One line of reasonable length that names the file or its folder."""
    text = str(error)
    assert "\n" not in text and 20 < len(text) < 600, text
    assert any(name in text for name in names), (names, text)
    assert "Traceback" not in text


# --- checkpoints of every format ----------------------------------------------------------------------

EXPECTED = [f for f in GOLDEN.rglob("expected*.npz") if f.parent.name != "checkpoints" and "other_width" not in f.parts]
CHECKPOINTS = sorted({file.parent for file in EXPECTED})
FILES = sorted(
    (folder.relative_to(GOLDEN), file.name)
    for folder in CHECKPOINTS
    for file in folder.iterdir()
    if file.is_file() and not file.name.startswith("expected")
)


@pytest.mark.parametrize("where, name", FILES, ids=[f"{w}/{n}" for w, n in FILES])
def test_checkpoint(where, name, tmp_path, tally):
    x = torch.from_numpy(np.load(GOLDEN / "x.npy"))
    whole = load_sae(GOLDEN / where)
    z = whole.encode(x)
    folder = tmp_path / where
    shutil.copytree(GOLDEN / where, folder)
    data = (folder / name).read_bytes()
    for kind in DAMAGE:
        for seed in range(2):
            (folder / name).write_bytes(damaged(kind, data, seed))
            try:
                found = load_sae(folder)
            except BadInput as error:
                sentence(error, name, folder.name)
                tally.refused()
                continue
            tally.right()
            same_shape = found.W_dec.shape == whole.W_dec.shape
            assert same_shape, f"{kind}: other shapes and no word"
            if kind in ("grown", "empty") or name.endswith(".json"):
                continue  # a config may be absent or say less; the weights are whole
            if kind in ("cut", "cut short", "zeros", "noise", "foreign json", "foreign npy", "foreign list"):
                assert torch.equal(found.encode(x), z), f"{kind} gave other numbers"


# --- activations --------------------------------------------------------------------------------------


def test_activations(store_path, tmp_path, tally):
    source, name_of = store_path.parent, store_path.name
    rows = open_store(store_path).select().take(50).x
    for file in sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file()):
        folder = tmp_path / file.name
        shutil.copytree(source, folder)
        data = (source / file).read_bytes()
        for kind in DAMAGE:
            (folder / file).write_bytes(damaged(kind, data, 0))
            try:
                store = open_store(folder / name_of, verify=True)
            except BadInput as error:
                sentence(error, file.name, folder.name, name_of)
                tally.refused()
                continue
            tally.right()
            assert torch.equal(store.select().take(50).x, rows), f"{file} {kind}: other numbers and no word"


# --- texts, configs, tables ---------------------------------------------------------------------------


def texts(folder):
    import pandas as pd

    frame = pd.DataFrame({"text": [f"document {i} of a few words" for i in range(30)]})
    frame.to_parquet(folder / "a.parquet")
    frame.to_csv(folder / "a.csv", index=False)
    lines = "".join(json.dumps({"text": t}) + "\n" for t in frame["text"])
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "a.txt").write_text("\n".join(frame["text"]))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.jsonl.gz", "a.txt"])
def test_texts(name, tmp_path, tally):
    pytest.importorskip("pandas")
    texts(tmp_path)
    data = (tmp_path / name).read_bytes()
    for kind in DAMAGE:
        for seed in range(3):
            (tmp_path / name).write_bytes(damaged(kind, data, seed))
            try:
                found = list(documents(DatasetConfig(name=str(tmp_path / name))))
            except BadInput as error:
                sentence(error, name, "Row ")
                tally.refused()
                continue
            tally.right()
            assert all(isinstance(d.text, str) and d.text.strip() for d in found)


CONFIG = b"""output_dir: out
model: {name: tiny, layer_index: 2}
dataset:
  name: tiny
  max_tokens: 1000
sae_checkpoints:
  topk: {roots: [a, b]}
eval_modes: [amortized]
"""


@pytest.mark.parametrize("kind", DAMAGE)
def test_config(kind, tmp_path, tally):
    file = tmp_path / "run.yaml"
    for seed in range(6):
        file.write_bytes(damaged(kind, CONFIG, seed))
        try:
            assert isinstance(load_yaml(RunConfig, file), RunConfig)
            tally.right()
        except BadInput as error:
            tally.refused()
            assert "\n" not in str(error) and len(str(error)) > 20


@pytest.mark.parametrize("kind", DAMAGE)
def test_tables(kind, tmp_path, capsys, tally):
    pytest.importorskip("pyarrow")
    import pandas as pd

    from repro.cli import main

    listing = pd.DataFrame({"variant": ["topk"], "path": ["x"], "sha256": ["0"]})
    listing.to_parquet(tmp_path / "checkpoint_index.parquet")
    pd.DataFrame({"variant": ["topk"], "mode": ["semi"], "NMSE": [0.1]}).to_parquet(tmp_path / "metrics.parquet")
    np.save(tmp_path / "acts_layer0.npy", np.ones((40, 4), "float32"))
    for name, command in (("checkpoint_index.parquet", "evaluate"), ("metrics.parquet", "visualize")):
        data = (tmp_path / name).read_bytes()
        for seed in range(2):
            (tmp_path / name).write_bytes(damaged(kind, data, seed))
            try:
                main([command, "--output-dir", str(tmp_path)])
                tally.right()
            except SystemExit as stopped:
                tally.refused()
                assert stopped.code in (1, 2)
                said = capsys.readouterr().err.strip().splitlines()
                assert sum(line.startswith("repro: ") for line in said) == 1 and "Traceback" not in "".join(said)
        (tmp_path / name).write_bytes(data)


# --- notebooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one.ipynb", "params/tiny.yaml"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_notebooks(kind, name, tmp_path, tally):
    nbformat = pytest.importorskip("nbformat")
    from repro.book.runner import plan, record

    cells = [nbformat.v4.new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}, id="first")]
    metadata = {"repro": {"key": "k"}}
    (tmp_path / "params").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "one.ipynb")
    (tmp_path / "params" / "tiny.yaml").write_text("one: {n: 3}\ntwo:\n")
    data = (tmp_path / name).read_bytes()
    for seed in range(4):
        (tmp_path / name).write_bytes(damaged(kind, data, seed))
        assert isinstance(record(tmp_path / "one.ipynb"), dict)
        try:
            plan("one", notebooks_dir=tmp_path)
        except BadInput as error:
            assert "\n" not in str(error) and len(str(error)) > 20
            tally.refused()
            continue
        tally.right()


NEWER = {
    "one.ipynb": b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
    "acts_layer0.npy": b"\x93NUMPY\x09\x00" + b"\x00" * 200,
    "listing.parquet": b"PAR9" + b"\x00" * 100 + b"PAR9",
}


@pytest.mark.parametrize("name", NEWER)
def test_files_of_a_version_that_nobody_knows_yet(name, tmp_path, tally):
    pytest.importorskip("nbformat")
    from repro.book.runner import plan
    from repro.commands.files import read_table

    (tmp_path / name).write_bytes(NEWER[name])
    read = {".ipynb": lambda p: plan("one", notebooks_dir=tmp_path), ".npy": open_store, ".parquet": read_table}
    with pytest.raises(BadInput, match=name.replace(".", r"\.")) as refused:
        read[Path(name).suffix](tmp_path / name)
    assert "\n" not in str(refused.value)
    tally.refused()


FOUND = Path(__file__).parent / "found"


def reader(suffix):
    from repro.book.runner import plan
    from repro.commands.files import read_table

    notebook = lambda path: plan(path.stem, notebooks_dir=path.parent)  # noqa: E731
    return {".npy": open_store, ".parquet": read_table, ".ipynb": notebook}.get(suffix, load_sae)


@pytest.mark.parametrize("name", sorted(p.name for p in FOUND.iterdir()))
def test_what_fuzzing_found(name, tmp_path, tally):
    """Inputs that once ended in a traceback (fuzz.py); the name says what they replace: KIND.FILE.bin."""
    target = tmp_path / name.split(".", 1)[1].removesuffix(".bin")
    shutil.copyfile(FOUND / name, target)
    with pytest.raises(BadInput) as refused:
        reader(target.suffix)(target)
    sentence(refused.value, target.name)
    tally.refused()


def test_how_many():
    checkpoints = len(FILES) * len(DAMAGE) * 2
    assert checkpoints + 5 * len(DAMAGE) * 3 + len(DAMAGE) * (6 + 4) >= 200
