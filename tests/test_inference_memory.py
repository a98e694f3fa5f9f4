"""Inference in blocks of tokens: the same codes, files that survive a kill, memory that does not grow with tokens."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from repro.base.errors import BadInput
from repro.bench.evaluate import activations, synthetic_sae
from repro.codes import SparseCodes, gathered
from repro.inference import infer, infer_blocks, infer_to, modes, open_inference, stored
from repro.metrics.names import MODES


@pytest.fixture
def sae():
    return synthetic_sae(12, 64, 4, seed=0)


@pytest.fixture
def x(sae):
    return activations(sae, 50, torch.Generator().manual_seed(1))


@pytest.fixture
def blocks_of_16(monkeypatch, sae, x):
    """A function that makes blocks of 16 tokens from then on (as released: 8)."""
    return lambda: monkeypatch.setattr(modes, "NUMBERS", {"cpu": 16 * sae.config.m})


def test_gathered_codes_are_those_that_came(dtype=torch.float64):
    z = torch.randn(30, 9, dtype=dtype).relu() - torch.randn(30, 9, dtype=dtype).relu()
    z[7:12] = 0
    for sizes in ([30], [30, 0], [1, 6, 5, 18]):
        codes = gathered(SparseCodes.from_dense(part) for part in z.split_with_sizes(sizes))
        assert codes.values.dtype == dtype and torch.equal(codes.to_dense(), z)


@pytest.mark.parametrize("protocol", ["corrected", "as_released"])
@pytest.mark.parametrize("mode", MODES)
def test_blocks_change_nothing(sae, x, mode, protocol, blocks_of_16):
    given = {"lam": 0.5, "tol": 1e-6}
    whole = infer(sae, x, mode, protocol, **given)
    blocks_of_16()
    parts = infer(sae, x, mode, protocol, **given)
    assert_close(parts.codes.to_dense(), whole.codes.to_dense(), atol=1e-4, rtol=1e-3)
    assert_close(parts.x_hat, whole.x_hat, atol=1e-4, rtol=1e-4)
    assert_close(parts.objective, whole.objective, atol=1e-5, rtol=1e-5)
    assert_close(parts.gap_upper, whole.gap_upper, atol=1e-4, rtol=1e-4)
    assert parts.gap_lower.shape == (50,) and type(parts.steps) is type(whole.steps)


@pytest.mark.parametrize("protocol", ["corrected", "as_released"])
def test_lambda_is_of_all_tokens(sae, x, protocol, blocks_of_16):
    whole = infer(sae, x, "non", protocol, steps=20, gap=False)
    blocks_of_16()
    lams = {part.lam for part in infer_blocks(sae, x, "non", protocol, steps=20, gap=False)}
    assert lams == {whole.lam}


def test_no_tokens(sae, x):
    result = infer(sae, x[:0], "non", lam=1.0)
    assert len(result.codes) == 0 and result.x_hat.shape == (0, 12) and len(result.gap_upper) == 0


def test_a_folder_holds_what_infer_returns(sae, x, tmp_path, blocks_of_16):
    blocks_of_16()
    expected = infer(sae, x, "non", tol=1e-3)
    found = infer_to(tmp_path / "codes", sae, x, "non", tol=1e-3)
    assert torch.equal(found.codes[:].to_dense(), expected.codes.to_dense()) and found.about["lam"] == expected.lam
    for name in ("objective", "gap_lower", "gap_upper"):
        assert found.tokens[name].tolist() == getattr(expected, name).tolist()
    again = open_inference(tmp_path / "codes")
    assert torch.equal(again.codes[20:31].to_dense(), expected.codes[20:31].to_dense())


def test_a_killed_run_goes_on_to_the_same_files(sae, x, tmp_path, blocks_of_16, monkeypatch):
    blocks_of_16()
    whole = infer_to(tmp_path / "whole", sae, x, "semi", steps=3)
    files = ("about.json", "codes.bin", "tokens.bin")
    bytes_of = {name: (tmp_path / "whole" / name).read_bytes() for name in files}
    for codes, tokens in ((0, 0), (100, 28), (700, 28 * 17 + 5), (8 * 64, 28 * 50), (10**6, 28 * 33)):
        part = tmp_path / f"{codes}_{tokens}"
        part.mkdir()
        for name, length in zip(files, (10**6, codes, tokens)):
            (part / name).write_bytes(bytes_of[name][:length])
        if tokens < 28 * 50:
            with pytest.raises(BadInput, match="of 50 tokens; call"):
                open_inference(part)
        found = infer_to(part, sae, x, "semi", steps=3)
        assert {name: (part / name).read_bytes() for name in files} == bytes_of
        assert torch.equal(found.codes.whole().to_dense(), whole.codes.whole().to_dense())
    monkeypatch.setattr(stored, "infer_blocks", None)  # a finished one is only read
    infer_to(tmp_path / "whole", sae, x, "semi", steps=3)
    with pytest.raises(BadInput, match="another run; choose another folder"):
        infer_to(tmp_path / "whole", sae, x + 1, "semi", steps=3)
    other = torch.cat([x[:-9], x[-9:].flip(0)])  # the same tokens, the last of them in another order
    with pytest.raises(BadInput, match="another run; choose another folder"):
        infer_to(tmp_path / "whole", sae, other, "semi", steps=3)


GROWTH = """
import ctypes, json, sys, tempfile
import torch
from repro import codes as codes_module
from repro.bench.common import peak_memory
from repro.bench.evaluate import activations, synthetic_sae
from repro.inference import infer, infer_to, modes
from repro.solvers import pursuit, refit, solve, Lasso
modes.NUMBERS = {"cpu": 2**20}  # blocks of 1024 tokens, as released 512
codes_module.MEMORY, codes_module.NONZEROS = 2**20, 2**16
torch.set_num_threads(1)
sae = synthetic_sae(48, 1024, 12, 0)
some = activations(sae, 1024, torch.Generator().manual_seed(1))
libc = ctypes.CDLL("libc.so.6")
def stored(x, shared):
    with tempfile.TemporaryDirectory() as folder:
        infer_to(folder, sae, x, "non", lam=3.0)
    return []
