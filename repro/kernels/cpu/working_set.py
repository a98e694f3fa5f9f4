"""One outer pass of the working-set solver, compiled by numba. Plain twin of the descent: reference.py.

Each token keeps a working set W [w] of atoms, their codes u, their correlations q = D_W r and their Gram matrix G.
`prove` certifies where a token stands; `advance` adds the atoms that violate the optimality conditions most and solves
the problem restricted to W on G. What enters a certificate is float64. `begin`, `prove` and `advance` take the tokens
start, start + stride, ... and release the GIL, so that the caller runs one of them a thread. One file on purpose:
numba's cache does not notice when a function in another file changes.
"""

from typing import Any

import numba as nb
import numpy as np

NEAR = 0.05  # relative gap below which a certificate computes correlations exactly
BISECTIONS = 8  # to find how large the violators are that may enter
TRIES = 3  # violators looked at for each that may enter
THETA = 0.85  # a violator enters if c_j > THETA lam still holds after those before it have moved
SWEEPS = 4  # coordinate sweeps between two face steps
CG_STEPS, CG_DROP = 20, 0.05  # a face step ends after so many steps, or when its squared residual has dropped so far
LINE_STEPS = 5  # tries of a face step, each a quarter as long
ROUNDS, PATIENCE = 200, 5  # limit of rounds (sweeps + face step); rounds without progress before a pass gives up
LANES = 16  # rows of G are read in multiples of this; columns beyond w are finite and unused

# Everything but "no NaN, no Inf": sums may be reordered and fused, which is what vector units need.
fast: dict[str, Any] = {"fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"}, "cache": True, "nogil": True}


@nb.njit(**fast)
def exact_dot(a, r):
    """<a, r> in float64."""
    s = 0.0
    for t in range(r.size):
        s += np.float64(a[t]) * np.float64(r[t])
    return s


@nb.njit(**fast)
def dot(a, r):
    """<a, r> in the precision of the arrays."""
    s = r.dtype.type(0)
    for t in range(r.size):
        s += a[t] * r[t]
    return s


@nb.njit(**fast)
def axpy(alpha, a, y, n):
    """y[:n] += alpha a[:n], in the precision of y."""
    step = y.dtype.type(alpha)
    for t in range(n):
        y[t] += step * y.dtype.type(a[t])


@nb.njit(**fast)
def padded(w):
    """w rounded up to whole vectors."""
    return (w + LANES - 1) // LANES * LANES


@nb.njit(**fast)
def gram_rows(D, W, start, w, G):
    """G[i, j] = <d_i, d_j> for i in W[start:w], j in W[:w], both triangles; four by four, so that loads are shared."""
    zero = D.dtype.type(0)
    for i in range(start, w, 4):
        i1, i2, i3 = min(i + 1, w - 1), min(i + 2, w - 1), min(i + 3, w - 1)
        a0, a1, a2, a3 = D[W[i]], D[W[i1]], D[W[i2]], D[W[i3]]
        for j in range(0, i3 + 1, 4):
            j1, j2, j3 = min(j + 1, w - 1), min(j + 2, w - 1), min(j + 3, w - 1)
            b0, b1, b2, b3 = D[W[j]], D[W[j1]], D[W[j2]], D[W[j3]]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            for t in range(D.shape[1]):
                x0, x1, x2, x3, y0, y1, y2, y3 = a0[t], a1[t], a2[t], a3[t], b0[t], b1[t], b2[t], b3[t]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s03 += x0 * y3
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
                s13 += x1 * y3
                s20 += x2 * y0
                s21 += x2 * y1
                s22 += x2 * y2
                s23 += x2 * y3
                s30 += x3 * y0
                s31 += x3 * y1
                s32 += x3 * y2
                s33 += x3 * y3
            G[i, j], G[i, j1], G[i, j2], G[i, j3] = s00, s01, s02, s03
            G[i1, j], G[i1, j1], G[i1, j2], G[i1, j3] = s10, s11, s12, s13
            G[i2, j], G[i2, j1], G[i2, j2], G[i2, j3] = s20, s21, s22, s23
            G[i3, j], G[i3, j1], G[i3, j2], G[i3, j3] = s30, s31, s32, s33
            G[j, i], G[j1, i], G[j2, i], G[j3, i] = s00, s01, s02, s03
            G[j, i1], G[j1, i1], G[j2, i1], G[j3, i1] = s10, s11, s12, s13
            G[j, i2], G[j1, i2], G[j2, i2], G[j3, i2] = s20, s21, s22, s23
            G[j, i3], G[j1, i3], G[j2, i3], G[j3, i3] = s30, s31, s32, s33


