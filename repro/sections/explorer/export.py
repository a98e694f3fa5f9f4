"""A view of the explorer as JSON, and as a page that stands alone; everything that is not ours is escaped."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from repro.base.files import write_atomically
from repro.inference import MODES
from repro.sections.explorer.figures import code_figure, descent_figure, visible
from repro.sections.explorer.markup import latent_cards, summary_table, token_strip, token_words
from repro.sections.explorer.session import Explorer, State, steps_to

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: .5rem 0 }} td, th {{ padding: .15rem .7rem; text-align: right }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def as_json(explorer: Explorer, state: State, token: int, last: int = 200) -> dict[str, Any]:
    """The view as plain values: SAE, text, every token's gap and nonzeros, one token's codes, descent and latents."""
    reading, library = state.reading, explorer.library
    table = state.table(token)
    descent, _ = explorer.descent(reading, token, state.lam, [*steps_to(last), state.steps], state.solver)
    source = {k: v for k, v in vars(explorer.sae.source).items() if k not in ("path", "extra") and v not in ("", None)}
    about = {k: v for k, v in explorer.sae.describe().items() if k != "source"}
    view = {
        "sae": about | {"source": source},
        "model": {k: explorer.loaded.provenance.get(k) for k in ("name", "layer", "layer_convention")},
        "text": reading.text,
        "lambda": state.lam,
        "steps": state.steps,
        "solver": state.solver,
        "summary": state.summary().to_dict("index"),
        "tokens": [
            {
                "token": word,
                "counted": bool(reading.counted[i]),
                "nonzeros": {mode: int(state.codes[mode].l0[i]) for mode in MODES},
                "objective": {mode: float(state.objective[mode][i]) for mode in MODES},
                "gap": {mode: [float(state.lower[mode][i]), float(state.upper[mode][i])] for mode in MODES},
            }
            for i, word in enumerate(reading.tokens)
        ],
        "chosen": {
            "token": token,
            "codes": [{"latent": int(j), **row} for j, row in zip(table.index, table.to_dict("records"))],
            "descent": descent.to_dict("records"),
            "latents": [
                {
                    "latent": int(j),
                    "rate": library.rate(int(j)),
                    "contexts": [vars(c) for c in library.contexts(int(j), 3)],
                    "neighbours": library.neighbours(int(j)),
                }
                for j in table.index[:8]
            ],
        },
    }
    return _finite(view)


def as_html(explorer: Explorer, state: State, token: int) -> str:
    """The view as one page with plotly.js inside (5 MB), which needs neither network nor kernel."""
    word = html.escape(visible(state.reading.tokens[token]))
    figures = code_figure(explorer, state, token), descent_figure(explorer, state, token)
    drawn = [
        figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displaylogo": False, "responsive": True})
        for i, figure in enumerate(figures)
    ]
    title = f"{html.escape(explorer.sae.name)} SAE, {explorer.sae.config.m:,} latents: “{word}”"
    parts = [
        token_strip(state, token),
        f"<p>λ = {state.lam:.4g}, {state.steps} {html.escape(state.solver.upper())} steps.</p>",
        summary_table(state),
        f"<h2>“{word}”</h2><p>{html.escape(token_words(state, token))}.</p>",
        *drawn,
        "<h2>Its latents</h2>",
        latent_cards(explorer, state, token),
    ]
    return PAGE.format(title=title, body="\n".join(parts))


def save(explorer: Explorer, state: State, token: int, folder: str | Path) -> tuple[Path, Path]:
    """Write view.json and view.html, numbered if there are some already, into a folder; returns their paths."""
    folder = Path(folder)
    number = 1
    while any((folder / f"view-{number}.{end}").exists() for end in ("json", "html")):
        number += 1
    text = json.dumps(as_json(explorer, state, token), indent=1, ensure_ascii=False, allow_nan=False)
    page = as_html(explorer, state, token)
    return (
        write_atomically(folder / f"view-{number}.json", lambda path: path.write_text(text + "\n", encoding="utf-8")),
        write_atomically(folder / f"view-{number}.html", lambda path: path.write_text(page, encoding="utf-8")),
    )


def _finite(value: Any) -> Any:
    """NaN and Inf, which JSON does not have, become null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
