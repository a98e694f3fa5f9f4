"""Probes of one and of two latents fitted and counted in many draws of the documents, compiled by numba.

Twin: scikit-learn's liblinear, on rows written down as often as their document is drawn (tests/test_probes.py).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

STEPS = 30  # of Newton's method at most; about six are taken
STILL = 1e-6  # a step that moves no coefficient by more is the last


@nb.njit(cache=True, nogil=True)
def logistic(x, y, w, n, k, theta):
    """Minimise Σ w·loss + ‖theta‖²/2 in place, as scikit-learn's liblinear with C = 1 does, by Newton's method.

    x [n, 2], of which the first k columns count; y [n] in {0, 1}; w [n]; theta [3]: coefficients and intercept. Arrays
    may be longer than n. A step that raises the objective is halved.
    """
    before, g, H, a = np.zeros(3), np.empty(3), np.empty((3, 3)), np.ones(3)
    worst = np.inf
    for _ in range(STEPS):
        loss = 0.0
        for i in range(3):
            loss += theta[i] ** 2 / 2
            g[i] = theta[i]
            for j in range(3):
                H[i, j] = i == j
        for t in range(n):
            a[0], a[1] = x[t, 0], x[t, 1] if k == 2 else 0.0
            logit = theta[0] * a[0] + theta[1] * a[1] + theta[2]
            e = math.exp(-abs(logit))
            p = (1.0 if logit > 0 else e) / (1 + e)
            loss += w[t] * (max(logit, 0.0) + math.log1p(e) - y[t] * logit)
            for i in range(3):
                g[i] += w[t] * (p - y[t]) * a[i]
                for j in range(i, 3):
                    H[i, j] += w[t] * p * (1 - p) * a[i] * a[j]
        moved, uphill = 0.0, loss > worst * (1 + 1e-9)
        if not uphill:
            solve(H, g)
            worst = loss
        for i in range(3):
            step = (theta[i] - before[i]) / 2 if uphill else g[i]
            if not uphill:
                before[i] = theta[i]
            theta[i] -= step
            moved = max(moved, abs(step))
        if moved < STILL:
            break


@nb.njit(cache=True, nogil=True)
def solve(H, g):
    """g becomes H⁻¹ g by elimination; H [3, 3] symmetric and positive, its upper half is read and overwritten."""
    for i in range(3):
        for j in range(i + 1, 3):
            share = H[i, j] / H[i, i]
            g[j] -= share * g[i]
            for c in range(j, 3):
                H[j, c] -= share * H[i, c]
    for i in range(2, -1, -1):
        for j in range(i + 1, 3):
            g[i] -= H[i, j] * g[j]
        g[i] /= H[i, i]


@nb.njit(cache=True, nogil=True)
def gathered(z, second, y, w, x_on, y_on, w_on):
    """Write the rows of positive weight on which a latent is on; the others become one row of each answer: same sums.

    z, second [n]: both latents; y [n]; w [n]. Returns how many rows x_on [n + 2, 2], y_on, w_on [n + 2] then have.
    """
    size = 2
    for t in range(2):
        x_on[t, 0], x_on[t, 1], y_on[t], w_on[t] = 0, 0, t, 0
    for t in range(len(y)):
        if z[t] == 0 and second[t] == 0:
            w_on[y[t]] += w[t]
        elif w[t] > 0:
            x_on[size, 0], x_on[size, 1], y_on[size], w_on[size] = z[t], second[t], y[t], w[t]
            size += 1
    return size


@nb.njit(cache=True, nogil=True)
def scaled(x, w, size, n, moments):
    """Column by column of x [size, 2], subtract the weighted mean and divide by the deviation: moments [2, 2] of both.

    n: the sum of the weights w [size]; 1e-6 is added to deviations.
    """
    for c in range(2):
        z, zz = 0.0, 0.0
        for t in range(size):
            z += w[t] * x[t, c]
            zz += w[t] * x[t, c] ** 2
        moments[c, 0], moments[c, 1] = z / n, math.sqrt(max(zz / n - (z / n) ** 2, 0.0)) + 1e-6
        for t in range(size):
            x[t, c] = (x[t, c] - moments[c, 0]) / moments[c, 1]


@nb.njit(cache=True, nogil=True)
def counted(fitted, scored, at, y_fit, y_test, w_fit, w_test, out):
    """Counts [b, 7 + AUX] (`Crossed.counts`) of each of b draws: probes fitted on some rows, counted on the others.

    fitted, scored [latents, rows of either half]; at [b, 1 + AUX]: which of the latents a draw picks; y_* [rows] in
    {0, 1}; w_* [b, rows]: how often a draw has each row; out: zeros.
    """
    rows = max(len(y_fit), len(y_test)) + 2
    x, y, w, balanced = np.empty((rows, 2)), np.empty(rows, np.int64), np.empty(rows), np.empty(rows)
    theta, moments = np.empty((3, 3)), np.empty((2, 2))
    for i in range(len(at)):
        first, second = at[i, 0], at[i, min(1, at.shape[1] - 1)]
        size = gathered(fitted[first], fitted[second], y_fit, w_fit[i], x, y, w)
        n, positives = 0.0, 0.0
        for t in range(size):
            n += w[t]
            positives += w[t] * y[t]
        scaled(x, w, size, n, moments)
        for t in range(size):
            balanced[t] = w[t] * n / (2 * max(positives if y[t] == 1 else n - positives, 1.0))
        theta[:] = 0
        if 0 < positives < n:  # else there is nothing to fit: the answer is no
            logistic(x, y, balanced, size, 1, theta[1])
            theta[2] = theta[1]
            logistic(x, y, balanced, size, 2, theta[2])
        size = gathered(scored[first], scored[second], y_test, w_test[i], x, y, w)
        for t in range(size):
            a, b = (x[t, 0] - moments[0, 0]) / moments[0, 1], (x[t, 1] - moments[1, 0]) / moments[1, 1]
            for k in range(1, 3):
                said = theta[k, 0] * a + theta[k, 1] * b + theta[k, 2] > 0
                out[i, 2 * k - 2] += w[t] * (said and y[t] == 1)
                out[i, 2 * k - 1] += w[t] * (said != (y[t] == 1))
        for t in range(len(y_test)):
            if y_test[t] == 1:
                weight, relatives = w_test[i, t], 0
                for j in range(at.shape[1]):
                    on = scored[at[i, j], t] > 0
                    out[i, 6 + j] += weight * on
                    relatives += on and j > 0
                out[i, 4] += weight
                out[i, 5] += weight * (relatives > 0 and scored[first, t] == 0)
