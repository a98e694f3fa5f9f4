"""Figures of the prose pages, by name: drawn from committed tables (or a seeded example) when the book is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.errors import BadInput, nearest

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


DRAWN = Path("_generated") / "drawings"
"""Where a build puts the figures, relative to the book's folder."""


def prepared(name: str, book: Path) -> dict[str, Any]:
    """The figure that a build has put into book/_generated, else a new one. Raises BadInput for an unknown name."""
    path = book / DRAWN / f"{name}.json"
    return json.loads(path.read_text()) if name in DRAWINGS and path.is_file() else drawing(name)


def drawing(name: str) -> dict[str, Any]:
    """The figure as plotly JSON, in the theme of the book. Raises BadInput for an unknown name."""
    import plotly.io as pio

    from repro.base.theme import template

    if name not in DRAWINGS:
        raise BadInput(f"There is no drawing '{name}'{nearest(name, DRAWINGS)}; there are {', '.join(DRAWINGS)}.")
    figure = DRAWINGS[name]()
    figure.layout.template = template()
    return json.loads(pio.to_json(figure))


def protocols() -> Figure:
    """One dictionary, the two protocols: error against nonzeros."""
    from repro.base.theme import caption
    from repro.book.facts import rows
    from repro.inference import MODES
    from repro.sections.comparison.figures import density_figure

    table = rows("small/comparison.csv")
    figure = density_figure(table[table["mode"].isin(MODES)])
    figure.update_annotations(yanchor="top")  # clear of the legend, which is tall at phone width
    return caption(
        figure,
        "SmolLM2-135M. The same dictionaries under both protocols. Filled: corrected, where all three modes have as "
        "many nonzeros as the encoder. Hollow: as released, where the refined codes of low error stand to the right "
        "of the dashed line, with more nonzeros than any optimum can have. Compare at equal L0, never across.",
        "Scatter plot of NMSE against nonzeros a token, both logarithmic, by mode and protocol, with a dashed line at "
        "the width of the activation.",
    )


def absorption() -> Figure:
    """Absorption beside what chance gives at the same firing rates."""
    from repro.base.theme import caption
    from repro.book.facts import rows
    from repro.sections.comparison.figures import null_figure

    return caption(
        null_figure(rows("small/comparison.csv")),
        "SmolLM2-135M. Absorption against the value that independent latents of the same firing rates would give. On "
        "the diagonal, density alone explains the number; only the distance from it could be absorption.",
        "Scatter plot of measured absorption against its density null, a point a dictionary, mode and protocol, with "
        "the diagonal on which both are equal.",
    )


STEPS = 300


def certificate() -> Figure:
    """Objective and proven bound of one synthetic token, step by step, for the paper's ISTA and for FISTA."""
    import plotly.graph_objects as go
    import torch

    from repro.base.theme import MODE_COLORS, VARIED, caption
    from repro.solvers import Lasso, solve
    from repro.solvers.objective import lambda_max

    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(512, 64, generator=generator) + 0.7 * torch.randn(64, generator=generator)
    atoms /= atoms.norm(dim=1, keepdim=True)
    x = torch.rand(1, 512, generator=generator).pow(40) @ atoms
    problem = Lasso(x, atoms, 0.05 * float(lambda_max(x, atoms)))
    best = float(solve(problem, "fista", tol=1e-9).objective)
    figure = go.Figure()
    for name in ("ista", "fista"):
        seen: list[Any] = []

        def watch(step: int, rows: Any, state: Any, to: list[Any] = seen) -> None:
            to.append(state.certificate())

        solve(problem, name, tol=None, max_steps=STEPS, proof=False, callback=watch)
        for field, mode in (("objective", name), ("dual", "optimum")):
            label = f"{name.upper()}, {'objective J' if field == 'objective' else 'proven bound Q'}"
            y = [round(float(getattr(c, field)) / best, 5) for c in seen[1:]]
            line = {"color": MODE_COLORS[mode], "dash": VARIED.get(name, "solid")}
            figure.add_trace(go.Scatter(x=list(range(1, len(y) + 1)), y=y, name=label, mode="lines", line=line))
    figure.update_xaxes(type="log", title="steps from zero")
    figure.update_yaxes(range=[0.5, 1.8], title="value, as a multiple of the optimum")
    return caption(
        figure,
        "One synthetic token. The objective comes down from above, the proven bound comes up from below, "
        "and the optimum lies between them at every step: the distance is the certificate. FISTA closes it "
        "in fewer steps; a code is done when the distance is small, not when a number of steps has passed.",
        "Line plot over steps: two curves of the objective fall and two of the bound rise towards the optimum at one; "
        "those of FISTA meet well before those of ISTA.",
    )


def plan() -> Figure:
    """Hours that SAEBench at full size would take, against the number of workers."""
    from repro.sections.performance import plan_figure

    return plan_figure()


def forest() -> Figure:
    """Effects of refined codes against their margins, on SmolLM2-135M."""
    from repro.sections.claims import ledger
    from repro.sections.forest import forest_figure

    return forest_figure(ledger("small"), "SmolLM2-135M")


def loss() -> Figure:
    """What each kind of codes costs the language model, real ones first."""
    from repro.book.facts import rows
    from repro.sections.price.figures import loss_figure

    return loss_figure({"SmolLM2-135M": rows("small/price.csv"), "the bundled model": rows("tiny/price.csv")})


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "forest": forest,
    "loss": loss,
    "protocols": protocols,
    "absorption": absorption,
    "certificate": certificate,
    "plan": plan,
}
"""What `{drawn}` accepts."""
