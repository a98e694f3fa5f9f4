"""What the commands on one SAE share: their flags, and the SAE and the activations that these mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from repro.activations.language_models.presets import known_as, max_norm_ratio, of_hub
from repro.activations.store import open_store
from repro.base.config import DatasetConfig, MetricsConfig, ModelConfig, RunConfig
from repro.base.errors import BadInput
from repro.commands.flags import OneSae
from repro.evaluate import EvalData, EvalOptions, evaluate_sae, open_data
from repro.evaluate.run import passes, plan

if TYPE_CHECKING:
    from repro.sae import SAE

PILE = "monology/pile-uncopyrighted"


def default_text(model: str) -> str:
    """The text that a language model reads where none is given."""
    return PILE if of_hub(model) else "tiny"


def find_sae(config: OneSae, variant: str) -> SAE:
    """The SAE of a comparison: the given path, the bundled recipe's for `tiny`, or SAEBench's for its models."""
    from repro.checkpoints import load_sae
    from repro.checkpoints.hub import find_sae as find_released

    if config.sae_path is not None:
        return load_sae(config.sae_path, layer=None)
    if config.model_name == "tiny":
        from repro.sections.scales import scale_of
        from repro.sections.setup import prepare

        finals = prepare(scale_of("tiny")).finals(variant)
        if finals:
            return load_sae(finals[0]["path"])
    if of_hub(config.model_name):
        return load_sae(find_released(config.model_name, variant, layer=config.layer))
    raise BadInput(
        f"Which {variant} SAE of {config.model_name}? Give --sae-path a checkpoint file or folder "
        "(`repro train` writes them, `repro fetch-sae` downloads them)."
    )


def find_data(config: OneSae) -> EvalData:
    """Evaluation tokens: the given activations, or collected ones under out_dir."""
    from repro.activations.collect import collect

    ratio = max_norm_ratio(config.model_name, config.max_norm_ratio)
    metrics = MetricsConfig(max_tokens=config.max_tokens, exclude=config.exclude, max_norm_ratio=ratio)
    if config.acts is not None:
        return open_data(
            config.acts, metrics, skip=tokens_of_first(config.skip_documents, config.acts, metrics), stream=True
        )
    dataset = DatasetConfig(
        name=config.dataset or default_text(config.model_name),
        max_tokens=int(config.max_tokens * 1.1) + 128,
        skip_documents=config.skip_documents,
    )
    run = RunConfig(
        output_dir=str(Path(config.out_dir) / f"acts-{safe(config.model_name)}"),
        model=ModelConfig(name=known_as(config.model_name), layer_index=config.layer),
        dataset=dataset,
        device=config.device,
    )
    return open_data(collect(run), metrics, stream=True)


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


def safe(name: str) -> str:
    """A model or variant name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or name)
