"""Training in part: encoders on a dictionary that stays, dictionaries that stay or move little, codes by pursuit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from repro.base.errors import BadInput
from repro.sae import VARIANTS
from repro.solvers import pursuit
from repro.training.losses import Loss, in_training
from repro.training.recipe import Job
from repro.training.trainer import Trainer

Codes = Literal["encoder", "pursuit", "matching_pursuit"]


class FrozenTrainer(Trainer):
    """Trainer of a `FrozenJob`: its loss, and what it does to the atoms after each step."""

    job: FrozenJob

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.first = self.weights.W_dec.detach().clone()  # like all that a seed or a start decides, not in the state

    def _loss(self, x: Tensor, buffer: Tensor | None = None) -> Loss:
        if self.job.imitates:
            return imitation(self, self.job, x)
        if self.job.codes != "encoder":
            return explained(self, self.job, x)
        return super()._loss(x, buffer)

    @torch.no_grad()
    def _follow(self, loss: Loss) -> None:
        super()._follow(loss)
        w, job = self.weights, self.job
        if job.least_cosine is not None:
            w.W_dec.copy_(near(w.W_dec, self.first, job.least_cosine))
        if job.codes != "encoder":
            dead = (self.silent >= self.recipe.dead_after_tokens).nonzero().squeeze(1)[: len(loss.error)]
            worst = loss.error.square().sum(1).topk(len(dead)).indices
            w.W_dec[dead] = torch.nn.functional.normalize(loss.error[worst])
            self.silent[dead] = 0
            w.rows.copy_(w.W_dec)


@dataclass(frozen=True)
class FrozenJob(Job):
    """An SAE with a k of which some weights stay as training begins, or whose training codes are not its encoder's."""

    trainer_class: ClassVar[Any] = FrozenTrainer

    frozen: tuple[str, ...] = ()
    """Tensors that stay: W_dec, b_dec, rows (the encoder), b_enc."""
    least_cosine: float | None = None
    """Each atom keeps at least this cosine with the atom that training began with (soft-frozen decoder)."""
    codes: Codes = "encoder"
    """pursuit: orthogonal matching pursuit of k atoms; matching_pursuit: by SAELens's rule, with gradients through the
    codes. The SAE's encoder is then its decoder transposed, and atoms that no token uses become what the worst tokens
    leave unexplained (K-SVD's rule, Aharon et al. 2006)."""
    imitates: bool = False
    """Minimise the squared distance of the codes to those of pursuit, instead of the reconstruction's error."""
    options: tuple[tuple[str, Any], ...] = ()
    """Further fields of the SAE's config: hidden, unrolled, inner."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity_name != "k":
            raise BadInput(f"{self.variant} has no k: freeze parts of topk, batch_topk, mlp or lista.")
        if self.codes != "encoder":
            object.__setattr__(self, "frozen", tuple(sorted({*self.frozen, "rows", "b_enc"})))

    @property
    def stays(self) -> tuple[str, ...]:
        """Names of the tensors that stay."""
        return self.frozen

    def config(self, d: int) -> Any:
        """The config of the SAE for activations of width d."""
        return VARIANTS[self.variant].Config(d, self.m, k=int(self.sparsity), **dict(self.options))


def imitation(trainer: Trainer, job: Job, x: Tensor) -> Loss:
    """Mean over tokens of |ReLU(scores) - pursuit's codes|² over all latents; the error is that of the k largest."""
    w, k = trainer.weights, int(job.sparsity)
    with torch.no_grad():
        wanted = pursuit(x - w.b_dec, w.W_dec, k).to_dense()
    scores = in_training(w, x, lambda sae, x: sae.pre(x))
    with torch.no_grad():
        z = w.blank.activate(scores)
        error = x - w.b_dec - z @ w.W_dec
    total = (scores.relu() - wanted).square().sum() / len(x)
    return Loss(total, error, (z > 0).any(0), int(torch.count_nonzero(z)))


def explained(trainer: Trainer, job: FrozenJob, x: Tensor) -> Loss:
    """The error that pursuit's codes leave, with gradients to the atoms and b_dec; matching pursuit's through codes."""
    w, k = trainer.weights, int(job.sparsity)
    y = x - w.b_dec
    if job.codes == "pursuit":
        codes = pursuit(y.detach(), w.W_dec.detach(), k)
        chosen, values = codes.indices, codes.values
        error = y - embedding_bag(chosen, w.W_dec, per_sample_weights=values, mode="sum")
    else:
        chosen, values, error = matching(y, w.W_dec, k)
    fired = torch.zeros(job.m, dtype=torch.bool, device=x.device)
    fired[chosen[values > 0]] = True
    return Loss(error.square().sum() / len(x), error.detach(), fired, int((values > 0).sum()))


def matching(y: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k steps of matching pursuit of y [n, d] by SAELens's rule: atoms [n, k], their codes [n, k], residuals [n, d].

    Gradients flow through codes and residuals, not through the choice of the atoms (Costa et al. 2025).
    """
    chosen, values = [], []
    for _ in range(k):
        with torch.no_grad():
            best = (y @ atoms.t()).argmax(1)
        d = atoms[best]
        gain = (y * d).sum(1).relu()
        y = y - gain[:, None] * d
        chosen.append(best)
        values.append(gain.detach())
    return torch.stack(chosen, 1), torch.stack(values, 1), y


def near(atoms: Tensor, first: Tensor, least: float) -> Tensor:
    """Unit atoms [m, d], those whose cosine with `first` is below `least` turned back to it, in the plane of both."""
    cosine = (atoms * first).sum(1, keepdim=True)
    aside = torch.nn.functional.normalize(atoms - cosine * first)
    return torch.where(cosine < least, least * first + (1 - least**2) ** 0.5 * aside, atoms)
