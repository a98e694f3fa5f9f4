"""Greedy codes of at most k nonzeros, a token at a time, compiled by numba. Twin: repro/solvers/greedy.py.

A support has t slots: S names their atoms, u are their codes, H is the inverse of their Gram matrix (float64). Atoms
are unit vectors, G = A A^T and c0 = A x are float32. `mask` clears the sign of a float32's bits where codes may be
negative: what is largest is then found on integers, which vector units compare quickly. One file on purpose: numba's
cache does not notice when a function in another file changes.
"""

from typing import Any, NamedTuple

import numba as nb
import numpy as np

DEPENDENT = 1e-6  # squared distance of an atom from the span of the support below which it does not enter
CANDIDATES = 32  # atoms among which OMP chooses the next few
STRIDE = 512  # maxima of so many interleaved parts of the correlations find the candidates
EIGHTH = 3 << 23  # in the exponent of a float32
FIRST, WINDOW = 2, 4  # steps of OMP that are verified together: while fewer than WINDOW are in, and after that
ROUNDING = 2e-6  # relative: a correlation that exceeds the chosen one by less is equal to it
CHUNK = 512  # columns of G that are multiplied at a time
GAIN = 1e-7  # of ||x||^2: a round of OMPR that explains less than this in addition is the last
PASSES = 10  # over a start support until none of its atoms enters any more; 1 to 2 are usual

fast: dict[str, Any] = {"fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"}, "cache": True, "nogil": True}


class Tokens(NamedTuple):
    """A block of tokens and the dictionary; G [m, m] and c0 [b, m] are empty where they are not used."""

    x: np.ndarray  # [b, d]
    r: np.ndarray  # [b, d], residuals, which OMPR without G writes
    c0: np.ndarray
    noise: np.ndarray  # [b], correlations up to here are rounding
    least: np.ndarray  # [b], a round that explains less in addition is the last
    most: np.ndarray  # [b], atoms that a token may have
    atoms: np.ndarray  # [m, d]
    scale: np.ndarray  # [m], 1 / norm
    G: np.ndarray
    mask: int
    nonneg: bool


class Supports(NamedTuple):
    """Supports of a block of tokens, [b, K] and [b, K, K], and the best that each token has had."""

    S: np.ndarray
    u: np.ndarray
    t: np.ndarray  # [b]
    H: np.ndarray
    best_S: np.ndarray
    best_u: np.ndarray
    explained: np.ndarray  # [b], ||x||^2 - ||r||^2 of the best
    add: np.ndarray  # [b], atoms that enter in the next round; 0: finished


# --- a support --------------------------------------------------------------------------------------------------------


@nb.njit(**fast)
def enter(H, u, S, t, g, b, name, goal, nonneg):
    """An atom with products g [t] with the support and b with x enters; returns the new t, or -1 if it is refused."""
    for a in range(t):
        goal[a] = 0.0
    for s in range(t):
        for a in range(t):
            goal[a] += g[s] * H[s, a]
    left, slope = 1.0, b
    for a in range(t):
        left -= g[a] * goal[a]
        slope -= g[a] * u[a]
    if left <= DEPENDENT or (nonneg and slope <= 0):
        return -1
    for s in range(t):
        h = goal[s] / left
        for a in range(t):
            H[s, a] += h * goal[a]
    for a in range(t):
        H[a, t] = H[t, a] = -goal[a] / left
        goal[a] = u[a] - slope / left * goal[a]
    H[t, t], goal[t], u[t], S[t] = 1 / left, slope / left, 0.0, name
    return settle(H, u, S, t + 1, goal, nonneg)


@nb.njit(**fast)
def remove(H, u, S, t, i, goal):
    """Slot i leaves; u and goal become those of the rest, and the last slot takes its place."""
    share, last = goal[i] / H[i, i], t - 1
    for a in range(t):
        goal[a] -= H[i, a] * share
    for s in range(t):
        if s != i:
            h = H[s, i] / H[i, i]
            for a in range(t):
                H[s, a] -= h * H[i, a]
    S[i], u[i], goal[i] = S[last], u[last], goal[last]
    for a in range(last):
        H[i, a] = H[last, a]
    for a in range(last):
        H[a, i] = H[a, last]
    H[i, i] = H[last, last]
    return last


