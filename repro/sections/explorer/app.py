"""The explorer in JupyterLab: pick an SAE and a text, click a token, move lambda and steps."""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro.activations.language_models.load import LoadedModel
from repro.activations.rows import Rows
from repro.base.errors import BadInput
from repro.checkpoints import CheckpointError, load_sae
from repro.inference import MODES
from repro.sections.explorer import export
from repro.sections.explorer.figures import LATENTS, code_figure, descent_figure, visible
from repro.sections.explorer.markup import latent_card, scale_bar, shades, summary_table, token_words
from repro.sections.explorer.session import Explorer, Reading, State
from repro.sections.explorer.widgets import OWN, Widgets, w

PLOTLY = "application/vnd.plotly.v1+json"
EDGE = "1px solid rgba(128,134,145,0.45)"
CHOSEN = "2px solid currentColor"


class App(Widgets):
    """The widgets of one session; `App(...).view` is what a notebook shows.

    saes: label -> path of a checkpoint, all of one model and layer. texts: label -> example.
    rows: as for `Explorer`. folder: where exported views go.
    """

    def __init__(
        self,
        saes: Mapping[str, str | Path],
        texts: Mapping[str, str],
        loaded: LoadedModel,
        rows: Rows,
        folder: str | Path = "exports",
    ):
        if not saes or not texts:
            raise BadInput("The explorer needs at least one SAE and one text.")
        self.paths, self.texts, self.folder = dict(saes), dict(texts), Path(folder)
        self.loaded, self.rows = loaded, rows
        self.explorers: dict[str, Explorer] = {}
        self.reading: Reading | None = None
        self.state: State | None = None
        self.token = 0
        self.quiet = False
        self.opened = next(iter(self.paths))
        self.seconds = math.nan
        super().__init__(list(self.paths), list(self.texts))
        self._listen()
        self.pick_text()

    def _listen(self) -> None:
        def on(widget: Any, action: Callable[[], None]) -> None:
            def changed(_: Any) -> None:
                if not self.quiet:
                    self._guarded(action)

            if isinstance(widget, w.Button):
                widget.on_click(changed)
            else:
                widget.observe(changed, names="value")

        on(self.sae, self.pick_sae)
        on(self.example, self.pick_text)
        on(self.go, self.read)
        on(self.matched, self.match)
        for slider in (self.lam, self.steps, self.solver):
            on(slider, self.move)
        on(self.latent, self.show_latent)
        on(self.save, self.write)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run what a widget asked for; a mistake in the input becomes a sentence below the text."""
        started = time.perf_counter()
        try:
            action()
            self.seconds = time.perf_counter() - started
            self.status.value = f'<span style="opacity:.6">done in {1000 * self.seconds:.0f} ms</span>'
        except (BadInput, CheckpointError, OSError) as error:
            self.status.value = f"<b>{html.escape(str(error))}</b>"

    def _set(self, widget: Any, **values: Any) -> None:
        """Change a widget without the listeners hearing of it."""
        before, self.quiet = self.quiet, True
        try:
            for name, value in values.items():
                setattr(widget, name, value)
        finally:
            self.quiet = before

    # --- what the reader does --------------------------------------------------------------------
    @property
    def explorer(self) -> Explorer:
        """The session of the chosen SAE, kept once it was opened."""
        name = self.sae.value
        if name not in self.explorers:
            self.explorers[name] = Explorer(load_sae(self.paths[name]), self.loaded, self.rows)
        return self.explorers[name]

    def pick_text(self) -> None:
        """Put an example into the box and read it; "your own text" leaves the box as it is."""
        if self.example.value != OWN:
            self._set(self.box, value=self.texts[self.example.value])
            self._guarded(self.read)

    def pick_sae(self) -> None:
        """The same text through another SAE; one that cannot be opened leaves the old one in place."""
        try:
            _ = self.explorer.matched_lambda
        except (BadInput, CheckpointError, OSError):
            self._set(self.sae, value=self.opened)
            raise
        self.opened, self.state = self.sae.value, None
        if self.reading is None:
            self.read()
        else:
            self.match()

    def read(self) -> None:
        """Read the text in the box."""
        reading = self.explorer.read(self.box.value)
        if self.box.value not in self.texts.values():
            self._set(self.example, value=OWN)
        same = self.reading is not None and self.reading.tokens == reading.tokens
        self.reading, self.state = reading, None
        if not same:
            self.token = int(reading.counted.nonzero()[-1 if reading.counted.sum() < 4 else 3])
            self._make_tokens()
        self.match()

    def match(self) -> None:
        """Back to the lambda at which optimal codes have the encoder's L0, with the slider around it."""
        middle = math.log10(self.explorer.matched_lambda)
        low, high = middle - 1.2, middle + 1.2  # whole steps away: the browser rounds to the grid from the minimum
        bounds = {"max": high, "min": low} if low > self.lam.max else {"min": low, "max": high}
        self._set(self.lam, **bounds, value=self.explorer.matched_lambda)
        self.move(self.explorer.matched_lambda)

    def move(self, lam: float | None = None) -> None:
        """Codes, gaps and figures at the sliders' lambda and steps."""
        if self.reading is None:
            raise BadInput("Read a text first.")
        lam = self.lam.value if lam is None else lam
        self.state = self.explorer.state(self.reading, lam, self.steps.value, self.solver.value, self.state)
        self._colour()
        self.summary.value = summary_table(self.state)
        self.show_token()

    def choose(self, token: int) -> None:
        """Look at another token."""
        self.token = token
        self._colour()
        self.show_token()

    def show_token(self) -> None:
        """Figures and latents of the chosen token."""
        assert self.state is not None
        words = html.escape(visible(self.state.reading.tokens[self.token]))
        self.about.value = f"<b>“{words}”</b>: {html.escape(token_words(self.state, self.token))}"
        _draw(self.codes, code_figure(self.explorer, self.state, self.token))
        _draw(self.descent, descent_figure(self.explorer, self.state, self.token, self.steps.max))
        largest = self.state.table(self.token)[list(MODES)].max(axis=1).nlargest(LATENTS)
        library = self.explorer.library
        options = [(f"{j}: {visible(library.words(int(j)) or 'never fires')}", int(j)) for j in largest.index]
        chosen = self.latent.value if self.latent.value in [j for _, j in options] else None
        if tuple(options) != tuple(self.latent.options):
            first = options[0][1] if options else None
            self._set(self.latent, options=options, value=first if chosen is None else chosen)
        self.show_latent()

    def show_latent(self) -> None:
        """The chosen latent's contexts, rate and neighbours."""
        latent = self.latent.value
        self.card.value = "" if latent is None else latent_card(self.explorer, latent)

    def write(self) -> None:
        """Export what is on the screen."""
        if self.state is None:
            raise BadInput("Read a text first.")
        paths = export.save(self.explorer, self.state, self.token, self.folder)
        self.saved.value = "saved " + ", ".join(f"<code>{html.escape(str(path))}</code>" for path in paths)

    def _make_tokens(self) -> None:
        """A button a token: keyboards reach it, and a description is text, whatever it looks like."""
        assert self.reading is not None
        buttons = []
        for i, word in enumerate(self.reading.tokens):
            space = "6px" if word[:1].isspace() else "0"
            layout = {"width": "auto", "height": "1.9em", "padding": "0 3px", "margin": f"2px 0 2px {space}"}
            button = w.Button(description=visible(word), layout=layout, style={"button_color": "rgba(0,0,0,0)"})
            button.on_click(lambda _, i=i: self._guarded(lambda: self.choose(i)))
            buttons.append(button)
        old, self.tokens.children = self.tokens.children, tuple(buttons)
        for button in old:
            button.layout.close()
            button.style.close()
            button.close()

    def _colour(self) -> None:
        """Backgrounds by gap, an edge around the chosen token; only what changed travels to the browser."""
        assert self.state is not None
        for i, (button, colour) in enumerate(zip(self.tokens.children, shades(self.state))):
            button.style.button_color = colour
            button.layout.border = CHOSEN if i == self.token else EDGE
            button.style.font_style = None if self.state.reading.counted[i] else "italic"
        self.legend.value = scale_bar(self.state)


def _draw(output: Any, figure: Any) -> None:
    """Replace a figure in one message; a FigureWidget would need anywidget."""
    data = json.loads(figure.to_json()) | {"config": {"displaylogo": False}}
    output.outputs = ({"output_type": "display_data", "data": {PLOTLY: data}, "metadata": {}},)
