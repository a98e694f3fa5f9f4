"""The explorer in the book: where its script comes in, and until then one token as it stands."""

from __future__ import annotations

import html
import json
from typing import Any

from repro.inference import SEMI_STEPS
from repro.metrics.names import MODE_NAMES
from repro.sections.explorer.figures import visible
from repro.sections.explorer.markup import shade
from repro.sections.explorer.prepare import CHOICES, STEPS, load

TOKEN = 3
"""Token that the page opens with, counted from 0 among those that are not left out."""


def number(value: float) -> str:
    """Three digits, as the page's script writes them."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".") if value else "0"


def percent(share: float) -> str:
    """A share in per cent, as the page's script writes it."""
    return "< 0.01 %" if 0 < share < 1e-4 else f"{number(100 * share)} %"


def rows(sae: dict[str, Any], text: int, token: int, lam: int, step: int) -> list[tuple[str, ...]]:
    """The table of one token: words for the kind of codes, nonzeros, error, J, gap; one row a kind.

    sae: an entry of `saes` in the stored examples. text, token, lam, step: positions in their lists.
    """
    t = sae["texts"][text]
    words = MODE_NAMES["amortized"], f"{STEPS[step]} ISTA step{'s' * (STEPS[step] != 1)}", MODE_NAMES["non"], "pursuit"
    out: list[tuple[str, ...]] = []
    for word, k in zip(words, (0, step, len(STEPS), len(STEPS) + 1)):
        l0, error, gap = (t[key][token][lam][k] for key in ("l0", "error", "gap"))
        J = t["bound"][token][lam] + gap
        out.append((word, str(l0), percent(error), number(J), percent(gap / J)))
    return out


def prepared() -> Any:
    """The element that book/explorer.js takes over (IPython's HTML), with the numbers of its first view in it.

    Raises BadInput where no examples are stored.
    """
    from IPython.display import HTML

    first, *_ = models = {scale: load(scale)["model"] for scale in CHOICES}
    sae = load(first)["saes"][0]
    text, middle, step = sae["texts"][0], len(sae["lambdas"]) // 2, STEPS.index(SEMI_STEPS)
    shares = [gap[middle][0] / (gap[middle][0] + bound[middle]) for gap, bound in zip(text["gap"], text["bound"])]
    skipped = text["left out"]
    shown = [html.escape(visible(word)) for word in text["tokens"]]
    spans = shown[:skipped]
    for word, label, share in zip(text["tokens"][skipped:], shown[skipped:], shares):
        style = f"background:{shade(share, max(shares))}"
        spans.append(f'{" " * word[:1].isspace()}<span style="{style}">{label}</span>')
    head = "".join(f"<th>{word}</th>" for word in ("", "nonzeros", "error, of ‖x‖²", "J", "gap, of J"))
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows(sae, 0, TOKEN, middle, step))
    return HTML(
        f'<div id="explorer" data-token="{TOKEN}" data-steps="{SEMI_STEPS}" '
        f"data-models='{html.escape(json.dumps(models), quote=True)}'>"
        f"<p>{''.join(spans)}</p>"
        f"<p>{html.escape(models[first])}, {html.escape(sae['label'])}, "
        f"λ {number(sae['lambdas'][middle])} (L0 matched); "
        f"background: gap of the encoder's code, up to {percent(max(shares))} of J. "
        f"Codes of “{shown[skipped + TOKEN]}”:</p>"
        f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "<p>In the book, scripts make this view move; in JupyterLab, <code>live = True</code> opens one that solves "
        "your own text.</p></div>"
    )
