"""Loss of a language model whose activations an SAE's reconstruction replaces, for the report of a training run."""

from __future__ import annotations

from repro.activations.language_models.loss import LossMeter
from repro.sae import SAE


def loss_recovered(meter: LossMeter, sae: SAE) -> dict[str, float]:
    """loss_original, loss_reconstructed and loss_zero (nats a token), frac_recovered, as dictionary_learning names
    them: frac_recovered = (loss_zero - loss_reconstructed) / (loss_zero - loss_original).
    """
    sae = sae.to(meter.model.device)
    loss, zero = meter.of(sae).value(), meter.zero.value()["CE"]
    original, reconstructed = loss["CE_clean"], loss["CE"]
    recovered = (zero - reconstructed) / (zero - original) if zero != original else float("nan")
    return {
        "loss_original": original,
        "loss_zero": zero,
        "loss_reconstructed": reconstructed,
        "frac_recovered": recovered,
    }
