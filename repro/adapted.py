"""An SAE with better codes, as a module that SAEBench (`custom_saes`) and SAELens evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from repro.base.errors import BadInput, nearest
from repro.price.codes import Method, encoder, pursued, refitted
from repro.sae import SAE

HOOKS = {"": "resid_post", "resid_post": "resid_post", "attn_out": "attn_out", "mlp_out": "mlp_out"}
"""Site -> its name in TransformerLens; resid_post where the SAE does not say its site."""
KINDS: dict[str, Callable[[SAE], Method]] = {
    "encoder": encoder,
    "encoder_refit": lambda sae: refitted(encoder(sae)),
    "pursuit": lambda sae: pursued(sae, {}),
    "ompr": lambda sae: pursued(sae, {}, None, "ompr"),
}
"""Kinds of codes that need nothing but the SAE, named as in price.json."""


@dataclass
class AdaptedConfig:
    """What both libraries read of `sae.cfg` and of `sae.cfg.metadata`, which is the same object."""

    model_name: str
    """A name or folder that TransformerLens loads."""
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    """Variant and mode; none of the libraries' own names, which have code of their own."""
    dtype: str = "float32"
    device: str = "cpu"
    prepend_bos: bool = True
    normalize_activations: str = "none"
    context_size: int | None = None
    hook_head_index: int | None = None
    seqpos_slice: tuple[int | None, ...] = (None,)
    dataset_trust_remote_code: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metadata = self

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a result file."""
        return asdict(self)


class Adapted(nn.Module):
    """Codes of one mode on the unit atoms of an SAE. Source of the interface: SAEBench 0.6, custom_saes/base_sae.py.

    W_enc [d, m], b_enc [m], W_dec [m, d] with rows of norm 1, b_dec [d]; codes carry the norm of their atom. The SAE
    computes its codes in float32 whatever the type of this module.
    """

    def __init__(self, sae: SAE, mode: str, cfg: AdaptedConfig):
        super().__init__()
        self.cfg, self.mode = cfg, mode
        self._own = (sae, KINDS[mode](sae))  # a tuple, so that the SAE is no submodule and stays in float32
        norms = sae.W_dec.detach().norm(dim=1)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        self.register_buffer("norms", norms, persistent=False)
        self.W_enc = nn.Parameter(sae.W_enc.detach() * norms, requires_grad=False)
        self.b_enc = nn.Parameter(sae.b_enc.detach() * norms, requires_grad=False)
        self.W_dec = nn.Parameter(sae.W_dec.detach() / norms[:, None], requires_grad=False)
        self.b_dec = nn.Parameter(sae.b_dec.detach().clone(), requires_grad=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.W_dec.dtype

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Activations [..., d] -> codes [..., m] of the type of x. Raises BadInput for NaN and another width."""
        sae, method = self._own
        flat = x.detach().reshape(-1, x.shape[-1]).to(sae.W_dec.device, torch.float32)
        codes = method.codes(flat, sae.encode_sparse(flat)).to_dense() * sae.W_dec.norm(dim=1)
        return codes.to(x.device, x.dtype).reshape(*x.shape[:-1], self.cfg.d_sae)

    def decode(self, z: Tensor) -> Tensor:
        """Codes [..., m] -> reconstructions [..., d] of the type of z."""
        return (z.to(self.dtype) @ self.W_dec + self.b_dec).to(z.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions [..., d] of activations [..., d]."""
        return self.decode(self.encode(x))


def adapt(sae: SAE, mode: str = "ompr", model_name: str | None = None, layer: int | None = None) -> Adapted:
    """The SAE as SAEBench and SAELens expect it, with the codes of a mode of `KINDS`, k of each token its encoder's.

    model_name, layer: of the language model, if not the SAE's own. Raises BadInput where they are not known, for an
    unknown mode, for a site that TransformerLens has no name for here, and for an SAE that normalises each token: the
    interface decodes codes without the token.
    """
    if mode not in KINDS:
        raise BadInput(f"No mode '{mode}'{nearest(mode, KINDS)}; there are {', '.join(KINDS)}.")
    if sae.config.normalisation != "none":
        raise BadInput(
            f"This SAE normalises each token ({sae.config.normalisation}), and the reconstruction needs that token; "
            "the interface of SAEBench decodes without it."
        )
    source = sae.source
    model_name, layer = model_name or source.lm_name, source.layer if layer is None else layer
    if not model_name or layer is None:
        raise BadInput("The SAE does not say its language model and layer: pass model_name= and layer=.")
    if source.site not in HOOKS:
        raise BadInput(f"SAEs of {source.site} cannot be adapted; only of {', '.join(filter(None, HOOKS))}.")
    hook = f"blocks.{layer}.hook_{HOOKS[source.site]}"
    d, m = sae.config.d, sae.config.m
    return Adapted(sae, mode, AdaptedConfig(model_name, d, m, layer, hook, f"{sae.name}, {mode}"))
