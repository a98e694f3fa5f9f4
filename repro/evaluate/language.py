"""Loss of the language model behind evaluation tokens, where reconstructions replace their activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from repro.metrics.loss import loss_columns

if TYPE_CHECKING:
    from repro.activations.language_models.loss import LossMeter, PatchedLoss
    from repro.activations.rows import Rows


class LanguageLoss:
    """Columns of losses on the first `tokens` tokens of evaluated rows, in whole sequences, for any SAE.

    The model is loaded, and ablated by zeros and by the rows' mean, once, when a loss is first asked for. Raises
    BadInput at once where the rows do not say their model, and later where it cannot be had (`open_meter`).
    """

    def __init__(self, rows: Rows, tokens: int, device: str = "auto"):
        from repro.activations.held_out import model_of

        model_of(rows)
        self.rows, self.tokens, self.device = rows, tokens, device

    @cached_property
    def meter(self) -> LossMeter:
        """The model and its text."""
        from repro.activations.held_out import open_meter

        return open_meter(self.rows, self.tokens, self.device)

    @cached_property
    def mean(self) -> PatchedLoss:
        """The loss after mean ablation, by the mean of all evaluated rows."""
        mean = sum((x.double().sum(0) for x in self.rows.blocks()), torch.zeros(self.rows.d).double()) / self.rows.n
        return self.meter.of(lambda x: mean.to(x).expand_as(x))

    def columns(self, reconstruct: Callable[[Tensor], Iterable[Tensor]], n: int) -> list[dict[str, float]]:
        """`metrics.loss.loss_columns` of each of the n reconstructions of activations [b, d], and lm_tokens."""
        losses = self.meter.each(reconstruct, n)
        return [
            {"lm_tokens": int(loss.tokens.sum()), **loss_columns(loss, self.mean, self.meter.zero)} for loss in losses
        ]
