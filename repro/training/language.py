"""Cross-entropy of a language model whose activations an SAE's reconstruction replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from repro.activations.language_models.load import LoadedModel, load_model
from repro.activations.store import ActivationStore, Rows
from repro.base.config import ModelConfig
from repro.base.errors import BadInput
from repro.sae import SAE

Replace = Callable[[Tensor], Tensor]


@dataclass
class CrossEntropy:
    """Held-out text on which SAEs are compared; the original and the zero-ablated loss are computed once."""

    model: LoadedModel
    layer: int
    """Block whose output is replaced."""
    ids: Tensor
    """Token ids [sequences, seq_len]."""
    mask: Tensor | None = None
    """True at real tokens; all if not given."""
    keep: Tensor | None = None
    """True where the activation is left as it is in every run (positions that SAEs are not trained on)."""
    batch_size: int = 16
    """Sequences a forward pass."""
    known: dict[str, float] = field(default_factory=dict)
    """Losses computed before."""

    def __post_init__(self) -> None:
        if not 0 <= self.layer < len(self.model.blocks):
            raise BadInput(f"The model has blocks 0 to {len(self.model.blocks) - 1}, so none is layer {self.layer}.")
        if self.ids.ndim != 2 or self.ids.shape[1] < 2 or not len(self.ids):
            raise BadInput(f"Token ids have shape {tuple(self.ids.shape)}: give sequences of at least two tokens.")

    def __call__(self, sae: SAE) -> dict[str, float]:
        """loss_original, loss_reconstructed and loss_zero (nats a token), frac_recovered, as dictionary_learning names
        them: frac_recovered = (loss_zero - loss_reconstructed) / (loss_zero - loss_original).
        """
        if not self.known:
            self.known = {"loss_original": self.loss(None), "loss_zero": self.loss(torch.zeros_like)}
        original, zero = self.known["loss_original"], self.known["loss_zero"]
        sae = sae.to(self.model.device)
        reconstructed = self.loss(lambda x: sae(x.float()).to(x.dtype))
        recovered = (zero - reconstructed) / (zero - original) if zero != original else float("nan")
        return {**self.known, "loss_reconstructed": reconstructed, "frac_recovered": recovered}

    @torch.no_grad()
    def loss(self, replace: Replace | None) -> float:
        """Mean cross-entropy of the next token, with `replace` applied to the block's output [tokens, d]."""
        total, count = 0.0, 0
        for ids, mask, keep in self._batches():

            def put(module: Any, args: Any, output: Any, keep: Tensor = keep) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                new = hidden.clone()
                assert replace is not None
                new[~keep] = replace(hidden[~keep])
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = self.model.blocks[self.layer].register_forward_hook(put) if replace is not None else None
            try:
                attention = None if bool(mask.all()) else mask.long()
                logits = self.model.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
            finally:
                if handle is not None:
                    handle.remove()
            predicted = mask[:, 1:] & mask[:, :-1]
            total += float(cross_entropy(logits[:, :-1][predicted].float(), ids[:, 1:][predicted], reduction="sum"))
            count += int(predicted.sum())
        return total / count

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        mask = torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask
        keep = torch.zeros_like(mask) if self.keep is None else self.keep
        for i in range(0, len(self.ids), self.batch_size):
            part = slice(i, i + self.batch_size)
            ids, real, left = (t[part].to(self.model.device) for t in (self.ids.long(), mask, keep | ~mask))
            yield ids, real, left


def of_store(
    store: ActivationStore, rows: Rows, skip: int, tokens: int, device: str = "auto"
) -> CrossEntropy | str | None:
    """The cross-entropy on whole sequences behind the first `skip` rows of a store; a string is why it cannot be had.

    None where the store does not know its tokens. Positions that `rows` leaves out keep their activations.
    """
    name, layer = store.meta.get("model", {}).get("name"), store.meta.get("layer")
    if store.tokens is None or name is None or layer is None or tokens < 1:
        return None
    length = store.tokens.shape[1]
    first = int(rows.index[min(skip, rows.n - 1)]) // length + (skip > 0)
    sequences = slice(first, first + -(-tokens // length))
    ids = torch.as_tensor(store.tokens[sequences].astype("int64"))
    if not len(ids) or length < 2:
        return "no held-out sequence is left"
    used = torch.zeros(store.tokens.size, dtype=torch.bool)
    used[torch.as_tensor(rows.index)] = True
    site = store.meta.get("site", "resid_post")
    block = layer - (site == "resid_pre")
    if site not in ("resid_post", "resid_pre") or block < 0:
        return f"the activations ({site} of block {layer}) are not the output of a block"
    try:
        model = load_model(ModelConfig(name, layer), device)
        return CrossEntropy(
            model, block, ids, torch.as_tensor(store.mask[sequences].copy()), ~used.view(-1, length)[sequences]
        )
    except BadInput as error:
        return str(error)
