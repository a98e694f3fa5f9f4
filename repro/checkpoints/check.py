"""check_sae: does an SAE fit these activations? Layer, units, L0, norms and dead latents, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repro.base.errors import BadInput
from repro.checkpoints.match import same_model
from repro.sae import SAE, BatchTopK

FACTORS = tuple(2.0**i for i in range(-8, 9))
_MARGIN = 0.02  # FVE by which another layer or scale has to be better before it is named
_PROBE = 2048  # tokens on which other scales are tried


@dataclass
class Report:
    """What check_sae found: `ok`, sentences for people, numbers per layer, and the SAE's own numbers."""

    ok: bool
    sentences: list[str]
    layers: dict[int, dict[str, float]]
    numbers: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def check_sae(sae: SAE, x_by_layer: Mapping[int, Tensor] | Tensor, lm_name: str = "") -> Report:
    """Run an SAE on activations x [n, d] of its layer L, and of L-1 and L+1 where given, keyed by layer.

    A tensor alone is taken to be of the SAE's own layer.

    layers[L]: FVE, NMSE, L0, norm (median). numbers: layer, dead (share of latents that never fire on these tokens),
    tokens, atom norms, best_scale (the factor on x that reconstructs best). `ok` is False if layer, units, model or L0
    look wrong. lm_name: the model that the activations are from, compared with the SAE's.
    Raises BadInput if the activations of the SAE's own layer are missing.
    """
    if isinstance(x_by_layer, Tensor):
        x_by_layer = {sae.source.layer or 0: x_by_layer}
    layer = _own_layer(sae, x_by_layer)
    layers: dict[int, dict[str, float]] = {}
    fired = torch.zeros(sae.config.m, dtype=torch.bool, device=sae.W_dec.device)
    for number, x in sorted(x_by_layer.items()):
        sae.check_input(x)
        layers[number], active = _measure(sae, x.to(fired.device, torch.float32))
        if number == layer:
            fired = active
    own, x = layers[layer], x_by_layer[layer].to(fired.device, torch.float32)
    scale, fve_scaled, fve = _best_scale(sae, x[:_PROBE])
    norms = sae.W_dec.norm(dim=1)
    numbers = {
        "layer": layer,
        "tokens": len(x),
        "dead": 1 - fired.float().mean().item(),
        "atom_norm_min": norms.min().item(),
        "atom_norm_max": norms.max().item(),
        "best_scale": scale,
    }
    wrong = [
        *_wrong_model(sae, lm_name),
        *_wrong_layer(layers, layer),
        *_wrong_units(scale, fve_scaled, fve),
        *_wrong_l0(sae, own["L0"]),
    ]
    if not own["FVE"] > -float("inf"):
        wrong.append("These activations do not vary, so nothing can be said of the SAE: give those of a text.")
    if not wrong and own["FVE"] < 0:
        wrong.append(
            f"It explains less than the mean of these activations does (FVE {own['FVE']:.3f}): they are of another "
            "model, layer or unit than the SAE was trained on, or it was hardly trained."
        )
    return Report(not wrong, [_summary(sae, numbers, own), *wrong, *_remarks(sae, x, numbers)], layers, numbers)


def _own_layer(sae: SAE, x_by_layer: Mapping[int, Tensor]) -> int:
    if not x_by_layer:
        raise BadInput("Give the activations of at least one layer to check an SAE.")
    layer = sae.source.layer
    if layer is None:
        if len(x_by_layer) > 1:
            raise BadInput(
                "This SAE does not say its layer: load it with layer=L, or give the activations of one layer."
            )
        return next(iter(x_by_layer))
    if layer not in x_by_layer:
        raise BadInput(
            f"The SAE was trained on layer {layer}, and the activations are of layer "
            f"{', '.join(map(str, sorted(x_by_layer)))}: collect layer {layer} (the output of block {layer})."
        )
    return layer


