"""What the commands on one SAE share: their flags, and the SAE and the activations that these mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from tqdm import tqdm

from repro.activations.language_models.presets import PRESETS, known_as, max_norm_ratio, of_hub
from repro.activations.store import open_store
from repro.base.config import DatasetConfig, MetricsConfig, ModelConfig, RunConfig, Site
from repro.base.errors import BadInput
from repro.checkpoints.locate import WEIGHT_NAMES
from repro.checkpoints.match import Place, match
from repro.commands.flags import OneSae, OneVariant
from repro.evaluate import EvalData, EvalOptions, evaluate_sae, open_data
from repro.evaluate.run import passes, plan

if TYPE_CHECKING:
    from repro.sae import SAE

PILE = "monology/pile-uncopyrighted"


def default_text(model: str) -> str:
    """The text that a language model reads where none is given."""
    return PILE if of_hub(model) else "tiny"


def find_sae(config: OneVariant) -> SAE:
    """The SAE of a comparison: the given path, the bundled recipe's for `tiny`, or SAEBench's for its models."""
    from repro.checkpoints import load_sae
    from repro.checkpoints.hub import find_sae as find_released

    if config.sae_path is not None:
        sae = load_sae(config.sae_path, layer=None)
        if config.sae_variant not in (None, sae.name):
            say(f"--sae-variant {config.sae_variant} names the file only: the SAE is computed as {sae.name}.")
        return sae
    model, variant = config.model_name or "tiny", config.sae_variant or "batch_topk"
    if model == "tiny":
        from repro.sections.scales import scale_of
        from repro.sections.setup import prepare

        finals = prepare(scale_of("tiny")).finals(variant)
        if finals:
            return load_sae(finals[0]["path"])
    if of_hub(model):
        return load_sae(find_released(model, variant, layer=config.layer))
    raise BadInput(
        f"Which {variant} SAE of {model}? Give --sae-path a checkpoint file or folder "
        "(`repro train` writes them, `repro fetch-sae` downloads them)."
    )


def find_data(config: OneSae, sae: SAE) -> EvalData:
    """Evaluation tokens: saved ones, or collected under out_dir from the SAE's own layer, site and model.

    Says on stderr what SAE and activations do not state. BadInput where they, or the flags, contradict each other.
    """
    from repro.activations.collect import collect

    if config.skip_documents < 0:
        raise BadInput(f"--skip-documents is {config.skip_documents}; it must be at least 0.")
    own = Place.of_sae(sae)
    if config.acts is not None:
        if config.dataset is not None:
            raise BadInput("--dataset does nothing beside --acts, which names saved activations; leave one out.")
        return _given(config, config.acts, sae)
    known = config.model_name is None or config.model_name in PRESETS or of_hub(config.model_name)
    asked = Place(config.layer, "", config.model_name or "" if known else "")
    match(own, asked, config.allow_mismatch, "The SAE was trained on {}, but the flags ask for {}")
    name = config.model_name or own.model or "tiny"
    layer, site = (config.layer, own.site) if config.layer is not None else (own.layer, own.site)
    if site not in ("", *get_args(Site)):
        raise BadInput(f"The SAE reads {site}, which `repro collect` does not save; give --acts activations of it.")
    model = ModelConfig(name=known_as(name), layer_index=layer, site=cast(Site, site or "resid_post"))
    dataset = DatasetConfig(
        name=config.dataset or default_text(name),
        max_tokens=int(config.max_tokens * 1.1) + 128,
        skip_documents=config.skip_documents,
    )
    folder = str(Path(config.out_dir) / f"acts-{safe(name)}")
    acts = collect(RunConfig(output_dir=folder, model=model, dataset=dataset, device=config.device))
    data = open_data(acts, _metrics(config, name), stream=True, device=config.device)
    sae.check_input(data.tokens.x[:1])
    say(*match(own, Place.of_data(data.tokens.info), config.allow_mismatch), *data_notes(data))
    return data


def _given(config: OneSae, acts: str, sae: SAE) -> EvalData:
    """Saved activations, with their labels; flags say what the file does not."""
    store = open_store(acts)
    place, named = Place.of_data(store.place), config.model_name or ""
    model = named if named in PRESETS or of_hub(named) else ""
    flags = Place(config.layer, place.site, model)
    match(place, flags, config.allow_mismatch, "The activations are of {}, but the flags say {}")
    metrics = _metrics(config, named or place.model)
    skip = tokens_of_first(config.skip_documents, acts, metrics)
    data = open_data(
        acts, metrics, acts if store.labels is not None else None, skip=skip, stream=True, device=config.device
    )
    info = data.tokens.info
    if place.layer is None:
        info["layer"] = config.layer
    info["model"] = place.model or model
    sae.check_input(data.tokens.x[:1])
    say(*match(Place.of_sae(sae), Place.of_data(info), config.allow_mismatch), *data_notes(data))
    return data


def _metrics(config: OneSae, model: str) -> MetricsConfig:
    ratio, lm_tokens = max_norm_ratio(model, config.max_norm_ratio), config.lm_tokens or 0
    if lm_tokens < 0:
        raise BadInput(f"--lm-tokens is {lm_tokens}; give 0 or more.")
    return MetricsConfig(
        max_tokens=config.max_tokens, exclude=config.exclude, max_norm_ratio=ratio, lm_tokens=lm_tokens
    )


def data_notes(data: EvalData) -> list[str]:
    """Sentences on tokens that are all 0, and on why a loss that was asked for is not measured."""
    info = data.tokens.info
    notes = [info["loss_note"]] if "loss_note" in info else []
    if zeros := info.get("zeros"):
        notes.append(f"{zeros} of {info['kept']} tokens are all 0, as padding is, and count as tokens here.")
    return notes


def say(*sentences: str) -> None:
    """Notes on stderr, a line each."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)


def tokens_of_first(documents: int, acts: str, metrics: MetricsConfig) -> int:
    """How many usable tokens the first documents of a store have; a sequence is a document where nothing says more."""
    store = open_store(acts)
    usable = store.select(metrics.exclude, metrics.max_norm_ratio).index
    return int((store.docs.reshape(-1)[usable] < documents).sum())


def measure(sae: SAE, data: EvalData, options: EvalOptions, title: str) -> Iterator[dict[str, Any]]:
    """The rows of one SAE, one a protocol and mode, under a bar that counts tokens."""
    total = passes(plan(options), data, options)
    with tqdm(desc=title, unit="token", unit_scale=True, total=total) as bar:
        yield from evaluate_sae(sae, data, options, bar=bar)
        bar.total = bar.n


def name_of(config: OneSae, sae: SAE) -> str:
    """How the files of a command begin: with the model's name where it is given, else with the SAE's."""
    if config.model_name is not None or config.sae_path is None:
        return safe(config.model_name or "tiny")
    file = Path(sae.source.path)
    parts = [*file.parent.parts[-2:], *([] if file.name in WEIGHT_NAMES else [file.stem])]
    return "_".join(safe(part) for part in parts[-2:] if part not in ("checkpoints", "/"))


def safe(name: str) -> str:
    """A model or variant name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or name)