@nb.njit(**fast)
def shrink(v, lam, nonneg):
    """The proximal operator of lam |.| at v."""
    if v > lam:
        return v - lam
    if not nonneg and v < -lam:
        return v + lam
    return v - v


@nb.njit(**fast)
def reach(v, nonneg):
    """How far a correlation reaches towards lam: v itself, or |v| when codes may be negative."""
    return v if nonneg else abs(v)


@nb.njit(**fast)
def gap_of(top, l1, uq, rr, lam):
    """P(u) - Q(a r) = 1/2 (1-a)^2 ||r||^2 + lam ||u||_1 - a <u, q> with a = min(1, lam / top), top = max_j c_j."""
    a = 1.0 if top <= lam else lam / top
    return max(0.5 * (1 - a) ** 2 * rr + lam * l1 - a * uq, 0.0)


# --- the problem restricted to W ----------------------------------------------------------------------------------


@nb.njit(**fast)
def sweep_once(G, u, q, w, rr, lam, nonneg):
    """One cycle of coordinate steps over W, u and q in place; returns ||r||^2 after it and the number of steps."""
    steps = 0
    lam = u.dtype.type(lam)  # float64 here would turn every update into float64
    for j in range(w):
        g, old = G[j, j], u[j]
        if old == 0 and (reach(q[j], nonneg) <= lam or g <= 0):
            continue
        new = shrink(old * g + q[j], lam, nonneg) / g if g > 0 else old - old
        delta = new - old
        if delta != 0:
            steps += 1
            rr += np.float64(delta) * (np.float64(delta) * g - 2 * np.float64(q[j]))
            u[j] = new
            axpy(-delta, G[j], q, padded(w))
    return rr, steps


@nb.njit(**fast)
def combine(G, S, p, y, n):
    """y[:n] = sum_k p_k G[S_k, :n]; four rows at a time."""
    y[:n] = 0
    s = S.size
    for k in range(0, s - s % 4, 4):
        p0, p1, p2, p3 = p[k], p[k + 1], p[k + 2], p[k + 3]
        g0, g1, g2, g3 = G[S[k]], G[S[k + 1]], G[S[k + 2]], G[S[k + 3]]
        for t in range(n):
            y[t] += (p0 * g0[t] + p1 * g1[t]) + (p2 * g2[t] + p3 * g3[t])
    for k in range(s - s % 4, s):
        axpy(p[k], G[S[k]], y, n)


@nb.njit(**fast)
def face_step(G, u, q, w, rr, lam):
    """Conjugate gradients on the support of u, projected to u's signs and shortened until the objective falls.

    On a settled support the problem is linear: G_SS delta = q_S - lam sign(u_S). Returns ||r||^2 afterwards.
    """
    S, n, kind = np.flatnonzero(u[:w]), padded(w), u.dtype.type
    s = S.size
    sign, b, delta, y = np.empty(s, u.dtype), np.empty(s, u.dtype), np.zeros(s, u.dtype), np.empty(n, u.dtype)
    for k in range(s):
        sign[k] = 1 if u[S[k]] > 0 else -1
        b[k] = q[S[k]] - kind(lam) * sign[k]
    p, q_new, bb = b.copy(), q[:n].copy(), exact_dot(b, b)
    goal = CG_DROP * bb
    for _ in range(min(CG_STEPS, s)):
        if not bb > goal:
            break
        combine(G, S, p, y, n)
        curvature = 0.0
        for k in range(s):
            curvature += np.float64(p[k]) * y[S[k]]
        if not curvature > 1e-6 * exact_dot(p, p):  # dependent atoms: no step along their null space
            break
        alpha, before = kind(bb / curvature), bb
        for k in range(s):
            delta[k] += alpha * p[k]
            b[k] -= alpha * y[S[k]]
        axpy(-alpha, y, q_new, n)
        bb = exact_dot(b, b)
        for k in range(s):
            p[k] = b[k] + kind(bb / before) * p[k]
    full, step = q_new.copy(), kind(1)
    for _ in range(LINE_STEPS):
        change, loss = 0.0, 0.0  # of lam ||u||_1, of -1/2 ||r||^2: f(new) - f(u) = change - <new - u, q + q_new> / 2
        for t in range(n):
            q_new[t] = q[t] + step * (full[t] - q[t])
        for k in range(s):  # a code that would change sign stops at zero
            new = u[S[k]] + step * delta[k]
            if new * sign[k] < 0:
                axpy(new, G[S[k]], q_new, n)
        for k in range(s):
            new = u[S[k]] + step * delta[k]
            move = np.float64((new if new * sign[k] > 0 else kind(0)) - u[S[k]])
            loss += move * (np.float64(q[S[k]]) + np.float64(q_new[S[k]]))
            change += move * lam * sign[k]
        if change - 0.5 * loss < 0:
            for k in range(s):
                new = u[S[k]] + step * delta[k]
                u[S[k]] = new if new * sign[k] > 0 else kind(0)
            q[:n] = q_new
            return rr - loss
        step *= kind(0.25)
    return rr


