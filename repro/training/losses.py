"""The loss of each variant: LOSSES[variant](weights, x, situation) -> Loss, for one batch x [n, d] of unit scale.

They read and decode only the codes that are not zero. A variant that is not in LOSSES has the `general` loss, which is
dense. Reconstruction is always sum over d, mean over tokens, of (x - x_hat)^2. Sources: dictionary_learning's trainers
(the recipe of SAEBench); departures from them are said where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from repro.base.errors import BadInput
from repro.sae import SAE
from repro.training.places import Places, places_at, places_where
from repro.training.selection import batch_top_k, row_top_k
from repro.training.weights import Weights


@dataclass
class Situation:
    """The settings and the state of training that a loss reads besides weights and data."""

    sparsity: float
    """k, the L1 coefficient or the target L0, as in the job."""
    warm: float = 1.0
    """Share of the sparsity penalty to apply."""
    bandwidth: float = 0.001
    """JumpReLU's window."""
    auxk_alpha: float = 0.0
    """Weight of AuxK."""
    silent: Tensor | None = None
    """Tokens since each latent fired [m], before this batch."""
    dead_after: int = 0
    """Tokens without firing that make a latent dead."""
    guess: float = 0.0
    """About the threshold of this batch; makes the selection faster, changes nothing else."""
    buffer: Tensor | None = None
    """Memory [n, m] for the pre-activations."""
    sparse: bool | None = None
    """Layout of the codes; None = whichever is faster."""


@dataclass
class Loss:
    """One batch: what to minimise, and what to watch."""

    total: Tensor
    error: Tensor
    """x - x_hat [n, d], without gradients."""
    fired: Tensor
    """Which latents [m] had a positive code."""
    nonzeros: int
    """Positive codes."""
    threshold: float | None = None
    """Smallest code that was kept (TopK: mean over tokens); None if nothing was, or where there is no threshold."""


