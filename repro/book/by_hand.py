"""The example of the page by-hand: its values by the package's solvers, and a picture that moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.base.theme import MODE_COLORS

X = (1.2, 1.0)
ATOMS = ((1.0, 0.0), (0.6, 0.8), (0.0, 1.0))
LAM = 0.4
BIAS = 0.9
"""What the encoder of the example subtracts from every score x · d_j."""
STEPS = 20
"""ISTA steps of the table and the picture."""
SECONDS = 0.8
"""Time of a step in the picture."""


@dataclass(frozen=True)
class Step:
    """A code of the example with what is known of it; lists have a number an atom, or one a dimension (r and v)."""

    z: list[float]
    r: list[float]
    c: list[float]
    v: list[float]
    J: float
    Q: float


def problem() -> Any:
    """The `Lasso` of the example: x [1, 2], atoms [3, 2], float64."""
    import torch

    from repro.solvers import Lasso

    x, atoms = (torch.tensor(rows, dtype=torch.float64) for rows in ([X], ATOMS))
    return Lasso(x, atoms, LAM)


def of_code(z: Any) -> Step:
    """Residual, correlations, dual point and bounds of a code z [1, 3]."""
    from repro.solvers.objective import certify, dual_scale, max_correlation, residual

    p = problem()
    r, proof = residual(p.x, z, p.atoms), certify(p.x, z, p.atoms, LAM)
    a = dual_scale(max_correlation(r, p.atoms), LAM)
    first: list[list[float]] = [row[0].tolist() for row in (z, r, r @ p.atoms.T, a * r)]
    return Step(first[0], first[1], first[2], first[3], float(proof.objective), float(proof.dual))


def walk() -> list[Step]:
    """The codes of ISTA from zero, after 0 to STEPS steps."""
    from repro.solvers import solve

    out: list[Step] = []
    solve(problem(), "ista", tol=None, max_steps=STEPS, callback=lambda k, rows, s: out.append(of_code(s.z.clone())))
    return out


def values() -> dict[str, float | list[float]]:
    """Every number that the page works out, by its name in TeX."""
    from repro.solvers import solve
    from repro.solvers.pursuit import pursuit

    p, (zero, one, two) = problem(), walk()[:3]
    guess = of_code((p.x @ p.atoms.T - BIAS).clamp_min(0))
    best = of_code(solve(p, "fista", tol=1e-12).codes.to_dense())
    picked = [of_code(pursuit(p.x, p.atoms, k).to_dense()) for k in (1, 2)]
    out: dict[str, float | list[float]] = {"L": p.lipschitz, "x D^\\top": zero.c}
    for at, step in {"_a": guess, "^{(1)}": one, "^{(2)}": two, "^\\star": best}.items():
        out |= {f"z{at}": step.z, f"r{at}": step.r, f"c{at}": step.c, f"J(z{at})": step.J, f"Q(v{at})": step.Q}
        out |= {f"v{at}": step.v, f"J(z{at}) - Q(v{at})": step.J - step.Q}
    for k, step in enumerate(picked, 1):
        out |= {f"z_{{p{k}}}": step.z, f"r_{{p{k}}}": step.r, f"c_{{p{k}}}": step.c}
    out["z^\\star D"] = [a - b for a, b in zip(X, best.r)]
    return out | {"J(z_{p2})": picked[-1].J, "J(z_a) - J(z^\\star)": guess.J - best.J}


def page() -> str:
    """Markdown: the moving picture, then its numbers in a table: ten steps, then every fifth."""
    steps = walk()
    lines = ["| step | $z_1$ | $z_2$ | $z_3$ | $J(z)$ | $Q(v)$ | gap |", "| --: |" + " --: |" * 6]
    for k, s in ((k, s) for k, s in enumerate(steps) if k <= 10 or k % 5 == 0):
        numbers = " | ".join(f"{value:.4f}" for value in (*s.z, s.J, s.Q, s.J - s.Q))
        lines.append(f"| {k} | {numbers} |")
    return picture(steps) + "\n\n" + "\n".join(lines) + "\n"


# --- the picture -----------------------------------------------------------------------------------------------------

CAPTION = (
    "ISTA from zero on the example. Bars: the three entries of the code, with ticks at the optimum. Axis below: the "
    "objective J (filled) and the proven bound Q (hollow), between which the smallest J lies. Plane: the residual r "
    "(filled) and the dual point v (hollow), which is r scaled back into the grey set of points whose product with "
    "every atom is at most λ. Both end in the corner nearest to x, and the gap closes."
)
ALT = (
    "Two panels. Bars of three code entries: the third grows at first and is zero from step eight on; the objective "
    "comes down to the bound, which comes up to it. In the plane, the residual moves from x to a corner of the set of "
    "dual points, and the dual point along its edge to the same corner."
)
UNIT, LEFT, BOTTOM = 220, 34, 268  # pixels of 1 in the plane, and its origin
BAR, ZERO = 230, 34  # pixels of 1 in a bar, and of its left end
LOW, HIGH = 0.5, 0.7  # of the scale of J and Q; what lies beyond stands at its end
CODE, BOUND = MODE_COLORS["semi"], MODE_COLORS["non"]
"""Colours of the steps with their objective and residual, and of what proves where the optimum is."""
STYLE = """<style>
.by-hand svg{width:100%;max-width:26rem;height:auto;color:var(--pst-color-text-base)}
.by-hand text{font:13px var(--pst-font-family-base);fill:currentColor}
.by-hand .thin{fill:none;stroke:currentColor;stroke-opacity:.55}
.by-hand .bar{transform-box:fill-box;transform-origin:left}
.by-hand .step{opacity:0}.by-hand .step:last-of-type{opacity:1}
.by-hand label,.by-hand figcaption{font-size:.9rem}
.by-hand figcaption{color:var(--pst-color-text-muted);text-align:left}
.by-hand:has(input:not(:checked)) svg *{animation-play-state:paused}
MOTION
@media (prefers-reduced-motion:reduce){.by-hand svg *{animation:none!important}.by-hand label{display:none}}
@media print{.by-hand svg *{animation:none!important}.by-hand label{display:none}}
</style>"""


def plane(point: Sequence[float]) -> tuple[float, float]:
    """Pixels of a point of the plane."""
    return LEFT + UNIT * point[0], BOTTOM - UNIT * point[1]


def scale(value: float) -> float:
    """Pixels, from the left, of a value of J or Q."""
    return ZERO + BAR * 1.15 * (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW)


def moving(name: str, states: Iterable[str]) -> str:
    """CSS: the element of this class takes these transforms one after the other, half of each step at rest."""
    states = list(states)
    total = len(states) + 3  # the last one stays for a while
    frames = "".join(
        f"{100 * k / total:.2f}%,{100 * (k + 0.5) / total:.2f}%{{transform:{state}}}" for k, state in enumerate(states)
    )
    return (
        f"@keyframes {name}{{{frames}to{{transform:{states[-1]}}}}}"
        f".by-hand .{name}{{transform:{states[-1]};animation:{name} {total * SECONDS:.1f}s infinite}}"
    )


def picture(steps: Sequence[Step]) -> str:
    """A figure in HTML: two panels in SVG that CSS moves, still for readers who want no motion and in print."""

    def to(xy: tuple[float, float]) -> str:
        return f"translate({xy[0]:.1f}px,{xy[1]:.1f}px)"

    css = [moving(f"z{j}", [f"scaleX({s.z[j]:.4f})" for s in steps]) for j in range(3)]
    css += [moving("r", [to(plane(s.r)) for s in steps]), moving("v", [to(plane(s.v)) for s in steps])]
    css += [moving("J", [to((scale(s.J), 0)) for s in steps]), moving("Q", [to((scale(s.Q), 0)) for s in steps])]
    total = len(steps) + 3
    css.append(
        f"@keyframes step{{0%,{100 / total:.2f}%{{opacity:1}}{100 / total + 0.01:.2f}%,to{{opacity:0}}}}"
        f"@keyframes last{{0%,{400 / total:.2f}%{{opacity:1}}{400 / total + 0.01:.2f}%,to{{opacity:0}}}}"
        f".by-hand .step{{animation:step {total * SECONDS:.1f}s infinite}}"
        ".by-hand .step:last-of-type{animation-name:last}"
    )
    return (
        '<figure class="by-hand">'
        + STYLE.replace("MOTION", "\n".join(css))
        + f'<div class="pair" role="img" aria-label="{ALT}">{_bars(steps)}{_dual(steps)}</div>'
        + '<label><input type="checkbox" checked> Move</label>'
        + f"<figcaption>{CAPTION}</figcaption></figure>"
    )


def _bars(steps: Sequence[Step]) -> str:
    """The panel of the code, and of J and Q below it."""
    best, total = np.ravel(values()["z^\\star"]), (len(steps) + 3) * SECONDS
    out = ['<svg viewBox="0 0 330 300" aria-hidden="true">']
    for j, height in enumerate((40, 84, 128)):
        out.append(f'<text x="6" y="{height + 18}">z{"₁₂₃"[j]}</text>')
        out.append(f'<rect class="bar z{j}" x="{ZERO}" y="{height}" width="{BAR}" height="26" fill="{CODE}"/>')
        mark = ZERO + BAR * best[j]
        out.append(f'<path class="thin" stroke-width="2" d="M{mark:.0f} {height - 5}v36"/>')
    ends = scale(LOW), scale(HIGH)
    out.append(f'<path class="thin" d="M{ends[0]} 222H{ends[1]}"/>')
    for value in (0.5, 0.55, 0.6, 0.65, 0.7):
        out.append(f'<text x="{scale(value):.0f}" y="258" text-anchor="middle">{value:g}</text>')
        out.append(f'<path class="thin" d="M{scale(value):.1f} 222v5"/>')
    out.append(f'<g class="Q"><circle cy="222" r="6" fill="none" stroke="{BOUND}" stroke-width="2.5"/>')
    out.append('<text y="242" text-anchor="middle">Q</text></g>')
    out.append(f'<g class="J"><circle cy="222" r="6" fill="{CODE}"/><text y="210" text-anchor="middle">J</text></g>')
    for k, s in enumerate(steps):
        words = f"step {k}: J = {s.J:.4f}, J − Q = {s.J - s.Q:.4f}"
        delay = k * SECONDS - (0 if k == 0 else total)
        out.append(f'<text class="step" x="6" y="20" style="animation-delay:{delay:.1f}s">{words}</text>')
    return "".join(out) + "</svg>"


def _dual(steps: Sequence[Step]) -> str:
    """The panel of the plane: atoms, the set of dual points, x, residual and dual point."""
    corners = [(-0.1, -0.1), (0.4, -0.1), (0.4, 0.2), (0.4 / 3, 0.4), (-0.1, 0.4)]
    area = " ".join("{:.1f},{:.1f}".format(*plane(corner)) for corner in corners)
    out = ['<svg viewBox="0 0 330 300" aria-hidden="true">']
    out.append(f'<polygon points="{area}" fill="currentColor" fill-opacity=".14"/>')
    origin = "{:.0f} {:.0f}".format(*plane((0, 0)))
    for name, atom, (dx, dy) in zip("₁₂₃", ATOMS, ((4, 14), (8, 0), (8, 4))):
        x, y = plane(atom)
        out.append(f'<path class="thin" stroke-width="2" d="M{origin}L{x:.1f} {y:.1f}"/>')
        out.append(f'<text x="{x + dx:.0f}" y="{y + dy:.0f}">d{name}</text>')
    x, y = plane(X)
    out.append(f'<path d="M{x - 5:.0f} {y - 5:.0f}l10 10m0-10l-10 10" stroke="currentColor" stroke-width="2"/>')
    out.append(f'<text x="{x - 16:.0f}" y="{y + 4:.0f}">x</text>')
    path = "L".join("{:.1f} {:.1f}".format(*plane(s.r)) for s in steps)
    out.append(f'<path class="thin" stroke-dasharray="2 3" d="M{path}"/>')
    out.append(f'<g class="r"><circle r="6" fill="{CODE}"/><text x="10" y="-4">r</text></g>')
    out.append(f'<g class="v"><circle r="6" fill="none" stroke="{BOUND}" stroke-width="2.5"/>')
    out.append('<text x="-16" y="14">v</text></g>')
    return "".join(out) + "</svg>"
