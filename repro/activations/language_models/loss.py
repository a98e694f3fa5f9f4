"""Loss of a language model whose activations, at one site of one block, are replaced by reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from repro.activations.language_models.load import LoadedModel
from repro.activations.language_models.sites import changed
from repro.base.errors import BadInput
from repro.base.sums import Sums

SEQUENCES = 16  # of a forward pass, at most
LOGITS = 2**25  # numbers of the logits of a forward pass, about; one sequence at least
CHUNK = 512  # tokens whose probabilities are compared at a time

Reconstruct = Callable[[Tensor], Tensor]
"""Activations [n, d] float32 -> what takes their place, [n, d]."""


@dataclass(frozen=True)
class PatchedLoss(Sums):
    """Sums over the tokens of each document, arrays [documents] float64; losses in nats.

    A predicted token counts where the position that it is predicted from was patched. `a + b` adds tokens of the same
    documents.
    """

    tokens: np.ndarray
    """Predicted tokens."""
    ce: np.ndarray
    """Cross-entropy of the patched model."""
    ce_clean: np.ndarray
    """Cross-entropy of the model as it is, on the same tokens."""
    kl: np.ndarray
    """KL(clean || patched) of the predicted distributions."""
    positions: np.ndarray
    """Patched positions."""
    sse: np.ndarray
    """Σ‖x − x̂‖² over the patched positions."""
    sxx: np.ndarray
    """Σ‖x‖² over the patched positions."""

    def value(self) -> dict[str, float]:
        """Means over all tokens: CE, CE_clean and KL in nats a token; NMSE of the patched positions."""
        total = {name: float(values.sum()) for name, values in vars(self).items()}
        names = {"CE": "ce", "CE_clean": "ce_clean", "KL": "kl"}
        out = {name: total[field] / total["tokens"] for name, field in names.items()}
        return out | {"NMSE": total["sse"] / total["sxx"] if total["sxx"] > 0 else float("nan")}


@dataclass
class LossMeter:
    """A language model and held-out text, on which any reconstruction of the activations of one place is judged.

    It takes the place of what `sites` reads there; positions that are not patched keep their activations. Nothing but
    sums stays in memory: each pass computes the clean probabilities of a batch again, and after them the patched ones
    of the same batch, without the blocks before the place. Raises BadInput for a block that the model lacks, and where
    no predicted token counts.
    """

    model: LoadedModel
    layer: int
    """Block in which activations are replaced."""
    ids: Tensor
    """Token ids [sequences, seq_len]."""
    patched: Tensor
    """True at the positions that are patched, [sequences, seq_len]."""
    documents: Tensor
    """Document number of each position, [sequences, seq_len]; below 0 at padding."""
    site: str = "resid_post"
    """Which activations of the block: resid_post, resid_pre, attn_out, mlp_out or hook_z."""

    def __post_init__(self) -> None:
        blocks, shape = len(self.model.blocks), tuple(self.ids.shape)
        if not 0 <= self.layer < blocks:
            raise BadInput(f"The model has blocks 0 to {blocks - 1}, so none is layer {self.layer}.")
        if self.ids.ndim != 2 or shape[1] < 2 or not len(self.ids):
            raise BadInput(f"Token ids have shape {shape}: give sequences of at least two tokens.")
        if tuple(self.patched.shape) != shape or tuple(self.documents.shape) != shape:
            raise BadInput(f"Patched positions and document numbers need the shape of the token ids, {list(shape)}.")
        real = self.documents >= 0
        self.patched = self.patched & real
        self.counted = self.patched.clone()
        self.counted[:, :-1] &= real[:, 1:]
        self.counted[:, -1] = False
        if not bool(self.counted.any()):
            raise BadInput("No position is patched that predicts a token; exclude fewer positions or give more text.")
        self.known, inverse = self.documents[self.patched].unique(return_inverse=True)
        self.group = torch.full(shape, -1).masked_scatter_(self.patched, inverse)

    @cached_property
    def clean(self) -> PatchedLoss:
        """The loss of the model as it is."""
        return self.of(lambda x: x)

    @cached_property
    def zero(self) -> PatchedLoss:
        """The loss after zero ablation."""
        return self.of(torch.zeros_like)

    def of(self, reconstruct: Reconstruct) -> PatchedLoss:
        """The loss where `reconstruct` replaces the activations of patched positions."""
        return self.each(lambda x: (reconstruct(x),), 1)[0]

    @torch.no_grad()
    def each(self, reconstruct: Callable[[Tensor], Iterable[Tensor]], n: int) -> list[PatchedLoss]:
        """The losses of each of the n reconstructions of x that `reconstruct` gives, in one pass over the text."""
        sums = [PatchedLoss(*np.zeros((7, self.n_documents))) for _ in range(n)]
        for rows in self._batches():
            ids, patched, counted = self.ids[rows], self.patched[rows], self.counted[rows]
            targets, group = ids[:, 1:][counted[:, :-1]], self.group[rows]
            logits, stream, value = self._clean(rows)
            clean, hidden = logits[counted], value.reshape(*ids.shape, -1)
            del logits  # of all positions
            x = hidden[patched].float()
            for i, x_hat in zip(range(n), reconstruct(x), strict=True):
                new = hidden.clone()
                new[patched] = x_hat.to(hidden)
                other = self._patched(rows, stream, new.reshape(value.shape))[counted]
                error, size = (x - x_hat.to(x)).double().square().sum(1), x.double().square().sum(1)
                by_token = (torch.ones(len(clean)), *compared(clean, other, targets.to(clean.device)))
                parts = [self._by_document(values, group[counted]) for values in by_token]
                parts += [self._by_document(values, group[patched]) for values in (torch.ones(len(x)), error, size)]
                sums[i] += PatchedLoss(*parts)
        return sums

    @property
    def n_documents(self) -> int:
        """Documents with a patched position."""
        return len(self.known)

    def _batches(self) -> Iterator[tuple[slice, slice]]:
        """Some sequences at a time, cut at the longest of them, as an index of [sequences, seq_len]."""
        size = max(1, min(SEQUENCES, LOGITS // (self.ids.shape[1] * self.model.vocabulary)))
        for i in range(0, len(self.ids), size):
            real = (self.documents[i : i + size] >= 0).any(0).nonzero()
            if bool(self.patched[i : i + size].any()):
                yield slice(i, i + size), slice(0, int(real[-1]) + 1)

    def _logits(self, rows: tuple[slice, slice]) -> Tensor:
        """Logits [B, T, vocabulary] of some sequences."""
        ids, real = self.ids[rows].to(self.model.device).long(), self.documents[rows] >= 0
        mask = None if bool(real.all()) else real.to(ids.device).long()
        return self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    @property
    def _before(self) -> nn.ModuleList:
        """The blocks that need not run again: what they compute does not depend on the site."""
        return self.model.blocks[: self.layer + (self.site == "resid_post")]

    def _clean(self, rows: tuple[slice, slice]) -> tuple[Tensor, Any, Tensor]:
        """Logits of the model as it is, what the last of the blocks before gives (None without one), and the site."""
        stream: list[Any] = []
        values: list[Tensor] = []
        with ExitStack() as stack:
            if len(self._before):
                hook = self._before[-1].register_forward_hook(lambda module, args, output: stream.append(output))
                stack.callback(hook.remove)
            stack.enter_context(changed(self.model.blocks[self.layer], self.site, values.append))
            logits = self._logits(rows)
        return logits, stream[0] if stream else None, values[0]

    def _patched(self, rows: tuple[slice, slice], stream: Any, new: Tensor) -> Tensor:
        """Logits where `new` is at the site, and the blocks before give `stream`."""
        with bypassed(self._before, stream), changed(self.model.blocks[self.layer], self.site, lambda value: new):
            return self._logits(rows)

    def _by_document(self, values: Tensor, group: Tensor) -> np.ndarray:
        out = torch.zeros(self.n_documents, dtype=torch.float64)
        return out.index_add_(0, group, values.double().cpu()).numpy()


@contextmanager
def bypassed(blocks: Iterable[nn.Module], output: Any) -> Iterator[None]:
    """Inside, these blocks compute nothing, and what the last of them gives is `output`."""
    own = [(block, vars(block).get("forward")) for block in blocks]  # accelerate sets one of its own
    for block, _ in own:
        block.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for block, forward in own:
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def compared(clean: Tensor, other: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy of the other, of the clean logits, KL(clean || other)) of each token, [n] from logits [n, V]."""
    parts = []
    for i in range(0, len(targets), CHUNK):
        rows = slice(i, i + CHUNK)
        p, q = (log_softmax(logits[rows].float(), dim=-1) for logits in (clean, other))
        of_targets = (-log.gather(1, targets[rows, None])[:, 0] for log in (q, p))
        parts.append((*of_targets, (p.exp() * (p - q)).sum(1)))
    ce, ce_clean, kl = (torch.cat(part) for part in zip(*parts, strict=True))
    return ce, ce_clean, kl