@nb.njit(**fast)
def descend(G, u, q, w, rr, lam, nonneg, target):
    """Sweeps and face steps until the duality gap of the restricted problem is at most `target`; u, q in place.

    rr = ||r||^2. Returns the number of coordinate steps; 0 means that u was optimal to the last bit.
    """
    total, best, waited = 0, np.inf, 0
    for _ in range(ROUNDS):
        for _ in range(SWEEPS):
            rr, steps = sweep_once(G, u, q, w, rr, lam, nonneg)
            total += steps
            if steps == 0:
                return total
        top, l1, uq = lam, 0.0, 0.0
        for j in range(w):
            top = max(top, np.float64(reach(q[j], nonneg)))
            l1 += abs(np.float64(u[j]))
            uq += np.float64(u[j]) * np.float64(q[j])
        gap = gap_of(top, l1, uq, rr, lam)
        waited = 0 if gap < 0.9 * best else waited + 1
        best = min(best, gap)
        if gap <= target or waited >= PATIENCE:
            break
        rr = face_step(G, u, q, w, rr, lam)
    return total


# --- all atoms ----------------------------------------------------------------------------------------------------


@nb.njit(**fast)
def largest(c, nonneg):
    """max(0, max_j c_j), signed max_j |c_j|, of finite float32 c: their bit patterns sort as they do, and faster."""
    bits, mask, top = c.view(np.int32), np.int32(-1 if nonneg else 0x7FFFFFFF), np.int32(0)
    for j in range(bits.size):
        top = max(top, bits[j] & mask)
    return np.array([top], np.int32).view(np.float32)[0]


@nb.njit(**fast)
def prove_token(D, beta, rho, x, lam, nonneg, c, W, u, q, w, r, out):
    """Write the objective, the dual value and the duality gap of one token to out[0], out[1] and out[2].

    r [d] is the residual, u [w] the codes of the working set W [w]. c [m] holds cheap correlations D r with
    |error_j| <= ||r|| beta_j + rho |c_j|; beta[m] is the largest beta. The gap needs the largest correlation. While the
    token is far from its optimum, an upper bound from c serves. Near it (a relative gap below NEAR) the correlations of
    W, which go into q, and those of all atoms that might be the largest are computed exactly. In the end c is 0 at
    the atoms of W, so that `violators` does not propose an atom that W already holds.
    """
    rr, xr, l1 = 0.0, 0.0, 0.0
    for t in range(r.size):
        rr += r[t] * r[t]
        xr += np.float64(x[t]) * r[t]
    for k in range(w):
        l1 += abs(np.float64(u[k]))
    norm, top, primal, seen = np.sqrt(rr), lam, 0.5 * rr + lam * l1, np.float64(largest(c, nonneg))
    near = gap_of(seen, l1, xr - rr, rr, lam) <= NEAR * primal  # <u, q> = <x - r, r>
    if near:
        for k in range(w):
            c[W[k]] = np.nan  # no comparison with NaN is true, so the loop below skips this atom
            exact = exact_dot(D[W[k]], r)
            q[k] = exact
            top = max(top, reach(exact, nonneg))
        for j in range(c.size):
            if reach(c[j], nonneg) * (1 + rho) + norm * beta[j] > top:
                exact = exact_dot(D[j], r)
                c[j] = exact
                top = max(top, reach(exact, nonneg))
    else:
        top = max(top, seen * (1 + rho) + norm * beta[c.size])
    for k in range(w):
        c[W[k]] = 0
    out[0] = primal
    out[2] = gap_of(top, l1, xr - rr, rr, lam)
    out[1] = primal - out[2]


@nb.njit(**fast)
def prove(start, stride, D, beta, rho, X, lam, nonneg, C, W, U, Q, w, R, out):
    """prove_token for these tokens."""
    for i in range(start, w.size, stride):
        prove_token(D, beta, rho, X[i], lam[i], nonneg, C[i], W[i], U[i], Q[i], w[i], R[i], out[i])


