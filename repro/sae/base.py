"""SAE: weights, encode, decode, and the methods that a variant overrides."""

from __future__ import annotations

import copy
import math
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from repro.base.errors import BadInput
from repro.codes import SparseCodes, gathered


@dataclass(frozen=True)
class Config:
    """Shape of an SAE; variants add their own knobs."""

    d: int
    """Width of the activations."""
    m: int
    """Number of latents."""
    _: KW_ONLY
    centred: bool = True
    """Is b_dec subtracted from the input before the encoder?"""
    normalisation: Literal["none", "unit_norm", "sqrt_d_norm", "layer_norm"] = "none"
    """What is done to each token first and undone on the reconstruction: norm 1, norm sqrt(d), or mean 0 and std 1."""

    def __post_init__(self) -> None:
        if self.d < 1 or self.m < 1:
            raise BadInput(f"An SAE needs d >= 1 and m >= 1, not d = {self.d}, m = {self.m}.")
        if self.normalisation not in ("none", *_MOMENTS):
            raise BadInput(f"normalisation is '{self.normalisation}'; it must be one of none, {', '.join(_MOMENTS)}.")


def check_groups(sizes: tuple[int, ...], m: int) -> None:
    """Raise BadInput unless the groups hold latents, m in all."""
    if min(sizes, default=0) < 1 or sum(sizes) != m:
        raise BadInput(f"group_sizes {sizes} must be positive and add up to the {m} latents.")


def _unit_norm(x: Tensor) -> tuple[Tensor | float, Tensor]:
    return 0.0, x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _sqrt_d_norm(x: Tensor) -> tuple[Tensor | float, Tensor]:
    return 0.0, x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


def _layer_norm(x: Tensor) -> tuple[Tensor | float, Tensor]:
    return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)  # unbiased, as SAELens and OpenAI compute it


# x [n, d] -> (shift, scale) of each token; the normalised token is (x - shift) / scale
_MOMENTS = {"unit_norm": _unit_norm, "sqrt_d_norm": _sqrt_d_norm, "layer_norm": _layer_norm}
_EPS = {"layer_norm": 1e-5}  # added to the scale going in, not coming out


