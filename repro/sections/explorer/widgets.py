"""The widgets of the explorer and how they lie; what they do is the app's."""

from __future__ import annotations

import functools
from typing import Any

from repro.base.errors import optional
from repro.inference import SEMI_STEPS
from repro.sections.explorer.session import DESCENTS

with optional():
    import ipywidgets as w

OWN = "your own text"


class Widgets:
    """One of each, and `view`, which holds them all; saes and texts are labels to choose from."""

    def __init__(self, saes: list[str], texts: list[str]):
        wide = {"description_width": "4.5em"}
        self.sae = w.Dropdown(options=saes, description="SAE", style=wide, layout={"width": "22em"})
        self.example = w.Dropdown(options=[*texts, OWN], description="text", style=wide, layout={"width": "22em"})
        self.box = w.Textarea(
            placeholder="Any text; its first tokens are read.", layout={"width": "auto", "height": "4.5em"}
        )
        self.go = w.Button(description="Read", icon="play", button_style="primary", layout={"width": "7em"})
        self.status = w.HTML()
        self.tokens = w.Box(layout={"flex_flow": "row wrap", "margin": "6px 0"})
        self.legend, self.about = w.HTML(), w.HTML()
        slider: dict[str, Any] = {"style": wide, "layout": {"width": "32em"}}
        self.lam = w.FloatLogSlider(description="λ", min=-1, max=1, step=0.02, readout_format=".3g", **slider)
        self.matched = w.Button(description="match L0", tooltip="where optimal codes have the encoder's L0")
        self.steps = w.IntSlider(description="steps", min=0, max=200, value=SEMI_STEPS, **slider)
        self.solver = w.ToggleButtons(
            options=[(name.upper(), name) for name in DESCENTS], style={"button_width": "5em"}
        )
        self.summary = w.HTML()
        half = {"width": "50%", "min_width": "340px", "min_height": "370px", "flex": "1 1 340px", "overflow": "hidden"}
        self.codes, self.descent = w.Output(layout=half), w.Output(layout=half)
        self.latent = w.Dropdown(description="latent", style=wide, layout={"width": "32em"})
        self.card = w.HTML()
        self.save = w.Button(description="Export view", icon="download", tooltip="as JSON and as HTML")
        self.saved = w.HTML()
        spread = {"align_items": "center", "flex_flow": "row wrap", "grid_gap": "6px 16px"}
        row = functools.partial(w.HBox, layout=spread)
        self.view = w.VBox(
            [
                row([self.sae, self.example, self.go]),
                self.box,
                self.status,
                self.tokens,
                self.legend,
                self.about,
                row([self.lam, self.matched]),
                row([self.steps, self.solver]),
                self.summary,
                w.HBox([self.codes, self.descent], layout={"flex_flow": "row wrap"}),
                self.latent,
                self.card,
                row([self.save, self.saved]),
            ],
            layout={"max_width": "1180px", "grid_gap": "4px"},
        )
