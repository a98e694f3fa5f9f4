"""load_sae: any supported file or folder -> SAE; the reader is chosen by config, then by the names of the tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from repro.base.errors import BadInput
from repro.base.files import file_sha256
from repro.checkpoints.formats import (
    attn_saes,
    bare,
    batch_topk_repo,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hypothesaes,
    latentsae,
    llamascopium,
    loca_release,
    native,
    openai,
    qwen_scope,
    saelens,
    saelens_pursuit,
    sparsify,
)
from repro.checkpoints.formats.others import SUPPORTED, refuse_known
from repro.checkpoints.locate import Location, StepNotFound, locate, located, site_notes
from repro.checkpoints.plan import Options, Plan
from repro.checkpoints.weights import CheckpointError, Weights
from repro.sae import SAE

# readers that know their configs, and readers that know files without one, in the order in which they are asked
BY_CONFIG: tuple[ModuleType, ...] = (
    native,
    dictionary_learning,
    saelens_pursuit,
    saelens,
    gemma_scope_2,
    llamascopium,
    loca_release,
    batch_topk_repo,
    attn_saes,
    latentsae,
    hypothesaes,
    sparsify,
    openai,
)
BY_KEYS: tuple[ModuleType, ...] = (
    goodfire,
    qwen_scope,
    gemma_scope_2,
    llamascopium,
    hypothesaes,
    dictionary_learning,
    loca_release,
    batch_topk_repo,
    sparsify,
    gemma_scope,
    openai,
    bare,
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
    normalize: bool | None = None,
    variant: str | None = None,
    k: int | None = None,
    centred: bool | None = None,
) -> SAE:
    """Read an SAE of any supported format, with the inference of the library that trained it.

    path: a weights file, or a folder with one checkpoint in it or below it.
    step: an intermediate checkpoint of the run (checkpoints/ae_{step}.pt, ..._checkpoints/trainer_i_step_{step});
        without it, or with the run's last step, the final one.
    layer: pick the SAE of this layer in a folder of several, and refuse an SAE whose config names another.
    as_released: read the lossy ae.pt of a LocA folder as the release evaluates it (a dense ReLU encoder).
    eval_activation: "batch_topk" lets a BatchTopK SAE select over each batch, as in training.
    fallback_batch_topk: do so only where the threshold was never set (the first steps of a trajectory).
    norm_scaling_factor: SAELens's factor for expected_average_only_in, where its files do not hold it.
    scaled_atoms: accept a top-k SAE of dictionary_learning whose atoms do not have unit norm.
    normalize: divide atoms by their norms and multiply codes by them, as dictionary_learning's load_dictionary does
        for its AutoEncoder (False: codes of the trained weights without a note).
    variant, k, centred: of weights without a config: one of repro.sae.VARIANTS, latents a token, and whether b_dec is
        subtracted before the encoder. load_sae says which of them it needs.

    Returns float32 weights that do not require gradients (sae.requires_grad_(True) to train on). `source` holds
    family, layer, site, lm_name, k, step, sha256 and `extra["notes"]`, sentences worth knowing. Weights are read once,
    straight into place: at its peak, extra memory is the SAE itself and a few MiB.
    Raises CheckpointError, one sentence, when exact inference cannot be guaranteed, and for an option that changes
    nothing for the SAE at hand (fallback_batch_topk is a permission and always accepted).
    """
    options = Options(
        as_released, eval_activation, norm_scaling_factor, scaled_atoms, normalize, variant, k, centred,
        fallback_batch_topk,
    )  # fmt: skip
    path = Path(path)
    if as_released and (path / "ae.pt").is_file() and (path / "multi_encoder_sae.pt").is_file():
        path = path / "ae.pt"
    try:
        plan = plan_of(locate(path, step, layer, lambda file: _layer(file, options)), options)
    except StepNotFound:
        if not path.is_file() or (plan := plan_of(locate(path), options)).source.step != step:
            raise
    source = plan.source
    if layer is not None and source.layer not in (None, layer):
        raise CheckpointError(
            f"{source.path} was trained on layer {source.layer}, not {layer}; leave layer out to load it."
        )
    source.layer = layer if source.layer is None else source.layer
    source.sha256 = file_sha256(source.path)
    return plan.build(options)


def _layer(file: Path, options: Options) -> int | None:
    """Layer of one file among several; None where the file is no SAE."""
    try:
        return plan_of(located(file), replace(options)).source.layer
    except CheckpointError:
        return None


def plan_of(where: Location, options: Options) -> Plan:
    """Choose the reader and let it decide, without reading weights."""
    weights = Weights(where.weights)
    reader, config = _reader(weights, where, options)
    where = replace(where, config=config)
    try:
        plan: Plan = reader.plan(weights, where, options)
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
    if plan.unit_atoms:
        options.take("scaled_atoms")
    if plan.unit_on_load:
        options.take("normalize")
    source = plan.source = replace(plan.source, path=str(where.weights), trainer=where.trainer)
    if where.site and source.layer is not None and (where.site, where.layer) != (source.site, source.layer):
        plan.notes.append(
            f"Its path says {where.site} of block {where.layer}, its config {source.site or 'block'} of block "
            f"{source.layer}; the config is taken."
        )
    options.refuse_rest(f"{where.weights}, a {plan.cls.name} SAE read as {source.extra.get('format')}")
    plan.notes += site_notes(str(source.extra.get("hook") or ""), source.site, source.layer)
    return plan


def _reader(weights: Weights, where: Location, options: Options) -> tuple[ModuleType, dict[str, Any]]:
    """The reader of a file, and the config it reads. A config that is there decides; names of tensors only without."""
    configs = [*where.configs, *([weights.config] if weights.config else [])]
    for config in configs or [{}]:
        refuse_known(weights, config)
        for reader in BY_CONFIG:
            if reader.by_config(weights, config):
                return reader, config
    for reader in BY_KEYS:
        if (not configs or options.variant) and reader.by_keys(weights, options):
            return reader, {}
    names = ", ".join(sorted(weights.shapes)[:8]) or "no tensors"
    if configs:
        keys = ", ".join(sorted(configs[0])[:6])
        raise CheckpointError(
            f"{weights.path} holds {names}, and its config ({keys}) is of no known library; supported are {SUPPORTED}. "
            "If you know its inference, pass variant=, centred= and, for top-k, k=."
        )
    raise CheckpointError(f"{weights.path} holds {names}, which no reader recognises; supported are {SUPPORTED}.")