@nb.njit(fastmath=True, cache=True, nogil=True)
def count_above(c, tau, nonneg):
    """How many c_j > tau."""
    count = 0
    for j in range(c.size):
        v = c[j] if nonneg else abs(c[j])
        count += v > tau
    return count


@nb.njit(**fast)
def violators(c, lam, nonneg, limit):
    """The atoms with the largest c_j > lam, the worst first; about `limit` of them at most."""
    low = np.float32(lam)
    if count_above(c, low, nonneg) > limit:  # bisect for the limit-th largest value
        top = largest(c, nonneg)
        for _ in range(BISECTIONS):
            middle = np.float32(0.5) * (low + top)
            if count_above(c, middle, nonneg) > limit:
                low = middle
            else:
                top = middle
        low = top
    count = count_above(c, low, nonneg)
    atoms, key, count = np.empty(count, np.int64), np.empty(count, np.float32), 0
    for j in range(c.size):
        v = c[j] if nonneg else abs(c[j])
        if v > low:
            atoms[count], key[count] = j, -v
            count += 1
    return atoms[np.argsort(key)]


@nb.njit(**fast)
def enlarge(D, c, W, u, q, w, r, lam, nonneg, room):
    """Add at most `room` violators to W, worst first, each with a coordinate step on the running residual r.

    A violator that the steps before it have explained away is left out: of many atoms that point the same way, a few
    enter. r in place; returns the new size of W. The correlations of new atoms are computed by the caller.
    """
    candidates, start = violators(c, lam, nonneg, TRIES * room), w
    for k in range(candidates.size):
        if w - start >= room:
            break
        atom = D[candidates[k]]
        v, norm = dot(atom, r), dot(atom, atom)
        if norm <= 0 or reach(v, nonneg) <= THETA * lam:
            continue
        W[w], u[w] = candidates[k], shrink(v, r.dtype.type(lam), nonneg) / norm
        axpy(-u[w], atom, r, r.size)
        w += 1
    return w


@nb.njit(**fast)
def compact(W, u, q, w, G):
    """Drop the atoms of W whose code is zero; returns the new size."""
    S = np.flatnonzero(u[:w])
    for a in range(S.size):
        W[a], u[a], q[a] = W[S[a]], u[S[a]], q[S[a]]
        for b in range(S.size):
            G[a, b] = G[S[a], S[b]]
    u[S.size : w] = 0
    return S.size


@nb.njit(**fast)
def refresh(D, x, W, u, w, r):
    """r = x - sum_k u_k d_k afresh, in float64."""
    for t in range(x.size):
        r[t] = x[t]
    for k in range(w):
        if u[k] != 0:
            axpy(-np.float64(u[k]), D[W[k]], r, x.size)


@nb.njit(**fast)
def begin(start, stride, D, X, W, U, Q, w, R, G, slot, keep_gram):
    """Residual, correlations and Gram matrix of the codes that a warm start brings."""
    for i in range(start, w.size, stride):
        refresh(D, X[i], W[i], U[i], w[i], R[i])
        if keep_gram:
            gram_rows(D, W[i], 0, w[i], G[slot[i]])
        for k in range(w[i]):
            Q[i, k] = exact_dot(D[W[i, k]], R[i])


@nb.njit(**fast)
def advance(start, stride, D, X, lam, nonneg, C, W, U, Q, w, R, G, slot, keep_gram, gap, first, grow, inner):
    """One pass of these tokens: enlarge W by max(first, grow * support), descend to inner * gap, refresh the residual.

    G [slots, cap, cap] persists between passes; without keep_gram it is scratch, one slot a thread, built anew.
    """
    for i in range(start, w.size, stride):
        g = G[slot[i]] if keep_gram else G[start]
        old, support = w[i], 0
        for k in range(old):
            support += U[i, k] != 0
        room = min(max(first, int(grow * support)), D.shape[0] - support)
        if old + room > W.shape[1]:
            old = compact(W[i], U[i], Q[i], old, g)
            room = min(room, W.shape[1] - old)
        r = R[i].astype(D.dtype)
        size = old
        if room > 0:
            size = enlarge(D, C[i], W[i], U[i], Q[i], old, r, lam[i], nonneg, room)
        gram_rows(D, W[i], old if keep_gram else 0, size, g)
        for k in range(old, size):
            if U[i, k] != 0:
                axpy(-U[i, k], g[k], Q[i], old)
            Q[i, k] = dot(D[W[i, k]], r)
        descend(g, U[i], Q[i], size, exact_dot(r, r), lam[i], nonneg, inner * gap[i])
        w[i] = size
        refresh(D, X[i], W[i], U[i], size, R[i])
