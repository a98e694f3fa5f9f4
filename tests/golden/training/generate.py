"""Writes dictionary_learning.npz: weights after 20 steps of each trainer of the package dictionary-learning 0.1.0.

Run it in an environment of its own, where that package is installed; the tests only read the file. The trainers start
from given weights, see given batches, and have every window shortened so that 20 steps reach all of it: AuxK on
latents that missed one batch, the moving average of the threshold, the sparsity warm-up.
"""

import json
from pathlib import Path

import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from torch.nn.functional import normalize

D, M, N, STEPS = 10, 32, 48, 20

torch.set_num_threads(1)
g = torch.Generator().manual_seed(11)
atoms = normalize(torch.randn(20, D, generator=g), dim=1)
on = torch.rand(STEPS * N, 20, generator=g) < 0.15
x = (on * (torch.rand(STEPS * N, 20, generator=g) + 0.5)) @ atoms + 0.2 * torch.randn(D, generator=g)
x /= x.square().sum(1).mean().sqrt()
start = normalize(torch.randn(M, D, generator=g), dim=1)

common = {"steps": 10**6, "activation_dim": D, "dict_size": M, "layer": 0, "lm_name": "none", "lr": 2e-3}
common |= {"warmup_steps": 0, "seed": 0, "device": "cpu"}
top = {"k": 3, "threshold_beta": 0.9, "threshold_start_step": 5, "auxk_alpha": 1 / 32}
fractions = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32]
l1 = {"l1_penalty": 0.1, "sparsity_warmup_steps": 10}
trainers = {
    "standard": StandardTrainerAprilUpdate(**common, **l1),
    "topk": TopKTrainer(**common, **top),
    "batch_topk": BatchTopKTrainer(**common, **top),
    # weights of 1: that trainer averages over groups after weighting them, so its default 1/5 divides by 5 twice
    "matryoshka_batch_topk": MatryoshkaBatchTopKTrainer(
        **common, **top, group_fractions=fractions, group_weights=[1.0] * 5
    ),
    "gated": GatedSAETrainer(**common, **l1),
    # without its L0 penalty, which it computes behind the jump
    "jumprelu": JumpReluTrainer(**common, target_l0=4, bandwidth=0.05, sparsity_penalty=0.0),
}
out = {"x": x.numpy(), "start": start.numpy()}
for name, trainer in trainers.items():
    ae = trainer.ae
    first = start * (0.1 if name == "standard" else 1)
    with torch.no_grad():
        if hasattr(ae, "W_enc"):
            ae.W_enc.copy_(first.T), ae.W_dec.copy_(first)
        else:
            ae.encoder.weight.copy_(first), ae.decoder.weight.copy_(first.T)
        for bias in (getattr(ae, "b_enc", None), getattr(getattr(ae, "encoder", None), "bias", None)):
            if bias is not None:
                bias.zero_()
    if name == "jumprelu":
        ae.threshold.data.fill_(0.2)  # away from 0: below it, that trainer lets negative codes through
    trainer.dead_feature_threshold = N
    losses, dead = [], []
    for i in range(STEPS):
        losses.append(trainer.update(i, x[i * N : (i + 1) * N]))
        if hasattr(trainer, "num_tokens_since_fired"):
            dead.append(int((trainer.num_tokens_since_fired >= N).sum()))
    out |= {f"{name}/{key}": value.detach().numpy() for key, value in ae.state_dict().items()}
    if losses[0] is not None:  # two of them do not return their loss
        out[f"{name}/losses"] = np.array(losses)
    if dead:
        out[f"{name}/dead"] = np.array(dead)
    print(name, json.dumps({"losses": losses[-1], "dead": dead}))
np.savez_compressed(Path(__file__).with_name("dictionary_learning.npz"), **out)
