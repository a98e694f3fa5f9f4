"""Encoders of other forms on the dictionary of a trained SAE: where their training begins, and what they cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from repro.base.errors import BadInput, nearest
from repro.sae import LISTA, MLP, SAE, VARIANTS
from repro.training.frozen import FrozenJob

READ = ("standard", "standard_uncentred", "topk", "batch_topk", "matryoshka_batch_topk", "jumprelu")
"""Variants whose scores are a linear function of the input, from which other encoders can begin."""


class Form(NamedTuple):
    """An encoder as a variant of the SAE and fields of its config."""

    variant: str
    options: tuple[tuple[str, Any], ...] = ()


FORMS = {
    "linear": Form("topk"),
    "mlp": Form("mlp"),
    "lista": Form("lista"),
    "correction": Form("lista", (("inner", "topk"), ("unrolled", 1))),
}
"""Name -> form: one product; a hidden layer beside it; learned ISTA; the k largest, then one correction step."""


def form_of(encoder: str, unrolled: int | None = None) -> Form:
    """A form by name; LISTA with so many steps. Raises BadInput for an unknown name."""
    if encoder not in FORMS:
        raise BadInput(f"No encoder '{encoder}'{nearest(encoder, FORMS)}; there are {', '.join(FORMS)}.")
    form = FORMS[encoder]
    return Form(form.variant, (("unrolled", unrolled),)) if encoder == "lista" and unrolled is not None else form


def encoder_job(form: Form, sae: SAE, k: float, seed: int = 0, imitates: bool = False) -> FrozenJob:
    """The training of an encoder of this form with k latents a token, decoder and its bias as they are."""
    return FrozenJob(
        form.variant, k, sae.config.m, seed, frozen=("W_dec", "b_dec"), imitates=imitates, options=form.options
    )


@torch.no_grad()
def beginning(job: FrozenJob, sae: SAE, x: torch.Tensor) -> SAE:
    """The SAE from which training of an encoder begins: the dictionary of `sae`, and its encoder where it is linear.

    Else the dictionary transposed. x [n, d], raw: LISTA's threshold is what the k largest scores of these exceed on
    average. Raises BadInput for an SAE that normalises each token, or whose codes are signed.
    """
    if sae.config.normalisation != "none" or sae.one_sided() is not sae:
        raise BadInput(f"This {sae.name} SAE normalises tokens or has signed codes; its decoder cannot be frozen yet.")
    sae = sae.renormalised()
    out = VARIANTS[job.variant](job.config(sae.config.d)).requires_grad_(False)
    out.W_dec.copy_(sae.W_dec)
    out.b_dec.copy_(sae.b_dec)
    out.W_enc.copy_(sae.W_enc if sae.name in READ else sae.W_dec.t())
    if sae.name in READ:
        out.b_enc.copy_(sae.b_enc if sae.centred else sae.b_enc + sae.b_dec @ sae.W_enc)
    out.begin(torch.Generator().manual_seed(job.seed))
    if isinstance(out, LISTA) and out.config.inner == "threshold":
        scores = (x - out.b_dec) @ out.W_enc + out.b_enc
        out.theta.fill_(float(scores.topk(out.config.k, dim=1).values[:, -1].mean().clamp_min(0)))
    return out


def parameters(sae: SAE) -> int:
    """Numbers that the encoder of an SAE is made of."""
    decoder = ("W_dec", "b_dec")
    unused = ("theta",) if isinstance(sae, LISTA) and sae.config.inner == "topk" else ()
    return sum(p.numel() for name, p in sae.named_parameters() if name not in (*decoder, *unused))


def flops(sae: SAE) -> float:
    """Floating-point operations a token of an encoder's products; selection and additions are left out."""
    d, m = sae.config.d, sae.config.m
    if isinstance(sae, MLP):
        return 2.0 * (d * m + (d + m) * sae.W_in.shape[1])
    if isinstance(sae, LISTA):
        decode = d * (sae.config.k if sae.config.inner == "topk" else m)
        return 2.0 * (d * m + sae.config.unrolled * (d * m + decode))
    return 2.0 * d * m