def standard(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction + l1 * mean over tokens of sum_j |z_j| |d_j| (Anthropic's April 2024 update)."""
    bias, pre = pre_activations(w, x, at)
    places = places_where(pre, pre > 0, at.sparse)
    z = places.read(x, w.rows, bias).relu()
    error = x - w.b_dec - places.decode(z, w.W_dec)
    penalty = (places.per_latent(z) * w.W_dec.norm(dim=1)).sum() / len(x)
    return _loss(_mse(error) + at.sparsity * at.warm * penalty, error, places, z)


def topk(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction from the k largest codes of each token, + AuxK."""
    bias, pre = pre_activations(w, x, at)
    flat = row_top_k(pre, int(at.sparsity))
    kept = pre.view(-1)[flat].view(len(x), -1)
    least = torch.where(kept > 0, kept, torch.inf).amin(1)
    least = least[least.isfinite()]
    return top_k_loss(w, x, at, bias, pre, flat, float(least.mean()) if len(least) else None)


def batch_topk(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction from the n k largest codes of the batch, + AuxK; Matryoshka: the mean over prefixes of latents.

    Matryoshka's mask is the global one: each prefix reconstructs with those of the batch's n k codes that lie in it.
    """
    bias, pre = pre_activations(w, x, at)
    flat = batch_top_k(pre, len(x) * int(at.sparsity), at.guess)
    threshold = float(pre.view(-1)[flat].min()) if len(flat) else None
    return top_k_loss(w, x, at, bias, pre, flat, threshold, getattr(w.config, "group_sizes", ()))


def gated(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction + l1 * sum of the gates' ReLU + its reconstruction through a frozen decoder (2404.16014)."""
    bias, pre = pre_activations(w, x, at)
    places = places_where(pre, pre > -w.gate_bias, at.sparse)
    u = places.read(x, w.rows, bias)
    gate = (u + places.spread(w.gate_bias)).relu()
    z = (gate > 0) * (places.spread(w.r_mag).exp() * u + places.spread(w.mag_bias)).relu()
    error = x - w.b_dec - places.decode(z, w.W_dec)
    frozen = x - w.b_dec.detach() - places.decode(gate, w.W_dec.detach())
    total = _mse(error) + _mse(frozen) + at.sparsity * at.warm * gate.sum() / len(x)
    return _loss(total, error, places, z)


def jumprelu(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction + (L0 / target - 1)^2, thresholds by straight-through estimates (2407.14435, equations 11, 12).

    As in that paper, the step function sees the pre-activations and codes are never negative. dictionary_learning's
    sees the codes behind the jump, so that only the upper half of the window pulls on a threshold, and lets negative
    codes through in training where a threshold has fallen below 0.
    """
    bias, pre = pre_activations(w, x, at)
    places = places_where(pre, pre > w.threshold.detach() - at.bandwidth / 2, at.sparse)
    z, count = _Jump.apply(places.read(x, w.rows, bias), places.spread(w.threshold), at.bandwidth)
    error = x - w.b_dec - places.decode(z, w.W_dec)
    return _loss(_mse(error) + at.warm * (count / len(x) / at.sparsity - 1).square(), error, places, z)


class _Call(nn.Module):
    """A function of an SAE and x [n, d], for `functional_call`."""

    def __init__(self, sae: SAE, function: Callable[[SAE, Tensor], Any]):
        super().__init__()
        self.sae, self.function = sae, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.sae, x)


def in_training(w: Weights, x: Tensor, function: Callable[[SAE, Tensor], Any]) -> Any:
    """function(SAE, x) with the tensors in training as the SAE's weights, with gradients to them."""
    tensors = {f"sae.{name}": t for name, t in w.tensors.items() if name != "rows"} | {"sae.W_enc": w.rows.t()}
    return functional_call(_Call(w.blank, function), tensors, (x,))


def _codes(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n, m] in training and their penalty."""
    z = sae.train_activate(sae.pre(x))
    return z, sae.penalty(z)


def general(w: Weights, x: Tensor, at: Situation) -> Loss:
    """Reconstruction from `train_activate`, + l1 * `penalty`, or + AuxK where the sparsity is k; dense, by autograd."""
    if w.job.sparsity_name == "target_l0":
        raise BadInput(f"Variant {w.job.variant} aims at an L0: give it a loss of its own in training.losses.LOSSES.")
    z, penalty = in_training(w, x, _codes)
    error = x - w.b_dec - z @ w.W_dec
    loss = Loss(_mse(error), error.detach(), (z > 0).any(0), int(torch.count_nonzero(z)))
    if w.job.sparsity_name == "l1_penalty":
        loss.total = loss.total + at.sparsity * at.warm * penalty
        return loss
    return with_auxk(loss, w, x, w.bias(), at)


LOSSES: dict[str, Callable[[Weights, Tensor, Situation], Loss]] = {
    "standard": standard,
    "topk": topk,
    "batch_topk": batch_topk,
    "matryoshka_batch_topk": batch_topk,
    "gated": gated,
    "jumprelu": jumprelu,
}


def auxk(w: Weights, x: Tensor, bias: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """Error left when dead latents explain the residual, over the residual's variance (Gao et al. 2024).

    Each token may use the d / 2 dead latents with the largest positive scores. `error` must carry no gradient: the
    live latents are not to be pulled towards what they leave over.
    """
    ids = dead.nonzero().squeeze(1)
    z = torch.nn.functional.linear(x, w.rows.index_select(0, ids), bias.index_select(0, ids)).relu()
    k = max(1, x.shape[1] // 2)
    if k < len(ids):
        z = z * torch.zeros_like(z).scatter_(1, z.detach().topk(k, dim=1, sorted=False).indices, 1.0)
    missed = _mse(error - z @ w.W_dec.index_select(0, ids))
    return (missed / _mse(error - error.mean(0))).nan_to_num(0.0)


def pre_activations(w: Weights, x: Tensor, at: Situation) -> tuple[Tensor, Tensor]:
    """Bias [m] with gradients, and pre-activations [n, m] without."""
    bias = w.bias()
    with torch.no_grad():
        return bias, torch.addmm(bias, x, w.rows.t(), out=at.buffer)


def _mse(error: Tensor) -> Tensor:
    return error.square().sum() / len(error)


def _loss(total: Tensor, error: Tensor, places: Places, z: Tensor, threshold: float | None = None) -> Loss:
    z = z.detach()  # never negative
    return Loss(total, error.detach(), places.per_latent(z) > 0, int(torch.count_nonzero(z)), threshold)


def top_k_loss(
    w: Weights,
    x: Tensor,
    at: Situation,
    bias: Tensor,
    pre: Tensor,
    flat: Tensor,
    threshold: float | None = None,
    prefixes: Sequence[int] = (),
) -> Loss:
    """Reconstruction from the codes at the flat positions of pre [n, m] (mean over prefixes, if any), + AuxK."""
    places = places_at(pre, flat, at.sparse)
    z = places.keep(places.read(x, w.rows, bias).relu())
    sizes = tuple(prefixes) or (w.config.m,)
    error, terms = x - w.b_dec, []
    groups: Sequence[tuple[Places, Tensor]] = places.split(z, sizes) if len(sizes) > 1 else [(places, z)]
    for (part, values), atoms in zip(groups, w.W_dec.split(sizes), strict=True):
        error = error - part.decode(values, atoms)
        terms.append(_mse(error))
    loss = _loss(torch.stack(terms).mean(), error, places, z, threshold)
    return with_auxk(loss, w, x, bias, at)


def with_auxk(loss: Loss, w: Weights, x: Tensor, bias: Tensor, at: Situation) -> Loss:
    """The loss with AuxK added where latents are dead and the recipe asks for it."""
    if at.auxk_alpha > 0 and at.silent is not None:
        dead = ~loss.fired & (at.silent + len(x) >= at.dead_after)
        if bool(dead.any()):
            loss.total = loss.total + at.auxk_alpha * auxk(w, x, bias, loss.error, dead)
    return loss


class _Jump(Function):
    """u, threshold -> ReLU(u 1[u > threshold]), and how many u exceed their threshold.

    Both jump there; their gradients to the threshold are averages over a window of width `bandwidth` around it, in
    which few u lie: -threshold / bandwidth for the code, -1 / bandwidth for the count.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        on = u > threshold
        z = (u * on).relu_()
        ctx.save_for_backward(u, threshold, z)
        ctx.bandwidth = bandwidth
        return z, torch.count_nonzero(on).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_count: Tensor) -> tuple[Tensor | None, ...]:
        u, threshold, z = ctx.saved_tensors
        near = ((u - threshold).abs_() < ctx.bandwidth / 2).view(-1).nonzero().squeeze(1)
        owner = near % len(threshold)  # u is [n, m] or, like threshold, [places]
        pull = -(threshold[owner] * grad.reshape(-1)[near] + grad_count) / ctx.bandwidth
        return grad * (z > 0), torch.zeros_like(threshold).index_add_(0, owner, pull), None
