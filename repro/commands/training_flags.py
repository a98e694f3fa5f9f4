"""Flags of the commands that train: `repro train` and `repro loca`; no torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from repro.base.config import EXCLUDE, Device, Service
from repro.commands.flags import OneSae, Protocols
from repro.jobs.task import Fanout
from repro.loca.method import Method


@dataclass(frozen=True)
class TrainConfig:
    """What `repro train` trains, on what, and for how long. Every combination is trained on the same batches."""

    acts: str
    """Activations: a .npy file of `repro collect` (or any [n, d] or [sequences, seq_len, d]), or its folder."""
    output_dir: str
    """Folder for {variant}/{site}_layer_{layer}/trainer_{i}."""
    variant: tuple[str, ...] = ("batch_topk",)
    """standard, topk, batch_topk, matryoshka_batch_topk, gated, jumprelu, mlp, lista."""
    sparsity: tuple[float, ...] | None = None
    """k (top-k families), L1 coefficient (standard, gated) or target L0 (jumprelu); six of SAEBench's if not given."""
    m: int | None = None
    """Latents of every SAE; 4,096, or twice the width of activations narrower than 512, if not given."""
    steps: int | None = None
    """Training steps; one pass over the training tokens, at least 400 and at most 244,140 steps, if not given."""
    batch_size: int | None = None
    """Tokens a step; 2,048, or 1,024 below a million training tokens, if not given."""
    lr: float | None = None
    """Peak learning rate; 3e-4 at SAEBench's length, growing as training gets shorter, if not given."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights; one SAE each."""
    data_seed: int = 0
    """Seed of the order of the tokens."""
    train_tokens: int | None = None
    """Tokens to train on, the first of the file; all but the held-out ones if not given."""
    held_out_tokens: int = 8192
    """Tokens after the training tokens that eval_results.json is computed on (at most a tenth of the file)."""
    ce_tokens: int = 2048
    """Tokens after the training tokens for the language model's loss recovered in eval_results.json; 0 = none."""
    exclude: tuple[str, ...] = EXCLUDE
    """Token positions that are left out, of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Leave out tokens whose norm exceeds this many medians."""
    model_name: str | None = None
    """Language model, for the records; the activation file's if not given."""
    layer: int | None = None
    """Layer, for the records and the folder; the activation file's if not given."""
    device: Device = "auto"
    """auto = cuda where there is one."""
    state_every: int | None = None
    """Steps between saved states, from which an interrupted run goes on; a tenth of the run, at most 1,000."""
    log_to: tuple[Service, ...] = ()
    """Where the log goes besides log.jsonl: tensorboard, wandb."""
    fanout: Fanout = field(default_factory=Fanout)
    """Where SAEs are trained side by side, an SAE a task; together in this process if not given."""
    frozen_decoder: str | None = None
    """SAE (file or folder) whose decoder stays as it is: train other encoders on it instead of whole SAEs."""
    encoder: tuple[str, ...] = ("linear",)
    """With frozen_decoder: linear, mlp, lista, correction (the k largest, then one correction step)."""
    steps_unrolled: tuple[int, ...] = (3,)
    """Steps of the encoder lista."""
    imitate: bool = False
    """With frozen_decoder: learn pursuit's codes instead of minimising the reconstruction's error."""


@dataclass(frozen=True)
class LocaTrain(Method):
    """LocA-SAE's four phases: a Top-K SAE, angular variance, groups, fine-tuning. Resumable."""

    model_name: str = "tiny"
    """Language model: a preset, a hub id or a folder."""
    output_dir: str | None = None
    """Folder for what is written; outputs/loca/{model} if not given."""
    acts: str | None = None
    """Saved activations [n, d] or [sequences, seq_len, d] to train on instead of collecting them."""
    dataset: str | None = None
    """Text to collect from; the Pile for a model of the hub, the bundled English for others, if not given."""
    layer: int | None = None
    """Block whose output is read; the preset's if not given."""
    train_tokens: int | None = None
    """Tokens to train on; 10,000,000, but 180,000 for tiny and 500,000 for smollm2-135m, if not given."""
    held_out_tokens: int = 8192
    """Tokens after them that eval_results.json is computed on (at most a tenth of the file)."""
    ce_tokens: int = 2048
    """Tokens after them for the language model's loss recovered; 0 = none."""
    exclude: tuple[str, ...] = EXCLUDE
    """Positions that are not used, out of pad, bos, eos, first."""
    max_norm_ratio: float | None = None
    """Drop tokens beyond this many median norms; the preset's if not given."""
    device: Device = "auto"
    """auto = cuda where there is one."""
    state_every: int | None = None
    """Steps between saved states; a tenth of a phase, at most 1,000, if not given."""


@dataclass(frozen=True)
class LocaConvert:
    """Write ae.pt, one SAE in one file, from a LocA folder (trained here or by the release)."""

    sae_dir: str
    """Folder that holds multi_encoder_sae.pt and config.json."""
    protocol: Literal["corrected", "as_released"] = "corrected"
    """corrected keeps biases, groups and k; as_released drops them, as the released converter does."""


@dataclass(frozen=True)
class LocaEvaluate(OneSae, Protocols):
    """A LocA-SAE's own codes: as released (converted, a plain ReLU) and corrected (a top-k in every group)."""

    sae_path: str | None = None
    """LocA folder or file; outputs/loca/{model} if not given."""
