"""Places in a block where activations are read: the residual stream, what attention or the MLP adds, the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from repro.base.config import ModelConfig
from repro.base.errors import BadInput

STREAM = ("resid_post", "resid_pre")
PARTS = {"attn_out": ("self_attn", "attention", "attn"), "mlp_out": ("mlp", "fc2")}  # as the families name them
PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense")  # W_O, in the attention of a block
# Gemma-2 and -3 (and OLMo-2) normalise what attention and MLP give before they add it.
NORMED = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}


def site_of(config: ModelConfig) -> str:
    """resid_post, resid_pre, attn_out, mlp_out or hook_z; layer_convention hidden_states means resid_pre."""
    if config.layer_convention == "block_output":
        return config.site
    if config.site not in STREAM:
        raise BadInput(
            f"model.layer_convention: hidden_states means the stream before a block; drop it for site {config.site}."
        )
    return "resid_pre"


def part_of(block: nn.Module, site: str) -> nn.Module:
    """The submodule whose output is added to the residual stream. Raises BadInput if the block is of another make.

    In every family resid_post = resid_pre + attn_out + mlp_out. In Gemma-2 and -3 the parts are therefore the outputs
    of the norms after attention and MLP, as in GemmaScope's MLP SAEs; elsewhere of attention and MLP themselves.
    """
    normed = hasattr(block, NORMED["mlp_out"])
    for name in (NORMED[site],) if normed else PARTS[site]:
        part = getattr(block, name, None)
        if isinstance(part, nn.Module):
            return part
    raise BadInput(f"Cannot find the {site} of {type(block).__name__}; set model.site: resid_post or resid_pre.")


def projection_of(block: nn.Module) -> nn.Module:
    """W_O: its input is hook_z, what the heads write, side by side. Raises BadInput if the block is of another make."""
    for attention in PARTS["attn_out"]:
        for name in PROJECTIONS:
            part = getattr(getattr(block, attention, None), name, None)
            if isinstance(part, nn.Module):
                return part
    raise BadInput(f"Cannot find the hook_z of {type(block).__name__}; set model.site: resid_post or resid_pre.")


def width_of(block: nn.Module, site: str, stream: int) -> int:
    """Width of the activations of a site; `stream` is that of the residual stream."""
    if site != "hook_z":
        return stream
    part: Any = projection_of(block)
    return int(getattr(part, "in_features", 0) or part.weight.shape[0])  # GPT-2's Conv1D lies the other way round


@contextmanager
def changed(block: nn.Module, site: str, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `change` gets the activations of the site, and what it returns takes their place; None leaves them.

    They are [B, T, width], but [B T, width] in OPT's MLP. Raises BadInput if the block is of another make.
    """

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        new = change(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    def after(module: nn.Module, args: tuple, output: Any) -> Any:
        if not isinstance(output, tuple):
            return change(output)
        new = change(output[0])
        return None if new is None else (new, *output[1:])

    if site in ("resid_pre", "hook_z"):
        entered = block if site == "resid_pre" else projection_of(block)
        handle = entered.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = (block if site == "resid_post" else part_of(block, site)).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def read(run: Callable[[], None], block: nn.Module, site: str, shape: torch.Size) -> Tensor:
    """Call run() and leave it as soon as the site has been computed: [B, T, d], shape = (B, T)."""
    seen: list[Tensor] = []

    def leave(value: Tensor) -> None:
        seen.append(value)
        raise _Stop

    with suppress(_Stop), changed(block, site, leave):
        run()
    return seen[0].reshape(*shape, -1)


class _Stop(Exception):
    """Leaves the forward pass once the site has been read."""


def check_sum(pre: Tensor, attn: Tensor, mlp: Tensor, post: Tensor, kind: str) -> None:
    """Raise BadInput unless the parts add up to the block, token by token, within rounding."""
    values = [v.double() for v in (pre, attn, mlp, post)]
    sizes = torch.stack([v.norm(dim=-1) for v in values])
    error = (values[0] + values[1] + values[2] - values[3]).norm(dim=-1)
    if bool((error > 8 * torch.finfo(post.dtype).eps * sizes.sum(0)).any()):
        raise BadInput(
            f"The outputs of attention and MLP do not add up to what a block of {kind} adds to the residual stream; "
            "set model.site: resid_post or resid_pre."
        )
