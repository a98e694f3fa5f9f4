"""The Triton kernels compile for a Hopper GPU on a machine without one: no spills, products on tensor cores."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE = r"""
import json, re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from repro.kernels.gpu import coordinate_descent, decode, encode, firing_stats, prox_step, pursuit, tile

f, i, l, f64 = "*fp32", "*i32", "*i64", "*fp64"
wide = dict(BK=8, BD=256, num_warps=2)
KERNELS = {
    "forward": (decode._forward, [f, l, f, f, "i32", "i32"], wide),
    "backward_values": (decode._backward_values, [f, l, f, f, "i32", "i32"], wide),
    "backward_atoms": (decode._backward_atoms, [f, l, l, l, l, "*i1", f, f, "i32"], wide),
    "firing_stats": (firing_stats._firing_stats, [f, l, f64, f64, "i32", "i32", "i32"], dict(BLOCK=1024)),
}
for lanes in (64, 256, 1024):  # codes of a token
    descend = [f, f, f, f, f, f, f, f, "i32", "i32"]
    launch = dict(NONNEG=True, CHECK=16, W=lanes, num_warps=max(1, lanes // 256))
    KERNELS[f"coordinate_descent {lanes}"] = coordinate_descent._descend, descend, launch
KERNELS["strongest"] = pursuit._strongest, [f, f, i, "i32"], dict(NONNEG=True, C=16, BLOCK=2048)
for slots in (32, 64, 128):  # of a support
    size = dict(W=slots, BD=32)
    choose, exchange = [i, f, f, f, f, i, i, "i32"], [i, f64, f64, f64, l, l, i, f64, f64, f64, i, f64, f64, i]
    KERNELS[f"choose {slots}"] = pursuit._choose, choose, dict(NONNEG=True, C=16, E=8, **size)
    KERNELS[f"products {slots}"] = pursuit._products, [i, i, f, f, f, f64, f64, "i32"], dict(E=8, **size)
    KERNELS[f"residual {slots}"] = pursuit._residual, [i, f64, f, f, f, f, "i32"], size
    launch = dict(START=False, NONNEG=True, W=slots, num_warps=pursuit.WARPS[slots])
    KERNELS[f"exchange {slots}"] = pursuit._exchange, [*exchange, *["i32"] * 4, "fp32"], launch
for precision in ("float32", "tf32"):
    at = tile.tiles(precision)
    prox = [f, f, f, f, f, "i32", "i32", "i32", "fp32", "i32"]
    KERNELS[f"prox_step {precision}"] = prox_step._prox_step, prox, dict(NONNEG=True, **at)
    collect = [f, f, f, f, f, f, f, i, l, "i32", "i32", "i32", "i32"]
    for gated in (False, True):
        KERNELS[f"collect {gated} {precision}"] = encode._collect, collect, dict(GATED=gated, **at)
ptxas = str(Path(triton.__file__).parent / "backends/nvidia/bin/ptxas")
out = {}
for name, (kernel, types, launch) in KERNELS.items():
    launch = dict(launch)
    options = {k: launch.pop(k) for k in ("num_warps", "num_stages") if k in launch}
    free = [a for a in kernel.arg_names if a not in launch]
    signature = dict(zip(free, types, strict=True)) | dict.fromkeys(launch, "constexpr")
    aligned = [a for a in free if a in ("d", "m") or signature[a].startswith("*")]
    whole = {(kernel.arg_names.index(a),): [["tt.divisibility", 16]] for a in aligned}
    source = ASTSource(kernel, signature, launch, whole)
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    Path(sys.argv[1]).write_text(code.asm["ptx"])
    command = [ptxas, "-v", "--gpu-name", "sm_90a", sys.argv[1], "-o", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    out[name] = {
        "spilled": int(re.search(r"(\d+) bytes spill stores", said)[1]),
        "tensor cores": "wgmma" in code.asm["ptx"],
        "shared": code.metadata.shared,
    }
print(json.dumps(out))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(tmp_path / "kernel.ptx")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 26
    for name, facts in found.items():
        room = 4096 if name == "exchange 128" else 256  # its matrix takes the registers of a whole multiprocessor
        assert facts["spilled"] <= room, (name, facts)  # bytes a thread, in the epilogue
        assert facts["shared"] <= 227 * 1024, (name, facts)
        assert facts["tensor cores"] == name.endswith("tf32"), (name, facts)
