"""Language models: loading one, finding its blocks, and reading the activations of one block."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from repro.activations.language_models.fetch import ModelSource, find_model
from repro.activations.language_models.packaged import CONVERTED
from repro.activations.language_models.placement import (
    check_memory,
    hushed,
    input_device,
    keep_blocks,
    model_bytes,
    places_of,
    read_device_map,
)
from repro.activations.language_models.presets import Preset, layer_of, of_hub
from repro.activations.language_models.sites import PARTS, check_sum, read, site_of, width_of
from repro.base.config import ModelConfig
from repro.base.errors import BadInput, optional
from repro.base.machine import pick_device

FAMILIES = "GPT-NeoX (Pythia), Gemma 2 and 3, Llama, Qwen 2 and 3, Mistral, Phi-3, OLMo 2, GPT-2, OPT"
BLOCKS = ("layers", "h", "decoder.layers", "language_model.layers")  # where the base models of those keep them
ATTENTION = {"gemma2": "eager"}  # its logit soft-capping exists in no other implementation that runs everywhere


@dataclass
class LoadedModel:
    """A causal LM in evaluation mode, its tokenizer, and the block and site that are read."""

    model: nn.Module
    tokenizer: Any
    blocks: nn.ModuleList
    layer: int
    site: str
    provenance: dict[str, Any]
    separator: int | None
    special_ids: dict[str, list[int]] = field(default_factory=dict)
    prepends_bos: bool = False

    @property
    def d(self) -> int:
        """Width of the activations that are read."""
        config: Any = self.model.config
        return width_of(self.blocks[self.layer], self.site, int(config.get_text_config().hidden_size))

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding; every token id is smaller."""
        model: Any = self.model
        return int(model.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Device that token ids have to be on."""
        return input_device(self.model)

    def activations(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids [B, T] -> activations [B, T, d] in the model's dtype; mask is True at real tokens (None: all).

        What block `layer` has at `site` (`sites`); nothing after it runs. resid_post is the raw stream even for the
        last block, where the `hidden_states` of transformers hold the final norm's output.
        """
        return self.at(self.site, tokens, mask)

    @torch.no_grad()
    def at(self, site: str, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same for another site of the block."""
        attention = None if mask is None or bool(mask.all()) else mask.to(self.device).long()
        base = getattr(self.model, "base_model", self.model)

        def run() -> None:
            base(input_ids=tokens.to(self.device).long(), attention_mask=attention, use_cache=False)

        return read(run, self.blocks[self.layer], site, tokens.shape)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a causal LM (or of its base model), first to last. Raises BadInput if unknown."""
    base = getattr(model, "base_model", model)
    for path in BLOCKS:
        module: Any = base
        for part in path.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.ModuleList) and len(module):
            return module
    raise BadInput(f"Cannot find the blocks of {type(model).__name__}; known families: {FAMILIES}.")


def load_model(
    config: ModelConfig, device: str = "auto", source: ModelSource | None = None, whole: bool = True
) -> LoadedModel:
    """Load a causal LM in evaluation mode on a device, or as config.device_map says.

    Without `whole`, only what the activations need: blocks after the one that is read are neither loaded nor do they
    take memory, and the head stays off the device. Raises BadInput with what to change.
    """
    with optional():
        import transformers
    where, layer, site = torch.device(pick_device(device)), layer_of(config), site_of(config)
    spread = None if config.device_map is None else read_device_map(config.device_map)
    source = source or find_model(config)
    transformers.utils.logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        settings = transformers.AutoConfig.from_pretrained(source.folder, **local)
        total = getattr(settings.get_text_config(), "num_hidden_layers", None)
        if not isinstance(total, int):
            raise BadInput(f"{source.name} ({settings.model_type}) has no blocks; known families: {FAMILIES}.")
        if not 0 <= layer < total:
            raise BadInput(f"{source.name} has blocks 0 to {total - 1}; model.layer_index {layer} is out of range.")
        if not whole:
            keep_blocks(settings, layer + 1)
        attention = ATTENTION.get(settings.model_type)
        dtype = _dtype(config.dtype, source.preset, settings)
        if spread is None:
            _check_memory(source, dtype, None if whole else layer + 1, where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder, **local)
        with nullcontext() if whole else hushed(transformers):
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source.folder,
                config=settings,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                device_map=spread,
                **local,
            )
        model, missing = loaded[0], loaded[1]["missing_keys"]
        if missing:  # transformers would draw these at random
            raise BadInput(f"{source.folder} lacks weights of {type(model).__name__}, such as {min(missing)}.")
        model.eval().requires_grad_(False)
        if spread is None:
            (model if whole else model.base_model).to(where)
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        asked = "" if spread is None else f" with model.device_map {config.device_map}"
        raise BadInput(
            f"Cannot load {source.name} from {source.folder}{asked}: {str(error).strip().splitlines()[0]}"
        ) from error
    provenance = {
        "name": source.name,
        "source": source.preset.source if source.preset else str(source.folder),
        "revision": source.revision,
        "fingerprint": source.fingerprint,
        "license": source.preset.license if source.preset else None,
        "architecture": type(model).__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", attention),
        "blocks": total,
        "blocks_loaded": len(find_blocks(model)),
        "device_map": None if spread is None else places_of(model),
        "layer": layer,
        "layer_convention": config.layer_convention,
        "site": site,
    }
    converted = source.folder / CONVERTED
    if converted.is_file():
        provenance["converted_from"] = json.loads(converted.read_text())
    ready = as_loaded(model, tokenizer, layer, site, provenance, source.preset)
    if site in PARTS:
        some = torch.arange(3, 11)[None] % ready.vocabulary
        pre, attn, mlp, post = (ready.at(s, some) for s in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        check_sum(pre, attn, mlp, post, type(model).__name__)
    return ready


def find_tokenizer(name: str, download: bool = False) -> Any | None:
    """The tokenizer of a preset, hub id or folder; None where it is not at hand, or on the hub and not to be got."""
    if not download and of_hub(name):
        return None
    try:
        with optional():
            import transformers
        folder = find_model(ModelConfig(name=name)).folder
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (BadInput, OSError, ValueError):
        return None


def as_loaded(
    model: nn.Module,
    tokenizer: Any,
    layer: int,
    site: str = "resid_post",
    provenance: dict[str, Any] | None = None,
    preset: Preset | None = None,
) -> LoadedModel:
    """Wrap a model and tokenizer that are in memory already, and find out about their special tokens."""
    eos, bos, pad = tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id
    separator = eos
    if preset is not None and preset.separator is not None:
        separator = tokenizer.convert_tokens_to_ids(preset.separator)
    first = list(tokenizer("a").input_ids[:1])
    plain = list(tokenizer("a", add_special_tokens=False).input_ids[:1])
    special = {
        "bos": [i for i in (bos,) if i is not None],
        "eos": sorted({i for i in (eos, separator) if i is not None}),
        "pad": [i for i in (pad,) if i is not None],
    }
    prepends = bos is not None and first == [bos] and plain != [bos]
    return LoadedModel(
        model.eval(), tokenizer, find_blocks(model), layer, site, provenance or {}, separator, special, prepends
    )


def _check_memory(source: ModelSource, dtype: torch.dtype, blocks: int | None, where: torch.device) -> None:
    """Raise BadInput where the weights fit neither in memory, through which they come, nor on the device."""
    fix = "free memory or take a smaller model" + (", or set model.dtype: bfloat16" if dtype.itemsize > 2 else "")
    check_memory(source.name, model_bytes(source.folder, dtype, blocks), fix)
    if where.type == "cuda":
        fix += ", or model.device_map: auto, which spreads it over several devices"
        check_memory(source.name, model_bytes(source.folder, dtype, blocks, head=blocks is None), fix, where)


def _dtype(asked: str, preset: Preset | None, settings: Any) -> torch.dtype:
    """float16 weights run in float32: residual streams of large models overflow in float16."""
    if asked == "auto":
        asked = preset.dtype if preset else ""
    if asked:
        return torch.float32 if asked == "float32" else torch.bfloat16
    return torch.bfloat16 if settings.dtype == torch.bfloat16 else torch.float32