@dataclass
class Source:
    """Where an SAE came from; kept with every result row."""

    family: str = ""
    path: str = ""
    sha256: str = ""
    trainer: int | None = None
    step: int | None = None
    layer: int | None = None
    site: str = ""
    """What of block `layer` it reads: resid_post, attn_out, mlp_out, another name, or "" = not known."""
    lm_name: str = ""
    sparsity: float | None = None
    k: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class SAE(nn.Module):
    """A sparse autoencoder with ReLU latents; atoms are the rows of W_dec.

    Shapes: x [n, d], W_enc [d, m], b_enc [m], W_dec [m, d], b_dec [d], z [n, m], float32.
    encode(x) = activate(pre(x)) is exactly what the training library computes at inference.
    A variant is a subclass: it overrides `activate`, and what else differs of the class variables and methods below.
    Codes are never negative: metrics, evaluations and the corrected protocol count on it. A variant with signed codes
    (AbsTopK) gives them an equivalent of itself, `one_sided`.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = Config
    per_latent: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Tensors [m] in units of the code, which scale with it."""
    latents_compete: ClassVar[bool] = False
    """Are codes of different latents compared with each other (top-k)? Then their scales matter."""
    released_topk: ClassVar[bool] = False
    """Does the released code encode it by its signed top-k? It does where "topk" is in its name for the variant."""

    sparsity: ClassVar[Literal["k", "l1_penalty", "target_l0"] | None] = None
    """The number that training takes for its sparsity; None: `repro train` does not train it."""
    l1_grid: ClassVar[tuple[float, ...]] = (0.012, 0.015, 0.02, 0.03, 0.04, 0.06)
    """SAEBench's six values of an L1 coefficient (the other two kinds depend on m)."""
    free_norms: ClassVar[bool] = False
    """Are atoms of any norm in training, paid for in the penalty?"""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Adam's."""
    trainer_class: ClassVar[str] = ""
    """Its trainer in dictionary_learning, if it has one."""

    def __init__(self, config: Any, source: Source | None = None):
        super().__init__()
        self.config = config
        self.source = source or Source(family=self.name)
        d, m = config.d, config.m
        self.W_enc = nn.Parameter(torch.zeros(d, m))
        self.b_enc = nn.Parameter(torch.zeros(m))
        self.W_dec = nn.Parameter(torch.zeros(m, d))
        self.b_dec = nn.Parameter(torch.zeros(d))

    # --- what variants override ---------------------------------------------------------------
    def activate(self, pre: Tensor) -> Tensor:
        """Pre-activations [n, m] -> codes [n, m] at inference."""
        return pre.relu()

    def train_activate(self, pre: Tensor) -> Tensor:
        """Codes during training; BatchTopK selects over the whole batch here."""
        return self.activate(pre)

    def penalty(self, z: Tensor) -> Tensor:
        """What training multiplies by an L1 coefficient and adds to the error: mean over tokens of sum_j z_j |d_j|."""
        return (z * self.W_dec.norm(dim=1)).sum(1).mean()

    @property
    def biases(self) -> tuple[str, ...]:
        """Tensors in units of the activations: with all of them times s, encode(s x) = s encode(x)."""
        return ("b_dec", *self.per_latent)

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> None:
        """Fill the weights that training begins with beside encoder, decoder (filled already) and biases (zeros)."""

    @classmethod
    def trained_config(cls, d: int, m: int, sparsity: float) -> Any:
        """The config of an SAE that training makes."""
        return cls.Config(d, m, k=int(sparsity)) if cls.sparsity == "k" else cls.Config(d, m)

    def normalise(self, x: Tensor) -> Tensor:
        """Input in the units that the encoder was trained on (config.normalisation), [n, d], in the weights' type."""
        x = x.to(self.W_enc.dtype)  # moments of half-precision activations in float32, as the libraries compute them
        if self.config.normalisation == "none":
            return x
        shift, scale = _MOMENTS[self.config.normalisation](x)
        return (x - shift) / (scale + _EPS.get(self.config.normalisation, 0.0))

    def denormalise(self, x_hat: Tensor, x: Tensor | None) -> Tensor:
        """Undo `normalise` on a reconstruction; x is the raw input it depends on. BadInput if that is missing."""
        if self.config.normalisation == "none":
            return x_hat
        if x is None:
            raise BadInput(
                f"This SAE normalises each token ({self.config.normalisation}): call decode(z, x) with its input."
            )
        shift, scale = _MOMENTS[self.config.normalisation](x.to(x_hat.dtype))
        return x_hat * scale + shift

    @property
    def centred(self) -> bool:
        """Is b_dec subtracted before the encoder?"""
        return self.config.centred

    # --- what everybody calls -----------------------------------------------------------------
    def encoder_input(self, x: Tensor) -> Tensor:
        """What W_enc reads, [n, d]: the normalised input, minus b_dec where the encoder is centred."""
        x = self.normalise(x)
        return x - self.b_dec if self.centred else x

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [n, m] of raw activations x [n, d]."""
        return self.encoder_input(x) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """x [n, d] -> codes z [n, m], exactly as the training library at inference."""
        return self.activate(self.pre(x))

    def encode_block(self, x: Tensor) -> SparseCodes:
        """encode, kept as nonzeros; variants whose selection is an operation never hold the matrix [n, m]."""
        return SparseCodes.from_dense(self.encode(x))

    def decode(self, z: Tensor | SparseCodes, x: Tensor | None = None) -> Tensor:
        """Codes -> x_hat [n, d] in raw units; x is needed only by SAEs that normalise each token."""
        y = z.decode(self.W_dec) if isinstance(z, SparseCodes) else z.to(self.W_dec.dtype) @ self.W_dec
        return self.denormalise(y + self.b_dec, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x), x)

    def target(self, x: Tensor) -> Tensor:
        """What the atoms have to explain, [n, d]: the normalised input minus b_dec."""
        return self.normalise(x) - self.b_dec

    @torch.no_grad()
    def encode_sparse(self, x: Tensor, block: int | None = None) -> SparseCodes:
        """encode, `block` rows at a time, kept as nonzeros: never holds more than a few times block x m numbers.

        Without `block`, about 2^25 numbers (128 MiB; on a GPU 1 GiB). It changes the result only of an SAE that
        selects over each batch (eval_activation = "batch_topk").
        """
        self.check_input(x)
        block = block or max(1, (2**28 if x.is_cuda else 2**25) // self.config.m)
        return gathered(self.encode_block(x[i : i + block]) for i in range(0, max(len(x), 1), block))

    def check_input(self, x: Tensor) -> None:
        """Raise BadInput unless x is [n, d] with this SAE's d and finite."""
        if x.ndim != 2 or x.shape[1] != self.config.d:
            raise BadInput(
                f"The SAE reads activations of width {self.config.d}, but these have shape {tuple(x.shape)}; "
                "check the model and layer of the activations."
            )
        if x.numel() and not all(map(math.isfinite, x.aminmax())):  # no mask as large as x
            rows = int((~torch.isfinite(x).all(1)).sum())
            raise BadInput(f"{rows} of {len(x)} activations hold NaN or Inf; collect again in float32 or bfloat16.")

    @torch.no_grad()
    def renormalised(self) -> SAE:
        """The same SAE with unit atoms: codes scale by the old norms, reconstructions stay as they are.

        Exact wherever each latent decides by itself; for the top-k families another scale means another
        selection, so they raise BadInput unless their atoms have unit norm already (to 1e-3).
        """
        norms = self.W_dec.norm(dim=1)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        if self.latents_compete:
            worst = (norms - 1).abs().max().item()
            if worst > 1e-3:
                raise BadInput(
                    f"Atoms of this {self.name} SAE are off unit norm by up to {worst:.2g}, and rescaling them would "
                    "change which latents are selected: use it as it is."
                )
            norms = torch.ones_like(norms)
        out = copy.deepcopy(self)
        out.W_dec.div_(norms[:, None])
        out.W_enc.mul_(norms)
        for name in self.per_latent:
            getattr(out, name).mul_(norms)
        return out

    def one_sided(self) -> SAE:
        """An SAE with codes >= 0 that reconstructs the same: this one, unless its codes are signed."""
        return self

    def describe(self) -> dict[str, Any]:
        """Variant, config and source as plain values."""
        return {"variant": self.name, **asdict(self.config), "source": asdict(self.source)}
