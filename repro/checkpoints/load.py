"""load_sae: any supported file or folder -> SAE; the reader is chosen by config, then by the names of the tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from repro.base.errors import BadInput
from repro.base.files import file_sha256
from repro.checkpoints.formats import (
    batch_topk_repo,
    dictionary_learning,
    gemma_scope,
    loca_release,
    native,
    openai,
    saelens,
    sparsify,
)
from repro.checkpoints.locate import Location, StepNotFound, locate
from repro.checkpoints.plan import Options, Plan
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE

READERS = (
    native,
    dictionary_learning,
    saelens,
    loca_release,
    batch_topk_repo,
    sparsify,
    gemma_scope,
    openai,
)


def load_sae(
    path: str | Path,
    step: int | None = None,
    layer: int | None = None,
    as_released: bool = False,
    eval_activation: Literal["threshold", "batch_topk"] | None = None,
    fallback_batch_topk: bool = False,
    norm_scaling_factor: float | None = None,
    scaled_atoms: bool = False,
    device: str = "cpu",
) -> SAE:
    """Read an SAE of any supported format, with the inference of the library that trained it.

    path: a weights file, or a folder with one checkpoint in it or below it.
    step: an intermediate checkpoint of the run (checkpoints/ae_{step}.pt, ..._checkpoints/trainer_i_step_{step});
        without it, or with the run's last step, the final one.
    layer: pick this layer in a folder of several, and refuse an SAE whose config names another.
    as_released: read the lossy ae.pt of a LocA folder as the release evaluates it (a dense ReLU encoder).
    eval_activation: "batch_topk" lets a BatchTopK SAE select over each batch, as in training.
    fallback_batch_topk: do so only where the threshold was never set (the first steps of a trajectory).
    norm_scaling_factor: SAELens's factor for expected_average_only_in, where its files do not hold it.
    scaled_atoms: accept a top-k SAE of dictionary_learning whose atoms do not have unit norm.

    Returns float32 weights that do not require gradients (sae.requires_grad_(True) to train on). `source` holds
    family, layer, k, step, sha256 and `extra["notes"]`, sentences worth knowing. Weights are read once, straight into
    place: at its peak, extra memory is the SAE itself and a few MiB.
    Raises CheckpointError, one sentence, when exact inference cannot be guaranteed.
    """
    options = Options(as_released, eval_activation, fallback_batch_topk, norm_scaling_factor, scaled_atoms)
    path = Path(path)
    if as_released and (path / "ae.pt").is_file() and (path / "multi_encoder_sae.pt").is_file():
        path = path / "ae.pt"
    try:
        plan = plan_of(locate(path, step, layer), options)
    except StepNotFound:
        if not path.is_file() or (plan := plan_of(locate(path), options)).source.step != step:
            raise
    told = plan.source.layer
    if layer is not None and told not in (None, layer):
        raise CheckpointError(
            f"{plan.source.path} was trained on layer {told}, not {layer}; leave layer out to load it."
        )
    plan.source.layer = told if told is not None else layer
    plan.source.sha256 = file_sha256(plan.source.path)
    return plan.build(options).to(device)


def plan_of(where: Location, options: Options) -> Plan:
    """Choose the reader and let it decide, without reading weights."""
    weights = Weights(where.weights)
    for recognises in ("by_config", "by_keys"):
        for reader in READERS:
            if getattr(reader, recognises)(weights, where.config):
                try:
                    plan = reader.plan(weights, where, options)
                except CheckpointError:
                    raise
                except BadInput as error:
                    raise CheckpointError(f"{where.weights}: {error}") from None
                except (TypeError, ValueError, KeyError, AttributeError) as error:
                    raise CheckpointError(
                        f"The config beside {where.weights} holds values that its library does not write "
                        f"({type(error).__name__}: {error}); restore the original one."
                    ) from None
                weights.refuse_unknown()
                plan.source = replace(plan.source, path=str(where.weights), trainer=where.trainer)
                return plan
    hint = (
        "put the cfg.json or config.json of its training run beside it"
        if not where.config
        else "its config is of no known library"
    )
    names = ", ".join(sorted(weights.shapes)[:8]) or "no tensors"
    raise CheckpointError(f"{where.weights} holds {names}, which no reader recognises; {hint}.")
