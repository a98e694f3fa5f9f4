"""AbsTopK: the k latents of each token whose scores are largest in size, with their signs (arXiv 2510.00404)."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from repro import ops
from repro.codes import SparseCodes
from repro.sae import topk


class AbsTopK(topk.TopK):
    """z = (x - b_dec) W_enc + b_enc on its k entries of largest size in each row, 0 elsewhere; SAELens's abstopk.

    The one variant whose codes are signed. Inference and metrics count on codes >= 0, so they read `one_sided`.
    """

    name = "abs_topk"
    sparsity = None
    trainer_class = ""

    def activate(self, pre: Tensor) -> Tensor:
        size = pre.abs() * self.weight if self.config.by_norm else pre.abs()
        best = size.topk(self.config.k, dim=-1, sorted=False).indices
        return torch.zeros_like(pre).scatter(-1, best, pre.gather(-1, best))

    def encode_block(self, x: Tensor) -> SparseCodes:
        (W_enc, b_enc), m = self.weighted(), self.config.m
        W_enc, b_enc = torch.cat([W_enc, -W_enc], 1), torch.cat([b_enc, -b_enc])  # one of each pair is positive at most
        codes = ops.encode_topk(self.encoder_input(x), W_enc, b_enc, self.config.k)
        negative = codes.indices >= m
        values, columns = torch.where(negative, -codes.values, codes.values), codes.indices - m * negative
        return self.unweighted(SparseCodes.packed(values, columns, m))

    def one_sided(self) -> topk.TopK:
        """The same SAE as a TopK of 2 m latents: latent j + m is latent j below zero, its atom turned round.

        Its reconstruction is the same, and the signed optimum over m atoms is the nonnegative one over these.
        """
        out = topk.TopK(replace(self.config, m=2 * self.config.m), copy.copy(self.source))
        for name, axis in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0)):
            weight = getattr(self, name).detach()
            setattr(out, name, nn.Parameter(torch.cat([weight, -weight], axis), requires_grad=False))
        out.b_dec = nn.Parameter(self.b_dec.detach().clone(), requires_grad=False)
        return out.to(self.W_dec.device).eval()
