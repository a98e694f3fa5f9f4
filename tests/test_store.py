"""The activation store: what counts as a token, integrity, and the order in which rows are read."""

import json

import numpy as np
import pytest
import torch

from repro.activations import rows as rows_module
from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.base.files import file_sha256

# Two sequences of four positions: BOS a b EOS | BOS c pad pad; token ids 1 = BOS, 2 = EOS, 0 = pad.
TOKENS = np.array([[1, 7, 8, 2], [1, 9, 0, 0]], np.int32)
DOCS = np.array([[0, 0, 0, 0], [1, 1, -1, -1]], np.int32)


def write(folder, tokens=TOKENS, docs=DOCS, d=3, labels=None):
    """A collected file written by hand, independent of collect.py."""
    x = np.arange(tokens.size * d, dtype=np.float32).reshape(*tokens.shape, d) + 1
    arrays = {
        "acts_layer5.npy": x,
        "acts_layer5.mask.npy": docs >= 0,
        "tokens_layer5.npy": tokens,
        "acts_layer5.docs.npy": docs,
        "acts_layer5.norms.npy": np.linalg.norm(x, axis=-1).astype(np.float32),
    }
    if labels is not None:
        arrays["acts_layer5.labels.npy"] = np.array(labels, np.int16)
    files = {}
    for name, a in arrays.items():
        np.save(folder / name, a)
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    meta = {"shape": list(x.shape), "files": files, "special_ids": {"bos": [1], "eos": [2]}, "label_names": ["p", "q"]}
    (folder / "acts_layer5.json").write_text(json.dumps(meta))
    return x


@pytest.mark.parametrize(
    "exclude, kept",
    [
        ((), [0, 1, 2, 3, 4, 5, 6, 7]),
        (("pad",), [0, 1, 2, 3, 4, 5]),
        (("pad", "eos"), [0, 1, 2, 4, 5]),
        (("pad", "bos"), [1, 2, 3, 5]),
        (("first", "pad"), [1, 2, 3, 5]),
        (("pad", "bos", "eos", "first"), [1, 2, 5]),
    ],
)
def test_excluded_positions(tmp_path, exclude, kept):
    x = write(tmp_path)
    rows = open_store(tmp_path).select(exclude)
    assert rows.index.tolist() == kept and rows.n == len(kept)
    np.testing.assert_array_equal(torch.cat(list(rows.blocks(2))), x.reshape(-1, 3)[kept])
    assert rows.docs.tolist() == DOCS.reshape(-1)[kept].tolist()
    described = rows.describe()
    assert described["kept"] + sum(described["dropped"].values()) == 8 and described["ignored"] == []
    norms = np.linalg.norm(x.reshape(-1, 3)[kept], axis=1)
    assert described["norm_median"] == pytest.approx(np.median(norms)) and described["norm_max"] == pytest.approx(
        max(norms)
    )


def test_pad_is_what_the_mask_says_even_if_its_id_is_eos(tmp_path):
    write(tmp_path, tokens=np.array([[1, 7, 8, 2], [1, 9, 2, 2]], np.int32))
    described = open_store(tmp_path).select(("pad", "eos")).describe()
    assert described["dropped"] == {"pad": 2, "eos": 1}