@nb.njit(**fast)
def settle(H, u, S, t, goal, nonneg):
    """Walk from u to goal; where a code reaches zero its atom leaves and the goal changes (Lawson & Hanson)."""
    while nonneg:
        first, alpha = -1, 1.0
        for a in range(t):
            if goal[a] <= 0:
                z = u[a] / max(u[a] - goal[a], 1e-300)
                if first < 0 or z < alpha:
                    first, alpha = a, min(z, 1.0)
        if first < 0:
            break
        for a in range(t):
            u[a] = max(u[a] + alpha * (goal[a] - u[a]), 0.0)
        t = remove(H, u, S, t, first, goal)
    for a in range(t):
        u[a] = goal[a]
    return t


@nb.njit(**fast)
def leave(H, u, S, t, goal, nonneg):
    """The atom without which the residual grows least leaves: ||r||^2 grows by u^2 / H_ii."""
    worst, least = 0, np.inf
    for a in range(t):
        goal[a] = u[a]
        loss = u[a] * u[a] / H[a, a]
        if loss < least:
            worst, least = a, loss
    t = remove(H, u, S, t, worst, goal)
    return settle(H, u, S, t, goal, nonneg)


# --- the strongest correlations ---------------------------------------------------------------------------------------


@nb.njit(**fast)
def above(maxima, bits):
    """How many of the maxima exceed this."""
    count = np.int32(0)
    for q in range(maxima.size):
        count += np.int32(maxima[q] > bits)
    return count


@nb.njit(**fast)
def strongest(c, mask, few, maxima, atoms):
    """Put about `few` or more atoms of the strongest correlations into `atoms`, the strongest first; how many."""
    bits, mask, size = c.view(np.int32), np.int32(mask), maxima.size
    for q in range(size):
        maxima[q] = np.int32(bits[q] & mask)
    for start in range(size, bits.size, size):
        part = bits[start : start + size]
        for q in range(part.size):
            maxima[q] = max(maxima[q], np.int32(part[q] & mask))
    top = np.int32(0)
    for q in range(size):
        top = max(top, maxima[q])
    if top == 0:
        return 0
    high = top - np.int32(1)
    low = max(high - np.int32(EIGHTH), np.int32(0))
    if above(maxima, low) <= few:
        high = low
    while high - low > np.int32(1 << 12):
        middle = low + (high - low) // np.int32(2)
        if above(maxima, middle) > few:
            low = middle
        else:
            high = middle
    count, first = 1, -1
    for q in range(size):
        if maxima[q] > high:
            for j in range(q, bits.size, size):
                size_j = bits[j] & mask
                if size_j == top and first < 0:
                    first = j
                elif size_j > high and count < atoms.size:
                    atoms[count] = j
                    count += 1
    atoms[0] = first
    return count


# --- orthogonal matching pursuit --------------------------------------------------------------------------------------


class Guess(NamedTuple):
    """States of one token after 0 .. WINDOW steps. S holds rows of `atoms`, whose rows of G lie packed in P."""

    S: np.ndarray  # [WINDOW + 1, K]
    u: np.ndarray
    t: np.ndarray
    H: np.ndarray
    chosen: np.ndarray  # [WINDOW], the correlation that each step chose
    largest: np.ndarray  # [WINDOW + 1], bits of the largest that there was
    atoms: np.ndarray  # [K], atoms of the rows
    packed: np.ndarray  # [K], atoms whose rows P holds
    P: np.ndarray  # [chunks, K, CHUNK], flat
    weights: np.ndarray  # [WINDOW, K], codes of the rows after 1 .. WINDOW steps
    c: np.ndarray  # [WINDOW, m], correlations after as many
    near: np.ndarray  # [2 CANDIDATES], atoms to choose from
    G: np.ndarray  # [K, 2 CANDIDATES], their products with the rows


