"""SAEBench's core evaluation of one SAE under several kinds of codes, on local text: needs sae-bench, not the network.

python data/scripts/saebench_core.py SAE MODEL LAYER OUT.csv
SAE: what `load_sae` reads. MODEL: a folder with a language model. Evaluated on the bundled text, its last documents.
"""

import gzip
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from sae_bench.evals.core.main import CoreEvalConfig, run_evals
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from sae_lens import ActivationsStore
from transformer_lens.model_bridge import TransformerBridge

from repro import adapt
from repro.adapted import KINDS
from repro.base.files import repo_root
from repro.base.machine import provenance
from repro.checkpoints import load_sae

DOCUMENTS, BATCHES, PROMPTS, LENGTH = 400, 8, 8, 128
METRICS = {
    "l0": ("sparsity", "l0"),
    "explained_variance": ("reconstruction_quality", "explained_variance"),
    "mse": ("reconstruction_quality", "mse"),
    "ce_loss_score": ("model_performance_preservation", "ce_loss_score"),
    "ce_loss_with_sae": ("model_performance_preservation", "ce_loss_with_sae"),
    "ce_loss_without_sae": ("model_performance_preservation", "ce_loss_without_sae"),
    "kl_div_score": ("model_behavior_preservation", "kl_div_score"),
    "kl_div_with_sae": ("model_behavior_preservation", "kl_div_with_sae"),
}


def text() -> Dataset:
    """The last documents of the bundled text."""
    with gzip.open(repo_root() / "data" / "tiny" / "general.jsonl.gz", "rt") as file:
        return Dataset.from_dict({"text": [json.loads(line)["text"] for line in file][-DOCUMENTS:]})


def evaluate(module: torch.nn.Module, model: TransformerBridge) -> dict[str, float]:
    """The metrics of SAEBench's core evaluation for an adapted SAE."""
    _, sae, _ = load_and_format_sae("", module, "cpu")
    store = ActivationsStore.from_sae(model, sae, text(), context_size=LENGTH, streaming=False)
    config = CoreEvalConfig(
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=BATCHES,
        n_eval_sparsity_variance_batches=BATCHES,
        context_size=LENGTH,
        exclude_special_tokens_from_reconstruction=True,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    special = {getattr(model.tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    found, _ = run_evals(sae, store, model, config, ignore_tokens=special)
    return {name: found[group][key] for name, (group, key) in METRICS.items()}


def main(path: str, folder: str, layer: str, out: str) -> None:
    """Write a row a kind of codes."""
    model = TransformerBridge.boot_transformers(folder, device="cpu")
    model.enable_compatibility_mode(no_processing=True)
    sae = load_sae(path)
    rows = [{"codes": mode} | evaluate(adapt(sae, mode, folder, int(layer)), model) for mode in KINDS]
    pd.DataFrame(rows).to_csv(Path(out), index=False, float_format="%.6g")
    libraries = {name: version(name) for name in ("sae-bench", "sae-lens", "transformer-lens")}
    facts = {"sae": {"variant": sae.name, "layer": int(layer), "k": sae.source.k, "sha256": sae.source.sha256}}
    facts |= {"tokens": BATCHES * PROMPTS * LENGTH, **libraries, **provenance()}
    Path(out).with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