def test_norm_ratio_is_against_the_median_of_the_kept_tokens(tmp_path):
    x = np.ones((100, 4), np.float32)
    x[:40] *= 0.001  # the median stays 2
    x[7] *= 1e6  # row 7 has norm 2000
    np.save(tmp_path / "a.npy", x)
    rows = open_store(tmp_path / "a.npy").select(max_norm_ratio=5.0)
    assert rows.n == 99 and 7 not in rows.index and rows.describe()["dropped"] == {"pad": 0, "norm": 1}
    write(tmp_path)  # a collected file: its norms come from the file beside it
    rows = open_store(tmp_path / "acts_layer5.npy").select(("pad",), max_norm_ratio=1.5)
    norms = np.linalg.norm(np.load(tmp_path / "acts_layer5.npy").reshape(-1, 3)[:6], axis=1)
    assert rows.index.tolist() == np.flatnonzero(norms <= 1.5 * np.median(norms)).tolist()


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bare_files_open_and_say_what_they_cannot_exclude(tmp_path, shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.save(tmp_path / "mine.npy", x)
    store = open_store(tmp_path / "mine.npy")
    rows = store.select()
    assert store.d == 3 and store.tokens is None and store.labels is None
    if len(shape) == 2:
        assert rows.n == 5 and rows.describe()["ignored"] == ["bos", "eos", "first"]
        assert rows.docs.tolist() == [0, 1, 2, 3, 4]
    else:
        assert rows.n == 6 and rows.describe()["ignored"] == ["bos", "eos"]
        assert rows.docs.tolist() == [0, 0, 0, 1, 1, 1]
    batch = rows.take(99)
    assert batch.x.dtype == torch.float32 and batch.x.shape == (rows.n, 3)
    np.testing.assert_array_equal(batch.x, x.reshape(-1, 3)[batch.index].astype(np.float32))


def bare(tmp_path, n, d=2):
    np.save(tmp_path / "n.npy", np.repeat(np.arange(n, dtype=np.float32)[:, None], d, 1))
    return open_store(tmp_path / "n.npy").select()


@pytest.mark.parametrize("n, runs_per_window", [(1, 1024), (63, 1024), (1000, 1024), (1000, 3), (640, 10), (641, 3)])
def test_batches_hold_each_row_once_an_epoch_and_resume(tmp_path, monkeypatch, n, runs_per_window):
    rows = bare(tmp_path, n)
    monkeypatch.setattr(rows_module, "window_runs", lambda d: runs_per_window)
    size, wanted = 7, 3 * n // 7 + 2
    stream = rows.batches(size, seed=1)
    got = torch.stack([next(stream)[:, 0] for _ in range(wanted)])
    sequence = got.reshape(-1).long()
    for epoch in range(3):
        assert sorted(sequence[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    if n > 10:
        assert sequence[:n].tolist() != list(range(n)) and sequence[:n].tolist() != sequence[n : 2 * n].tolist()
    for start in {0, 1, wanted // 2, wanted - 1}:
        assert torch.equal(next(rows.batches(size, seed=1, start_batch=start))[:, 0], got[start])
    if n > 10:
        assert not torch.equal(next(rows.batches(size, seed=2))[:, 0], got[0])


def test_small_stores_are_shuffled_uniformly(tmp_path):
    """Correlation of file order and reading order of 4,000 rows is within four standard errors of nought."""
    rows = bare(tmp_path, 4000)
    order = next(rows.batches(4000, seed=3))[:, 0].numpy()
    assert abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 4 / np.sqrt(4000)
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.005  # neighbours in the file do not stay neighbours


def test_take(tmp_path):
    rows = bare(tmp_path, 50)
    assert rows.take(4).x[:, 0].tolist() == [0, 1, 2, 3]
    sample = rows.take(10, seed=5).index
    assert sample.tolist() == sorted(set(sample.tolist())) and len(sample) == 10
    assert sample.tolist() == rows.take(10, seed=5).index.tolist() != rows.take(10, seed=6).index.tolist()
    assert rows.take(10**9, seed=0).x.shape == (50, 2)


def test_labels(tmp_path):
    write(tmp_path, labels=[1, 0])
    store = open_store(tmp_path, verify=True)
    assert store.label_names == ("p", "q")
    assert store.labels[store.select().docs].tolist() == [1, 1, 0]


def bad(path, sentence, **options):
    with pytest.raises(BadInput, match=sentence):
        open_store(path, **options)


def test_damaged_files_are_refused(tmp_path):
    bad(tmp_path / "none.npy", "No activations at")
    bad(tmp_path, "must hold one acts_layer")
    np.save(tmp_path / "int.npy", np.zeros((3, 2), np.int64))
    bad(tmp_path / "int.npy", "must hold floats")
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    bad(tmp_path / "object.npy", "not a complete .npy file")
    (tmp_path / "text.npy").write_text("hello")
    bad(tmp_path / "text.npy", "not a complete .npy file")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((3, 2), np.float32)))
    bad(tmp_path / "fortran.npy", "C order")

    write(tmp_path)
    acts = tmp_path / "acts_layer5.npy"
    whole = acts.read_bytes()
    acts.write_bytes(whole[:-4])
    bad(acts, "cut off|not a complete")
    acts.write_bytes(whole[:-4] + b"abcd")
    open_store(acts)  # the bytes are all there; only the hash tells
    bad(acts, "sha256 differs", verify=True)
    acts.write_bytes(whole)
    (tmp_path / "acts_layer5.mask.npy").unlink()
    bad(acts, "mask.npy is missing or cut off")
    (tmp_path / "acts_layer5.json").write_text("[1]")
    bad(acts, "is not the provenance")
    (tmp_path / "acts_layer5.json").unlink()
    bad(acts, "json is missing beside")


def test_options_that_make_no_sense(tmp_path):
    np.save(tmp_path / "ones.npy", np.ones((3, 2), np.float32))
    store = open_store(tmp_path / "ones.npy")
    rows = store.select()
    for call, sentence in [
        (lambda: store.select(("frist",)), "did you mean 'first'"),
        (lambda: store.select(max_norm_ratio=0.0), "must be positive"),
        (lambda: store.select(max_norm_ratio=1e-9), "drops every token"),
        (lambda: next(rows.batches(0, 0)), "at least 1"),
        (lambda: rows.take(0), "at least one"),
    ]:
        with pytest.raises(BadInput, match=sentence):
            call()
    np.save(tmp_path / "one.npy", np.zeros((3, 1, 2), np.float32))
    with pytest.raises(BadInput, match=r"No token .* is left"):
        open_store(tmp_path / "one.npy").select()
    x = np.zeros((3, 2), np.float32)
    x[1, 1] = np.nan
    np.save(tmp_path / "nan.npy", x)
    with pytest.raises(BadInput, match="NaN or infinite values in 1 tokens"):
        open_store(tmp_path / "nan.npy").select()