@nb.njit(**fast)
def pack(G, w, row):
    """Copy the row of G of this row's atom into P, unless it is there."""
    if w.packed[row] != w.atoms[row]:
        w.packed[row] = w.atoms[row]
        g, stride = G[w.atoms[row]], w.packed.size * CHUNK
        for chunk in range(w.P.size // stride):
            part = g[chunk * CHUNK : (chunk + 1) * CHUNK]
            to = w.P[chunk * stride + row * CHUNK :]
            for x in range(part.size):
                to[x] = part[x]


@nb.njit(**fast)
def guess(p, i, c, few, steps, w, goal, g):
    """Up to `steps` steps from state 0 that only look at `near`; returns the steps taken and the rows in use."""
    n = t = w.t[0]
    c0, near = p.c0[i], w.near[:few]
    cn = np.empty(few, np.float32)
    for b in range(few):
        cn[b] = c[near[b]]
    for a in range(t):
        for b in range(few):
            w.G[a, b] = p.G[w.atoms[a], near[b]]
    for q in range(steps):
        best, top = -1, p.noise[i]
        for b in range(few):
            value = cn[b] if p.nonneg else abs(cn[b])
            if value > top:
                best, top = b, value
        if best < 0:
            return q, n
        w.S[q + 1, :t], w.u[q + 1, :t], w.H[q + 1, :t, :t] = w.S[q, :t], w.u[q, :t], w.H[q, :t, :t]
        for a in range(t):
            g[a] = w.G[w.S[q, a], best]
        t = enter(w.H[q + 1], w.u[q + 1], w.S[q + 1], t, g, np.float64(c0[near[best]]), n, goal, p.nonneg)
        if t < 0:
            return q, n
        w.t[q + 1], w.chosen[q], w.atoms[n] = t, top, near[best]
        pack(p.G, w, n)
        for b in range(few):
            w.G[n, b], cn[b] = p.G[near[best], near[b]], c0[near[b]]
        n += 1
        w.weights[q] = 0
        for a in range(t):
            row, code = w.S[q + 1, a], np.float32(w.u[q + 1, a])
            w.weights[q, row] = code
            for b in range(few):
                cn[b] -= code * w.G[row, b]
    return steps, n


@nb.njit(**fast)
def multiply(weights, n, P, out):
    """out [WINDOW, CHUNK] = weights[:, :n] @ P [rows, CHUNK], both flat, so that the compiler sees them not overlap."""
    out[:] = 0
    for s in range(0, n, 4):
        g = P[s * CHUNK : (s + 4) * CHUNK]
        a0, a1, a2, a3 = weights[0, s], weights[0, s + 1], weights[0, s + 2], weights[0, s + 3]
        b0, b1, b2, b3 = weights[1, s], weights[1, s + 1], weights[1, s + 2], weights[1, s + 3]
        c0, c1, c2, c3 = weights[2, s], weights[2, s + 1], weights[2, s + 2], weights[2, s + 3]
        d0, d1, d2, d3 = weights[3, s], weights[3, s + 1], weights[3, s + 2], weights[3, s + 3]
        for x in range(CHUNK):
            g0, g1, g2, g3 = g[x], g[x + CHUNK], g[x + 2 * CHUNK], g[x + 3 * CHUNK]
            out[x] += (a0 * g0 + a1 * g1) + (a2 * g2 + a3 * g3)
            out[x + CHUNK] += (b0 * g0 + b1 * g1) + (b2 * g2 + b3 * g3)
            out[x + 2 * CHUNK] += (c0 * g0 + c1 * g1) + (c2 * g2 + c3 * g3)
            out[x + 3 * CHUNK] += (d0 * g0 + d1 * g1) + (d2 * g2 + d3 * g3)


@nb.njit(**fast)
def correlate(c0, w, steps, n, mask):
    """Correlations of all atoms after 1 .. steps steps, c0 - weights @ G[atoms], and the largest of each."""
    out, stride, mask = np.empty(WINDOW * CHUNK, np.float32), w.packed.size * CHUNK, np.int32(mask)
    w.weights[:, n : n + 4] = 0
    w.weights[steps:] = 0
    w.largest[:] = 0
    for chunk in range(w.P.size // stride):
        multiply(w.weights, n, w.P[chunk * stride : (chunk + 1) * stride], out)
        start = chunk * CHUNK
        for q in range(steps):
            c, y, top = w.c[q, start : start + CHUNK], out[q * CHUNK : (q + 1) * CHUNK], np.int32(0)
            for x in range(c.size):
                c[x] = c0[start + x] - y[x]
            bits = c.view(np.int32)
            for x in range(c.size):
                top = max(top, np.int32(bits[x] & mask))
            w.largest[q + 1] = max(w.largest[q + 1], top)


@nb.njit(**fast)
def adopt(G, w, q):
    """State q becomes state 0, its atoms rows 0, 1, ..."""
    t = w.t[q]
    for a in range(t):
        w.S[0, a] = w.atoms[w.S[q, a]]
    for a in range(t):
        w.atoms[a], w.S[0, a] = w.S[0, a], a
        pack(G, w, a)
    w.t[0], w.u[0, :t], w.H[0, :t, :t] = t, w.u[q, :t], w.H[q, :t, :t]


@nb.njit(**fast)
def omp(start, stop, p, S, u):
    """Orthogonal matching pursuit: the atoms S and codes u [b, k] of the tokens, on G.

    Choosing among a few candidates is cheap, the correlations of all atoms are not. So a few steps are guessed on the
    candidates, then the correlations after each of them are computed in one product, and the steps up to the first
    that would have chosen otherwise are kept: the supports are those of the plain algorithm.
    """
    m, K = p.c0.shape[1], u.shape[1] + WINDOW + 4  # multiply reads rows in fours
    w = guess_memory(m, K)
    maxima, goal, g, bits = np.zeros(min(STRIDE, m), np.int32), np.zeros(K), np.zeros(K), w.largest.view(np.float32)
    for i in range(start, stop):
        c, step = p.c0[i], 0
        w.t[0] = 0
        while step < p.most[i]:
            few = strongest(c, p.mask, CANDIDATES, maxima, w.near)
            window = min(FIRST if step < WINDOW else WINDOW, p.most[i] - step)
            done, n = guess(p, i, c, few, window, w, goal, g)
            if done == 0:
                break
            correlate(p.c0[i], w, done if step + done < p.most[i] else done - 1, n, p.mask)
            right = 1
            while right < done and bits[right] <= w.chosen[right] * (1 + ROUNDING):
                right += 1
            adopt(p.G, w, right)
            c, step = w.c[right - 1], step + right
        for a in range(w.t[0]):
            S[i, a], u[i, a] = w.atoms[a], w.u[0, a]


@nb.njit(**fast)
def guess_memory(m, K):
    """Memory for one token after another."""
    w, chunks, C = WINDOW + 1, (m + CHUNK - 1) // CHUNK, 2 * CANDIDATES
    slots, codes, H = np.zeros((w, K), np.int64), np.zeros((w, K)), np.zeros((w, K, K))
    P, near, G = np.zeros(chunks * K * CHUNK, np.float32), np.zeros(C, np.int64), np.zeros((K, C), np.float32)
    chosen, largest, t = np.zeros(WINDOW, np.float32), np.zeros(w, np.int32), np.zeros(w, np.int64)
    weights, c = np.zeros((WINDOW, K), np.float32), np.zeros((WINDOW, m), np.float32)
    atoms, packed = np.zeros(K, np.int64), np.full(K, -1)
    return Guess(slots, codes, t, H, chosen, largest, atoms, packed, P, weights, c, near, G)


# --- OMP with replacement ---------------------------------------------------------------------------------------------


@nb.njit(**fast)
def products(p, i, j, S, t, g):
    """Fill g with the products of atom j and the atoms S[:t]; returns that of atom j and x."""
    if p.G.shape[0] > 0:
        for a in range(t):
            g[a] = p.G[j, S[a]]
        return np.float64(p.c0[i, j])
    atom, scale = p.atoms[j], np.float64(p.scale[j])
    for a in range(t):
        g[a] = scale * p.scale[S[a]] * dot(atom, p.atoms[S[a]])
    return scale * dot(atom, p.x[i])


@nb.njit(**fast)
def dot(a, b):
    """<a, b> in float32."""
    s = np.float32(0)
    for x in range(a.size):
        s += a[x] * b[x]
    return s


@nb.njit(**fast)
def holds(S, t, j):
    """Is atom j among S[:t]?"""
    found = False
    for a in range(t):
        found = found or S[a] == j
    return found


@nb.njit(**fast)
def begin(p, i, S0, u0, s, goal, g):
    """Least squares on the atoms S0 with codes u0, the largest first, until none of them explains any more."""
    S, u, H, t = s.S[i], s.u[i], s.H[i], 0
    for _ in range(PASSES):
        entered = False
        for a in range(S0.size):
            if u0[a] != 0 and not holds(S, t, S0[a]):
                b = products(p, i, S0[a], S, t, g)
                after = enter(H, u, S, t, g, b, S0[a], goal, p.nonneg)
                entered, t = entered or after >= 0, t if after < 0 else after
        if not entered:
            break
    s.t[i] = t
    keep(p, i, s)


@nb.njit(**fast)
def exchange(p, i, c, s, maxima, near, goal, g):
    """One round: some of the strongest correlations c enter, then those that are missed least leave."""
    S, u, H, t, add = s.S[i], s.u[i], s.H[i], s.t[i], s.add[i]
    few = strongest(c, p.mask, add, maxima, near)
    for _ in range(min(few, add)):
        best, top = -1, p.noise[i]
        for b in range(few):
            value = np.float32(0) if near[b] < 0 else (c[near[b]] if p.nonneg else abs(c[near[b]]))
            if value > top:
                best, top = b, value
        if best < 0:
            break
        j, near[best] = near[best], -1
        if not holds(S, t, j):
            b = products(p, i, j, S, t, g)
            after = enter(H, u, S, t, g, b, j, goal, p.nonneg)
            t = t if after < 0 else after
    while t > p.most[i]:
        t = leave(H, u, S, t, goal, p.nonneg)
    s.t[i] = t
    keep(p, i, s)


@nb.njit(**fast)
def keep(p, i, s):
    """Note the support if it is the best so far, else exchange half as many from now on. Its residual, without G."""
    S, u, t, explained = s.S[i], s.u[i], s.t[i], 0.0
    if p.G.shape[0] > 0:
        for a in range(t):
            explained += u[a] * p.c0[i, S[a]]
    else:
        r = p.r[i]
        r[:] = p.x[i]
        for a in range(t):
            code, atom = np.float32(u[a] * p.scale[S[a]]), p.atoms[S[a]]
            for x in range(r.size):
                r[x] -= code * atom[x]
        for x in range(r.size):
            explained += np.float64(p.x[i, x]) * np.float64(p.x[i, x] - r[x])
    if explained <= s.explained[i] + p.least[i]:
        s.add[i] //= 2
    if explained > s.explained[i]:
        s.explained[i], s.best_u[i] = explained, 0
        for a in range(t):
            s.best_S[i, a], s.best_u[i, a] = S[a], u[a]


@nb.njit(**fast)
def fresh(p, i, s, c):
    """c = c0 - u G[S], eight rows at a time."""
    c0, S, t = p.c0[i], s.S[i], s.t[i]
    u = s.u[i].astype(np.float32)
    for start in range(0, c.size, CHUNK):
        part = c[start : start + CHUNK]
        part[:] = c0[start : start + CHUNK]
        G = p.G[:, start : start + CHUNK]
        for a in range(0, t - t % 8, 8):
            x0, x1, x2, x3, x4, x5, x6, x7 = u[a], u[a + 1], u[a + 2], u[a + 3], u[a + 4], u[a + 5], u[a + 6], u[a + 7]
            g0, g1, g2, g3 = G[S[a]], G[S[a + 1]], G[S[a + 2]], G[S[a + 3]]
            g4, g5, g6, g7 = G[S[a + 4]], G[S[a + 5]], G[S[a + 6]], G[S[a + 7]]
            for x in range(part.size):
                part[x] -= ((x0 * g0[x] + x1 * g1[x]) + (x2 * g2[x] + x3 * g3[x])) + (
                    (x4 * g4[x] + x5 * g5[x]) + (x6 * g6[x] + x7 * g7[x])
                )
        for a in range(t - t % 8, t):
            x0, g0 = u[a], G[S[a]]
            for x in range(part.size):
                part[x] -= x0 * g0[x]


@nb.njit(**fast)
def ompr_begin(start, stop, p, s, S0, u0):
    """Least squares on the start supports S0 with codes u0 [b, k]."""
    goal, g = np.zeros(s.S.shape[1]), np.zeros(s.S.shape[1])
    for i in range(start, stop):
        begin(p, i, S0[i], u0[i], s, goal, g)


@nb.njit(**fast)
def ompr(start, stop, p, s, rounds, C):
    """Rounds of OMP with replacement: on G as many as are asked for, without it one, from the correlations C [b, m]."""
    K, m = s.S.shape[1], len(p.scale)
    goal, g, maxima, near = np.zeros(K), np.zeros(K), np.zeros(min(STRIDE, m), np.int32), np.zeros(4 * K, np.int64)
    c = np.zeros(m if p.G.shape[0] > 0 else 0, np.float32)
    for i in range(start, stop):
        if p.G.shape[0] == 0:
            if s.add[i] > 0:
                exchange(p, i, C[i], s, maxima, near, goal, g)
            continue
        for _ in range(rounds):
            if s.add[i] == 0:
                break
            fresh(p, i, s, c)
            exchange(p, i, c, s, maxima, near, goal, g)
