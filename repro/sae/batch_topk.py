"""BatchTopK: k latents a token on average, through one global threshold (Bussmann et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from repro import ops
from repro.base.errors import BadInput
from repro.codes import SparseCodes
from repro.sae import topk


@dataclass(frozen=True, kw_only=True)
class Config(topk.Config):
    """Knobs of BatchTopK."""

    eval_activation: Literal["threshold", "batch_topk"] = "threshold"
    """At inference: threshold = each token by itself; batch_topk = the n k largest of whatever batch is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_activation not in ("threshold", "batch_topk"):
            raise BadInput(f"eval_activation is '{self.eval_activation}'; it must be threshold or batch_topk.")
        if self.by_norm and self.eval_activation == "threshold":
            raise BadInput("A threshold on codes cannot weigh latents by_norm: set eval_activation to batch_topk.")


class BatchTopK(topk.TopK):
    """Inference: z = p 1[p > threshold] with p = ReLU((x - b_dec) W_enc + b_enc) and one scalar threshold.

    Training keeps the n k largest p of the batch. The buffer `threshold` [] is in raw units; -1 = never set
    (the first thousand steps of training), where only eval_activation = "batch_topk" has a meaning.
    """

    name = "batch_topk"
    trainer_class = "BatchTopKTrainer"
    Config: ClassVar[type[Any]] = Config

    def activate(self, pre: Tensor) -> Tensor:
        """pre [n, m] -> codes; BadInput if the threshold was never set and eval_activation does not say what then."""
        if self.config.eval_activation == "batch_topk":
            return self.train_activate(pre)
        p = pre.relu()
        return p * (p > self._set_threshold())

    def encode_block(self, x: Tensor) -> SparseCodes:
        encoder = self.encoder_input(x), *self.weighted()
        if self.config.eval_activation == "batch_topk":
            return self.unweighted(ops.encode_batch_topk(*encoder, len(x) * self.config.k))
        return ops.encode_above(*encoder, self._set_threshold())

    def _set_threshold(self) -> float:
        threshold = self.threshold.item()
        if threshold < 0:
            raise BadInput(
                f"The threshold of this {self.name} SAE is {threshold:g}, so it was never set (training "
                "stopped too early): load it with eval_activation='batch_topk' to select over each batch instead."
            )
        return threshold

    def train_activate(self, pre: Tensor) -> Tensor:
        """The n k largest of the whole batch [n, m]."""
        p = pre.relu()
        scores = (p * self.weight if self.config.by_norm else p).flatten()
        best = scores.topk(len(pre) * self.config.k, sorted=False).indices
        return torch.zeros_like(scores).scatter(0, best, p.flatten()[best]).view_as(pre)