def _measure(sae: SAE, x: Tensor) -> tuple[dict[str, float], Tensor]:
    """FVE, NMSE, mean L0 and median norm of x [n, d], and which latents fired [m]."""
    fired = torch.zeros(sae.config.m, dtype=torch.bool, device=x.device)
    error = active = 0.0
    step = max(1, 2**25 // sae.config.m)
    for block in x.split(step):
        z = sae.encode(block)
        error += (block - sae.decode(z, block)).double().square().sum().item()
        active += (z != 0).sum().item()
        fired |= (z != 0).any(0)
    total = x.double().square().sum().item()
    variance = (x.double() - x.double().mean(0)).square().sum().item()
    out = {
        "FVE": 1 - error / variance if variance else float("nan"),
        "NMSE": error / total if total else float("nan"),
        "L0": active / len(x),
        "norm": x.norm(dim=1).median().item(),
    }
    return out, fired


def _best_scale(sae: SAE, x: Tensor) -> tuple[float, float, float]:
    """(s, FVE of s x, FVE of x) for the factor s that shows x to be in other units than the SAE's; s = 1 if none does.

    With thresholds, a larger s fires more latents and so explains more even in the right units: it counts only where
    the SAE is all but silent. A smaller s, with fewer latents, explains more only if the units are wrong. Per-row
    top-k has the same number of latents at every scale, so either direction counts.
    """
    fve = {s: _measure(sae, s * x)[0]["FVE"] for s in (FACTORS if sae.config.normalisation == "none" else (1.0,))}
    free = sae.latents_compete and not isinstance(sae, BatchTopK)
    counts = [s for s in fve if s < 1 or free or (fve[1.0] < 0.1 and fve[s] > 0.4)]
    best = max(counts, key=lambda s: fve[s], default=1.0)
    return (best if fve[best] > fve[1.0] + _MARGIN else 1.0), fve[best], fve[1.0]


def _wrong_model(sae: SAE, lm_name: str) -> list[str]:
    theirs = sae.source.lm_name
    if not lm_name or not theirs or same_model(theirs, lm_name) is not False:
        return []
    return [f"The SAE was trained on {theirs}, and the activations are of {lm_name}."]


def _wrong_layer(layers: Mapping[int, dict[str, float]], layer: int) -> list[str]:
    best = max(layers, key=lambda number: layers[number]["FVE"])
    if best == layer or layers[best]["FVE"] < layers[layer]["FVE"] + _MARGIN:
        return []
    return [
        f"The layer looks wrong: it explains layer {best} (FVE {layers[best]['FVE']:.3f}) better than its own layer "
        f"{layer} (FVE {layers[layer]['FVE']:.3f}); note that the output of block L is hidden_states[L + 1]."
    ]


def _wrong_units(scale: float, fve_scaled: float, fve: float) -> list[str]:
    if scale == 1.0:
        return []
    return [
        f"The units look wrong: multiplied by {scale:g}, these activations are explained better (FVE {fve_scaled:.3f} "
        f"instead of {fve:.3f}); either the SAE was trained on scaled activations, or these are scaled."
    ]


def _wrong_l0(sae: SAE, l0: float) -> list[str]:
    target = getattr(sae.config, "k", None) or (sae.source.extra.get("trainer") or {}).get("target_l0")
    if target is None or 0.5 * target <= l0 <= 1.5 * target:
        return []
    return [
        f"L0 looks wrong: {l0:.1f} latents fire on a token, and the config says {target:g}; the threshold, the layer "
        "or the units do not fit."
    ]


def _summary(sae: SAE, numbers: Mapping[str, Any], own: Mapping[str, float]) -> str:
    return (
        f"{sae.name} SAE, {sae.config.m} latents, on {numbers['tokens']} tokens of layer {numbers['layer']}: "
        f"FVE {own['FVE']:.3f}, NMSE {own['NMSE']:.3f}, L0 {own['L0']:.1f}, {numbers['dead']:.1%} of latents dead."
    )


def _remarks(sae: SAE, x: Tensor, numbers: Mapping[str, Any]) -> list[str]:
    """Sentences that do not make the check fail."""
    out = list(sae.source.extra.get("notes") or [])
    low, high = numbers["atom_norm_min"], numbers["atom_norm_max"]
    if high - 1 > 1e-2 or 1 - low > 1e-2:
        fix = "" if sae.latents_compete else "; sae.renormalised() reconstructs the same with unit atoms"
        out.append(f"Atoms have norms from {low:.3g} to {high:.3g}, so one L1 penalty weighs latents differently{fix}.")
    norm = x.norm(dim=1)
    heavy = (norm > 10 * norm.median()).sum().item()
    if heavy:
        out.append(
            f"{heavy} tokens have norms above 10 medians and dominate FVE; exclude BOS and the first position, or set "
            "max_norm_ratio."
        )
    return out
