"""The sources of the explorer at a scale: its SAEs (or your own), its language model, its text, a few examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.activations.language_models.load import LoadedModel, load_model
from repro.activations.rows import Rows
from repro.activations.store import EXCLUDE
from repro.base.config import ModelConfig
from repro.base.errors import BadInput, nearest
from repro.checkpoints import load_sae
from repro.sections.explorer.session import Explorer
from repro.sections.scales import Scale
from repro.sections.setup import prepare

if TYPE_CHECKING:
    from repro.sections.explorer.app import App

EXAMPLES = {
    "peace": "The treaty of peace was signed in Paris, and the king of England gave up the thirteen colonies for ever.",
    "a definition": "a small brown bird that eats seeds and insects and builds its nest under the roofs of houses",
    "a story": "She opened the door, and there stood the old man who had lost his ship in the storm.",
}
FROM_TEXT = 3  # evaluation documents among the examples
YOURS = "your checkpoint"


@dataclass(frozen=True)
class Sources:
    """SAEs by label, examples by label, the language model, and tokens of the same layer."""

    saes: dict[str, str]
    texts: dict[str, str]
    loaded: LoadedModel
    rows: Rows

    def explorer(self, label: str = "", **options: Any) -> Explorer:
        """A session with one of the SAEs, the first if no label is given."""
        label = label or next(iter(self.saes))
        if label not in self.saes:
            raise BadInput(f"No SAE '{label}'{nearest(label, self.saes)}; there are {', '.join(self.saes)}.")
        return Explorer(load_sae(self.saes[label]), self.loaded, self.rows, **options)

    def app(self, folder: str | Path = "exports") -> App:
        """The widgets (needs ipywidgets)."""
        from repro.sections.explorer.app import App

        return App(self.saes, self.texts, self.loaded, self.rows, folder)


def open_sources(scale: Scale, checkpoint: str = "") -> Sources:
    """The final SAEs of a scale, and before them your own checkpoint where one is given.

    The texts are read at the layer of the scale's activations, so an SAE of another layer is refused when it is opened.
    """
    ready = prepare(scale)
    store = ready.rows.store
    loaded = load_model(ModelConfig(name=scale.model, layer_index=store.meta.get("layer", scale.layer)), ready.device)
    saes = {YOURS: checkpoint} if checkpoint else {}
    order = sorted(ready.finals(), key=lambda c: c["variant"] != "batch_topk")
    saes |= {f"{c['variant']} {c['sparsity']:g}": c["path"] for c in order}
    rows = store.select(EXCLUDE, scale.max_norm_ratio)
    return Sources(saes, EXAMPLES | _documents(rows, loaded), loaded, rows)


def _documents(rows: Rows, loaded: LoadedModel, tokens: int = 40) -> dict[str, str]:
    """The beginnings of a few documents at the end of the store, where evaluation tokens lie."""
    store = rows.store
    assert store.tokens is not None
    docs, ids = store.docs.reshape(-1)[rows.index], store.tokens.reshape(-1)[rows.index]
    last = list(dict.fromkeys(docs[-4000:][::-1].tolist()))[1:]  # the very last one may be cut off
    texts = [loaded.tokenizer.decode(ids[docs == doc][:tokens].tolist()).strip() for doc in last[: 4 * FROM_TEXT]]
    long = [text for text in texts if len(text) > 80][:FROM_TEXT]
    return {f"evaluation text {i}": text for i, text in enumerate(long, 1)}
