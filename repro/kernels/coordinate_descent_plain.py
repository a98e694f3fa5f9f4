"""The plain twin of coordinate_descent: the same restricted problem by numpy, one coordinate at a time, to the end."""

import numpy as np


def descend(
    G: np.ndarray, u: np.ndarray, q: np.ndarray, lam: float, nonneg: bool, sweeps: int = 100_000, tol: float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """min over u of 1/2 u^T G u - b^T u + lam ||u||_1 with b = q + G u, from u; G [w, w], u and q [w].

    q are the correlations of the residual at u. Returns (u, q) where no coordinate step is longer than `tol`.
    """
    G, u, q = G.astype(np.float64), u.astype(np.float64), q.astype(np.float64)
    for _ in range(sweeps):
        longest = 0.0
        for j in range(len(u)):
            if G[j, j] == 0:
                step = -u[j]
            else:
                v = u[j] * G[j, j] + q[j]
                size = max(v - lam, 0) if nonneg else np.sign(v) * max(abs(v) - lam, 0)
                step = size / G[j, j] - u[j]
            u[j] += step
            q -= step * G[j]
            longest = max(longest, abs(step))
        if longest <= tol:
            break
    return u, q
