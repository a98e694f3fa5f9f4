"""Each Triton kernel once at a small, awkward shape: the program that compute-sanitizer runs (`repro bench correct`).

Prints a line before and after each kernel, so that what the sanitizer reports in between belongs to it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from repro import ops
from repro.codes import SparseCodes
from repro.solvers import pursuit_triton
from repro.solvers.greedy import KSparse

N, D, M, K = 17, 19, 70, 5


def kernels(device: str) -> dict[str, Callable[[], Any]]:
    """name -> one launch (or a few) of a kernel of repro.kernels on random tensors."""
    g = torch.Generator().manual_seed(0)
    x, W, b = torch.randn(N, D, generator=g), torch.randn(D, M, generator=g), torch.randn(M, generator=g)
    z, indices = torch.randn(N, K, generator=g), torch.stack([torch.randperm(M, generator=g)[:K] for _ in range(N)])
    A = torch.randn(N, K, D, generator=g)
    x, W, b, z, indices, A = (t.to(device) for t in (x, W, b, z, indices, A))
    atoms, dense = W.T.contiguous(), torch.randn(N, M, generator=g).to(device)
    one = torch.ones_like(b)
    given: Any = {"impl": "triton"}

    def gradients() -> None:
        v, D_ = z.clone().requires_grad_(), atoms.clone().requires_grad_()
        ops.decode(v, indices, D_, **given).sum().backward()

    def descend() -> None:
        q = (A @ x.unsqueeze(2)).squeeze(2)
        ops.coordinate_descent(A @ A.mT, torch.zeros_like(q), q, 0.3, steps=32, **given)

    z0 = SparseCodes(z.clamp_min(0)[:3], indices[:3], M)
    few = KSparse(x[:3], atoms, 1 / atoms.norm(dim=1), torch.full((3,), K, device=x.device))
    out: dict[str, Callable[[], Any]] = {}
    for precision in ("float32", "tf32", "bf16"):
        exact = given | {"precision": precision}
        out[f"prox_step {precision}"] = functools.partial(ops.prox_step, dense, x, atoms, 0.1, 0.1, **exact)
        out[f"encode_topk {precision}"] = functools.partial(ops.encode_topk, x, W, b, K, **exact)
    return out | {
        "encode_above": lambda: ops.encode_above(x, W, b, 0.5, **given),
        "encode_gated": lambda: ops.encode_gated(x, W, b, b, one, one - 1, **given),
        "decode": lambda: ops.decode(z, indices, atoms, **given),
        "decode gradients": gradients,
        "firing_stats": lambda: ops.firing_stats(SparseCodes(z, indices, M), **given),
        "coordinate_descent": descend,
        "pursuit": functools.partial(pursuit_triton.omp, few),
        "pursuit with replacement": functools.partial(pursuit_triton.ompr, replace(few, z0=z0, rounds=2)),
    }


def main(device: str) -> None:
    """Run every kernel; one that raises is named, and the next one runs."""
    for name, run in kernels(device).items():
        print(f"kernel: {name}", flush=True)
        try:
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            print(f"done: {name}", flush=True)
        except RuntimeError as error:
            print(f"error: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