def tensors(result):
    z = getattr(result, "codes", result)
    bounds = [getattr(result, name, None) for name in ("x_hat", "gap_lower", "gap_upper", "objective")]
    return [z.values, z.indices, *(t for t in bounds if t is not None)]
def by(mode, protocol="corrected", **how):
    return lambda x, shared: tensors(infer(sae, x, mode, protocol, lam=3.0, shared=shared, **how))
def of(method, warm=False):
    def run(x, shared):
        start = z0[: len(x)] if warm else None
        return tensors(pursuit(x, sae.W_dec, 8, method, start, shared=shared))
    return run
ways = {
    "amortized": by("amortized", gap=False), "amortized with its gap": by("amortized"), "semi": by("semi", steps=2),
    "non": by("non"), "released amortized": by("amortized", "as_released", gap=False),
    "released semi": by("semi", "as_released", steps=2, gap=False),
    "released non": by("non", "as_released", steps=2, gap=False),
    "refit": lambda x, shared: tensors(refit(x, sae.W_dec, z0[: len(x)])), "omp": of("omp"), "ompr": of("ompr", True),
    "pursuit refit": of("refit", True),
    "to a folder": stored,
}
z0 = sae.encode_sparse(some.repeat(12, 1))
with torch.no_grad():
    for name, way in ways.items():
        shared, beyond = {}, []
        for times in (2, 4, 12):
            x = some.repeat(times, 1)
            libc.malloc_trim(0)
            before = peak_memory(reset=True)
            out = way(x, shared)
            beyond.append(peak_memory() - before - sum(t.nbytes for t in out) / 2**20)
            size = sum(t.nbytes for t in out) / 2**20
            del out
        print(json.dumps([name, beyond, size]), flush=True)
"""
SLACK = 6.0  # MiB: the allocator's, and 33 bytes a token of proofs


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_tokens_beyond_what_is_returned():
    quiet = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", GROWTH]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    print("\n".join(f"{name}: {[round(mib, 1) for mib in beyond]} beyond {size:.1f}" for name, beyond, size in rows))
    assert len(rows) == 12
    for name, beyond, _ in rows:
        assert beyond[2] - beyond[1] < SLACK, name
