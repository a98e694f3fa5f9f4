"""The sharded store: files written by hand, what reads them, the order of rows, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from repro import cli
from repro.activations import rows as rows_module
from repro.activations.integrity import facts
from repro.activations.shards import Shards, create, layout, map_shard
from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.base.files import file_sha256

T, D = 4, 3


def write(folder, counts=(2, 1, 3), key="k", seed=0, labels=True):
    """A sharded store by hand: the library writes the files, and the manifest is spelt out here. Returns its arrays."""
    rng, S = np.random.default_rng(seed), sum(counts)
    lengths = rng.integers(1, T + 1, S)
    mask = np.arange(T) < lengths[:, None]
    docs = np.where(mask, np.arange(S)[:, None] // 2, -1).astype(np.int32)
    x = (rng.standard_normal((S, T, D)) * mask[..., None]).astype(np.float32)
    arrays = {
        "x": x,
        "norms": np.linalg.norm(x, axis=-1).astype(np.float32),
        "tokens": rng.integers(3, 90, (S, T)).astype(np.int32),
        "docs": docs,
        "mask": mask,
    }
    if labels:
        arrays["labels"] = np.where(mask, docs % 2, -1).astype(np.int16)
    folder.mkdir(parents=True)
    files, start = {}, 0
    for i, n in enumerate(counts):
        path = folder / f"shard_{i:05d}.safetensors"
        part = {name: np.ascontiguousarray(a[start : start + n]) for name, a in arrays.items()}
        save_file(part, path, {"store": key, "shard": str(i)})
        files[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path), "sequences": n}
        start += n
    meta = {"key": key, "shape": [S, T, D], "files": files, "special_ids": {}, "documents": int(docs.max()) + 1}
    if labels:
        meta["label_names"] = ["p", "q"]
    (folder / "manifest.json").write_text(json.dumps(meta))
    return arrays


def test_what_is_in_the_shards_is_what_is_read(tmp_path):
    arrays = write(tmp_path / "acts_layer5")
    store = open_store(tmp_path / "acts_layer5", verify=True)
    for role in ("mask", "docs", "tokens", "norms"):
        np.testing.assert_array_equal(getattr(store, role), arrays[role])
    assert store.labels.tolist() == [i % 2 for i in range(store.docs.max() + 1)]
    assert store.labels.dtype == np.int16 and store.label_names == ("p", "q")
    rows = store.select(("pad",))
    real = arrays["x"][arrays["mask"]]
    np.testing.assert_array_equal(torch.cat(list(rows.blocks(5))), real)
    some = np.array([7, 0, 3, 3])
    np.testing.assert_array_equal(rows.read(some), real[some])
    assert rows.read(np.array([], np.int64)).shape == (0, D)
    assert (
        open_store(tmp_path).path
        == open_store(tmp_path / "acts_layer5" / "manifest.json").path
        == tmp_path / "acts_layer5"
    )


def test_the_library_reads_what_create_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = layout(3, 5, 7, labelled=True)
    create(path, arrays, {"store": "k", "shard": "0"})
    written = map_shard(path, "r+")
    for i, a in enumerate(written.values()):
        a[:] = (np.arange(a.size).reshape(a.shape) % 7 > i).astype(a.dtype)
        assert a.ctypes.data % a.itemsize == 0
    del written
    with safe_open(path, "np") as f:
        assert f.metadata() == {"store": "k", "shard": "0"} and set(f.keys()) == set(arrays)
        for i, (name, (_, shape)) in enumerate(arrays.items()):
            got = f.get_tensor(name)
            np.testing.assert_array_equal(got, (np.arange(got.size).reshape(shape) % 7 > i).astype(got.dtype))


@pytest.mark.parametrize("counts, runs_per_window", [((30, 1, 50), 1024), ((30, 1, 50), 2), ((1,) * 40, 1)])
def test_shuffled_rows_are_those_of_one_file_and_memory_is_a_window(tmp_path, monkeypatch, counts, runs_per_window):
    x = write(tmp_path / "s", counts)
    np.save(tmp_path / "x.npy", x["x"])
    rows = open_store(tmp_path / "s").select(("pad",))
    flat = open_store(tmp_path / "x.npy")
    one = rows_module.Rows(flat, rows.index, {})
    monkeypatch.setattr(rows_module, "window_runs", lambda d: runs_per_window)
    asked, real = [], Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, at: (asked.append(at.size), real(self, at))[1])
    size, wanted = 7, 2 * rows.n // 7 + 3
    stream, other = rows.batches(size, seed=1), one.batches(size, seed=1)
    got = [next(stream) for _ in range(wanted)]
    assert all(torch.equal(a, next(other)) for a in got)
    epoch = torch.cat(got)[: rows.n]
    expected = rows.read(slice(None))
    assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, expected.tolist()))
    assert max(asked[:-1]) <= runs_per_window * rows_module.RUN
    for start in (1, wanted // 2, wanted - 1):
        assert torch.equal(next(rows.batches(size, seed=1, start_batch=start)), got[start])


def test_each_file_is_opened_once_a_read(tmp_path, monkeypatch):
    from repro.activations import shards

    write(tmp_path / "s", (3, 3, 3))
    rows = open_store(tmp_path / "s").select(("pad",))
    opened, real = [], shards.map_shard
    monkeypatch.setattr(shards, "map_shard", lambda path, *mode: (opened.append(path), real(path, *mode))[1])
    rows.read(np.random.default_rng(0).permutation(rows.n))
    assert len(opened) == 3


# --- what is refused ------------------------------------------------------------------------------------


def edit(folder, change):
    path = folder / "manifest.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def rename(old, new):
    def change(meta):
        meta["files"] = {new if k == old else k: v for k, v in meta["files"].items()}

    return change


FIRST, SECOND = "shard_00000.safetensors", "shard_00001.safetensors"


def truncated(s, tmp):
    (s / SECOND).write_bytes((s / SECOND).read_bytes()[:-1])


def missing(s, tmp):
    (s / SECOND).unlink()


def no_manifest(s, tmp):
    (s / "manifest.json").unlink()


def bad_manifest(s, tmp):
    (s / "manifest.json").write_text('{"shape": [1,')


def another_manifest(s, tmp):
    shutil.copy(tmp / "other" / "manifest.json", s / "manifest.json")


def foreign(s, tmp):
    shutil.copy(tmp / "other" / SECOND, s / SECOND)


def swapped(s, tmp):
    (s / FIRST).rename(tmp / "x")
    (s / SECOND).rename(s / FIRST)
    (tmp / "x").rename(s / SECOND)


def swapped_and_listed_so(s, tmp):
    swapped(s, tmp)

    def swap(meta):
        f = meta["files"]
        f[FIRST], f[SECOND] = f[SECOND], f[FIRST]

    edit(s, swap)


def link_out(s, tmp):
    (s / FIRST).rename(tmp / "elsewhere")
    (s / FIRST).symlink_to(tmp / "elsewhere")


def header(s, tmp):
    data = (s / FIRST).read_bytes()
    (s / FIRST).write_bytes(b"\xff" * 8 + data[8:])


def offsets(s, tmp):
    data = (s / FIRST).read_bytes()
    (s / FIRST).write_bytes(data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1))


WRONG = {
    truncated: rf"{SECOND} is missing or cut off",
    missing: rf"{SECOND} is missing or cut off",
    no_manifest: "manifest.json is missing in",
    bad_manifest: r"manifest.json is not the provenance",
    another_manifest: rf"{FIRST} is a shard of another store",
    foreign: rf"{SECOND} is a shard of another store",
    swapped: rf"{FIRST} is a shard of another store, or in another's place",
    swapped_and_listed_so: rf"{FIRST} is a shard of another store, or in another's place",
    link_out: rf"{FIRST} is a link that leads out of its folder",
    header: rf"{FIRST} is not a complete safetensors file",
    offsets: rf"{FIRST} is cut off, or its header is wrong",
    lambda s, tmp: edit(s, rename(SECOND, f"../other/{SECOND}")): r"names '\.\./other",
    lambda s, tmp: edit(s, rename(SECOND, str(tmp / "other" / SECOND))): r"names '/",
    lambda s, tmp: edit(s, rename(SECOND, "manifest.json")): "names 'manifest.json', which is no file of this store",
    lambda s, tmp: edit(s, lambda m: m.update(shape=[6, T, D + 1])): rf"{FIRST} has arrays of other shapes",
    lambda s, tmp: edit(s, lambda m: m.update(shape=[7, T, D])): "do not add up to 7 sequences",
    lambda s, tmp: edit(s, lambda m: m.update(shape=[-6, T, D])): "is damaged",
    lambda s, tmp: edit(s, lambda m: m.update(shape="6")): "is damaged",
    lambda s, tmp: edit(s, lambda m: m.update(files=[FIRST])): "is damaged",
    lambda s, tmp: edit(s, lambda m: m["files"][FIRST].update(bytes="1")): "is damaged",
    lambda s, tmp: edit(s, lambda m: m["files"][FIRST].pop("sequences")): "do not add up",
    lambda s, tmp: edit(s, lambda m: m.update(documents=1)): "numbers documents that",
    lambda s, tmp: edit(s, lambda m: m.pop("special_ids")): "no special_ids",
}


@pytest.mark.parametrize("damage", WRONG, ids=lambda f: f.__name__)
def test_damaged_stores_are_refused_in_a_sentence(tmp_path, damage):
    write(tmp_path / "s", (2, 2, 2))
    write(tmp_path / "other", (2, 2, 2), key="q", seed=1)
    open_store(tmp_path / "s", verify=True)
    damage(tmp_path / "s", tmp_path)
    with pytest.raises(BadInput, match=WRONG[damage]) as error:
        open_store(tmp_path / "s")
    assert "\n" not in str(error.value)


def test_a_changed_byte_is_found_by_its_sha256_and_in_a_sampled_place_at_once(tmp_path):
    write(tmp_path / "s")
    path = tmp_path / "s" / SECOND
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    open_store(tmp_path / "s")
    with pytest.raises(BadInput, match=rf"{SECOND} has changed since it was collected"):
        open_store(tmp_path / "s", verify=True)
    edit(tmp_path / "s", lambda m: m["files"][SECOND].update(sample=facts(path)["sample"]))
    open_store(tmp_path / "s")
    data[-70] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{SECOND} is not the file that manifest.json describes"):
        open_store(tmp_path / "s")


# --- what reads it --------------------------------------------------------------------------------------

CLOCK = ("seconds", "ms_per_token")


def repro(*args):
    """Exit status of `repro ARGS`."""
    try:
        cli.main([str(a) for a in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_training_evaluation_compare_and_sweep_take_the_folder(tmp_path):
    """Both forms of the same activations give the same SAE and the same numbers."""
    pd = pytest.importorskip("pandas")
    tables, jsons, weights = [], [], []
    for form in ("shards", "npy"):
        out = tmp_path / form
        x = write_wide(out / "acts_layer2")
        acts = out / "acts_layer2"
        if form == "npy":
            shutil.rmtree(acts)
            acts = out / "acts_layer2.npy"
            np.save(acts, x)
        options = {"acts": acts, "output-dir": out / "saes", "sparsity": 3, "m": 24, "steps": 12, "batch-size": 16}
        options |= {"ce-tokens": 0, "device": "cpu", "variant": "topk", "layer": 2, "model-name": "toy"}
        assert repro("train", *(w for k, v in options.items() for w in (f"--{k}", v))) == 0
        sae = next((out / "saes").rglob("ae.pt"))
        weights.append(torch.load(sae, weights_only=True))
        config = out / "config.yaml"
        config.write_text(
            f"output_dir: {out}\nmodel: {{layer_index: 2}}\nsae_checkpoints: {{a: {{roots: ['{sae}']}}}}\ndevice: cpu\n"
            "metrics: {max_tokens: 100, exclude: [pad], bootstrap: 5}\nprotocol: corrected\neval_modes: [amortized]\n"
        )
        assert repro("index", "--config", config) == repro("evaluate", "--config", config) == 0
        tables.append(pd.read_parquet(out / "metrics.parquet").drop(columns=["path", "seconds", "sha256"]))
        one = ["--sae-path", sae, "--acts", acts, "--out-dir", out, "--model-name", "toy", "--sae-variant", "topk"]
        one += ["--exclude", "pad", "--protocol", "corrected", "--device", "cpu"]
        assert repro("compare", *one) == repro("sweep", *one, "--steps", "1") == 0
        for name in ("toy_topk_3modes.json", "toy_topk_semi_sweep.json"):
            corrected = json.loads((out / name).read_text())["corrected"]
            jsons.append({k: {n: v for n, v in row.items() if n not in CLOCK} for k, row in corrected.items()})
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    pd.testing.assert_frame_equal(*tables)
    assert jsons[:2] == jsons[2:]


def write_wide(folder, counts=(7, 7, 6), T=10, d=16):
    """A store without padding, labels or special tokens, a document a sequence: what a bare .npy is taken for."""
    rng, S = np.random.default_rng(0), sum(counts)
    x = rng.standard_normal((S, T, d)).astype(np.float32)
    folder.mkdir(parents=True)
    files, start = {}, 0
    for i, n in enumerate(counts):
        part = slice(start, start + n)
        arrays = {"x": x[part], "norms": np.linalg.norm(x[part], axis=-1), "tokens": np.full((n, T), 9, np.int32)}
        arrays["docs"] = np.repeat(np.arange(start, start + n, dtype=np.int32)[:, None], T, 1)
        arrays["mask"] = np.ones((n, T), bool)
        path = folder / f"shard_{i:05d}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, {"store": "k", "shard": str(i)})
        files[path.name] = facts(path) | {"sequences": n}
        start += n
    meta = {"key": "k", "shape": [S, T, d], "files": files, "special_ids": {}}
    (folder / "manifest.json").write_text(json.dumps(meta))
    return x
