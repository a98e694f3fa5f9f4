"""SAELens's matching_pursuit: cfg.json + sae_weights.safetensors without an encoder."""

from __future__ import annotations

from typing import Any

from repro.checkpoints.formats.saelens import NORMALISATIONS, UNFOLDED, described, scaling_factor
from repro.checkpoints.locate import Location
from repro.checkpoints.plan import Options, Plan, scaled, zeros
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import MatchingPursuit


def by_config(weights: Weights, config: dict[str, Any]) -> bool:
    """Does the config say so?"""
    return config.get("architecture") == "matching_pursuit"


def plan(weights: Weights, where: Location, options: Options) -> Plan:
    """Its atoms are its encoder. Without apply_b_dec_to_input the library leaves b_dec out of decoding as well."""
    config = where.config
    m, d = weights.matrix("W_dec")
    weights.agrees(config, d_in=d, d_sae=m)
    atoms, encoder = weights.tensor("W_dec", m, d), weights.tensor("W_dec", m, d, transpose=True)
    bias = weights.tensor("b_dec", d)
    threshold, notes = float(config.get("residual_threshold", 0.01)), []
    name = str(config.get("normalize_activations") or "none")
    if name not in NORMALISATIONS:
        raise CheckpointError(f"{weights.path} normalises activations by '{name}', which cannot be undone.")
    if name == "expected_average_only_in":  # pursuit of s x is s times that of x, but for where it ends
        factor = scaling_factor(weights, config, options)
        if factor is not None:
            bias, threshold = scaled(bias, 1 / factor), threshold / factor
        notes.append(UNFOLDED if factor is None else f"Scaling of activations by {factor:g} is folded into its bias.")
    sae_config = MatchingPursuit.Config(
        d,
        m,
        normalisation=NORMALISATIONS[name],  # type: ignore[arg-type]
        max_iterations=config.get("max_iterations"),
        residual_threshold=threshold,
        stop_on_duplicate=bool(config.get("stop_on_duplicate_support", True)),
    )
    tensors = {"W_enc": encoder, "b_enc": zeros(m), "W_dec": atoms, "b_dec": bias}
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_dec"] = zeros(d)
    return described(MatchingPursuit, sae_config, where, "matching_pursuit", tensors, None, notes)
