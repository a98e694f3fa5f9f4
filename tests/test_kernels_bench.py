"""The benchmark of the operations: a row for each, and none for one that is wrong."""

import csv
import importlib.util

import pytest
import torch

from repro import bench, ops
from repro.base.errors import BadInput
from repro.bench.kernels import Kernels


def rows(path):
    with path.open() as f:
        return list(csv.DictReader(f))


def test_a_row_for_every_operation(tmp_path):
    path = bench.run(["kernels", "--device", "cpu", "--shapes", "toy", "--repeats", "1", "--out", str(tmp_path)])
    found = rows(path)
    assert path == tmp_path / "kernels.csv"
    encoders = {"encode_topk", "encode_topk_groups", "encode_above", "encode_gated", "encode_batch_topk"}
    others = {"prox_step", "decode", "decode_backward", "firing_stats", "coordinate_descent", "solve"}
    assert {r["operation"] for r in found} == encoders | others
    compiled = {"numba", "working_set"} if importlib.util.find_spec("numba") else set()
    assert {r["impl"] for r in found} == {"torch", "fista"} | compiled
    for r in found:
        assert float(r["error"]) < 1e-5 and float(r["ms"]) > 0 and float(r["floor_ms"]) > 0
        assert r["device"] and r["torch"] and r["date"] and r["n"] == "64"


def test_bfloat16_products_pass_their_own_tolerance(tmp_path):
    out = Kernels("cpu", ("toy",), ("bf16",), repeats=1, only="prox_step", out=tmp_path).run()
    (row,) = rows(out)
    assert 1e-4 < float(row["error"]) < 1e-2


def test_a_wrong_operation_is_not_timed(tmp_path, monkeypatch):
    right = ops.decode
    monkeypatch.setattr(ops, "decode", lambda v, i, D, **kw: right(v, i, D, **kw) * 1.001)
    with pytest.raises(RuntimeError, match="Disagree with float64 and were not timed: decode torch float32"):
        Kernels("cpu", ("toy",), repeats=1, only="decode", out=tmp_path).run()
    assert not (tmp_path / "kernels.csv").exists()


def test_refusals():
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="--device cpu"):
            Kernels("cuda").run()
    with pytest.raises(BadInput, match="No precision fp8"):
        Kernels("cpu", precisions=("fp8",)).run()
