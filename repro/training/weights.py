"""Weights of an SAE in training: unit-scale input, encoder stored by latent; and their way to a finished SAE."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.sae import SAE, VARIANTS, Source
from repro.training.recipe import Job

STANDARD_NORM = 0.1  # initial norm of Standard's atoms, whose norms are free (Anthropic's April 2024 update)


class Weights:
    """Trainable tensors by name, as in the SAE, but for `rows` [m, d], which is W_enc transposed.

    With the encoder stored by latent, its gradient is a sum of inputs per latent and Adam walks contiguous memory.
    """

    def __init__(self, job: Job, d: int, device: torch.device | str = "cpu"):
        self.job = job
        self.config = job.config(d)
        generator = torch.Generator().manual_seed(job.seed)
        atoms = torch.randn(job.m, d, generator=generator)
        atoms /= atoms.norm(dim=1, keepdim=True)
        if not self.unit_norm:
            atoms *= STANDARD_NORM
        blank = VARIANTS[job.variant](self.config).requires_grad_(False)
        blank.W_dec.copy_(atoms)
        blank.begin(generator)
        tensors = {name: p.detach() for name, p in blank.named_parameters() if name != "W_enc"}
        tensors |= {"rows": atoms.clone()}
        self.tensors = {name: t.clone().to(device).requires_grad_() for name, t in tensors.items()}

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["tensors"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def unit_norm(self) -> bool:
        """True if atoms stay at unit norm."""
        return not VARIANTS[self.job.variant].free_norms

    @cached_property
    def blank(self) -> SAE:
        """An SAE of this kind, all zeros, for what is not a trained tensor: its methods, config and buffers."""
        return VARIANTS[self.job.variant](self.config).to(self.rows.device)

    def bias(self) -> Tensor:
        """Bias [m] that is added to x @ rows.T, with gradients: the encoder's bias, and b_dec seen through the encoder.

        Subtracting b_dec here, not from x, saves the product that its gradient would cost otherwise.
        """
        bias = self.tensors.get("b_enc")
        if not self.config.centred:
            assert bias is not None
            return bias
        shift = self.rows @ self.b_dec
        return -shift if bias is None else bias - shift

    @torch.no_grad()
    def load_sae(self, sae: SAE, scale: float = 1.0) -> None:
        """Take over the weights of an SAE for raw activations: the inverse of `to_sae`. BadInput for another kind."""
        if sae.name != self.job.variant or dataclasses.asdict(sae.config) != dataclasses.asdict(self.config):
            raise BadInput(
                f"Training of {self.job.variant} ({self.config}) cannot start from {sae.name} ({sae.config}); "
                "give an SAE of the same kind and shape."
            )
        for name, parameter in sae.named_parameters():
            factor = scale if name in sae.biases else 1.0
            trained = self.tensors["rows" if name == "W_enc" else name]
            trained.copy_((parameter.t() if name == "W_enc" else parameter) / factor)

    @torch.no_grad()
    def to_sae(self, scale: float = 1.0, threshold: float | None = None, source: Source | None = None) -> SAE:
        """The SAE for raw activations, which are `scale` times what was trained on; `threshold` in training units.

        All SAEs here are positively homogeneous: with every bias and threshold multiplied by s, encode(s x) =
        s encode(x), so the weights stay as they are. Standard's atoms get unit norm, which changes codes only by
        a factor for each latent.
        """
        sae = VARIANTS[self.job.variant](self.config, source)
        for name, parameter in sae.named_parameters():
            trained = self.rows.t() if name == "W_enc" else self.tensors[name]
            parameter.copy_(trained)
        for name in sae.biases:
            getattr(sae, name).mul_(scale)
        if threshold is not None and "threshold" in dict(sae.named_buffers()):
            sae.threshold.fill_(threshold * scale)  # type: ignore[union-attr, operator]
        return sae if self.unit_norm else sae.renormalised()


def geometric_median(x: Tensor, steps: int = 100, tol: float = 1e-5) -> Tensor:
    """The point [d] with the least sum of distances to the rows of x [n, d], by Weiszfeld's iteration."""
    guess = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - guess).norm(dim=1).clamp_min(1e-12)
        previous, guess = guess, (weight @ x) / weight.sum()
        if (guess - previous).norm() < tol:
            break
    return guess
