"""Trains the embedded tokenizer and language model (Pythia's architecture, 4.2 M parameters) on the built text."""

import argparse
import gzip
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from torch.nn import functional as F
from tqdm import tqdm, trange
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from repro.base.files import cache_dir

DATA = Path(__file__).resolve().parents[1]
VOCABULARY, END = 4096, "<|endoftext|>"
GIVEN_UP = 0.02  # nats by which validation may rise above its best before training stops


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cache", type=Path, default=cache_dir() / "tiny", help="folder of train and validation text")
    parser.add_argument("--out", type=Path, default=DATA / "tiny/lm", help="folder the model is written to")
    parser.add_argument(
        "--stage", choices=["all", "tokens", "train"], default="all", help="tokens: stop before training"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--context", type=int, default=256, help="tokens a window")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak of the cosine")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--evaluate-every", type=int, default=500, help="steps")
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays on a GPU, not on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_documents(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        sys.exit(f"train_tiny_lm: {path} is missing: run data/scripts/build_text.py first")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def train_tokenizer(texts: list[str], out: Path) -> None:
    """Byte-level BPE as Pythia's: NFC, no space put before the text, END as the only special token (id 0)."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.normalizer = tokenizers.normalizers.NFC()
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=256
    )
    fast.save_pretrained(out)
    amend(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # the name every version knows


def amend(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=2) + "\n")


def encode(texts: list[str], tokenizer: Any) -> np.ndarray:
    """All texts in one row of tokens, END before each (as Pythia's training text was packed)."""
    end = tokenizer.convert_tokens_to_ids(END)
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return np.fromiter((token for row in rows for token in [end, *row]), dtype=np.uint16)


def token_stage(cache: Path, out: Path) -> None:
    """Tokenizer and token arrays; done again only if one of the files is missing."""
    files = [cache / "train.npy", cache / "validation.npy", out / "tokenizer.json"]
    if all(file.is_file() for file in files):
        return
    texts = {name: [d["text"] for d in read_documents(cache / f"{name}.jsonl.gz")] for name in ("train", "validation")}
    train_tokenizer(texts["train"], out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for name in texts:
        np.save(cache / f"{name}.npy", encode(texts[name], tokenizer))


def window_starts(tokens: int, context: int, count: int, seed: int) -> torch.Tensor:
    """`count` places where windows start: epoch after epoch a shuffled tiling, shifted by a random offset."""
    draws = np.random.default_rng(seed)
    epochs: list[np.ndarray] = []
    while sum(map(len, epochs)) < count:
        tiling = np.arange(draws.integers(context), tokens - context, context)
        epochs.append(draws.permutation(tiling))
    return torch.from_numpy(np.concatenate(epochs)[:count])


def loss_of(model: Callable[..., Any], windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of predicting windows[:, 1:] from what is before; bf16 products, float32 losses."""
    with torch.autocast(windows.device.type, torch.bfloat16):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: torch.nn.Module, tokens: np.ndarray, context: int, device: str) -> float:
    """Mean loss in nats over all whole non-overlapping windows: every token but the first of a window is predicted."""
    model.eval()
    count = (len(tokens) - 1) // context
    at = np.arange(count)[:, None] * context + np.arange(context + 1)
    windows = torch.from_numpy(tokens[at].astype(np.int64)).to(device)
    total = sum(loss_of(model, part).item() * len(part) for part in windows.split(32))
    model.train()
    return total / count


def new_model(dropout: float) -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            max_position_embeddings=256,
            use_parallel_residual=True,
            tie_word_embeddings=True,
            hidden_dropout=dropout,
            attention_dropout=dropout,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def train(args: argparse.Namespace) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], float]:
    """The weights with the lowest validation loss, the curve, and the seconds it took.

    Resumes from the last evaluation after an interruption, if the options are the same.
    """
    tokens = torch.from_numpy(np.load(args.cache / "train.npy").astype(np.int64)).to(args.device)
    validation = np.load(args.cache / "validation.npy")
    starts = window_starts(len(tokens), args.context, args.steps * args.batch, args.seed).to(args.device)
    torch.manual_seed(args.seed)
    model = new_model(args.dropout).to(args.device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)

    def cosine(step: int) -> float:
        return min(step / 100, 0.01 + 0.99 * (1 + math.cos(math.pi * step / args.steps)) / 2)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step + 1))
    curve: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    seconds, first = 0.0, 0
    options = {k: str(v) for k, v in vars(args).items() if k not in ("cache", "out", "stage")}
    saved = args.cache / f"lm_{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]}.pt"
    if saved.is_file():
        state = torch.load(saved, weights_only=True, map_location=args.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        curve, best, seconds = state["curve"], state["best"], state["curve"][-1]["seconds"]
        first = int(curve[-1]["step"])

    forward = torch.compile(model) if args.compile else model
    within = torch.arange(args.context + 1, device=args.device)
    began, running = time.perf_counter() - seconds, torch.zeros((), device=args.device)
    for step in trange(first, args.steps, unit="step", initial=first, total=args.steps):
        at = starts[step * args.batch : (step + 1) * args.batch, None]
        loss = loss_of(forward, tokens[at + within])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        running += loss.detach()
        done = step + 1
        if done % args.evaluate_every and done < args.steps:
            continue
        steps_since = done - (curve[-1]["step"] if curve else 0)
        row = {"step": done, "tokens": done * args.batch * args.context, "train_loss": running.item() / steps_since}
        row["validation_loss"] = evaluate(model, validation, args.context, args.device)
        row["seconds"] = round(time.perf_counter() - began, 1)
        running.zero_()
        if row["validation_loss"] < min((r["validation_loss"] for r in curve), default=math.inf):
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        curve.append(row)
        tqdm.write(" ".join(f"{key} {value:.6g}" for key, value in row.items()))
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save({**states, "curve": curve, "best": best}, saved)
        if row["validation_loss"] > min(r["validation_loss"] for r in curve) + GIVEN_UP:
            break  # overfitting
    return best, curve, time.perf_counter() - began


def summary(loss: float, documents: int, tokens: int, characters: int) -> dict[str, float]:
    """Loss in nats a token, and what follows from it."""
    return {
        "documents": documents,
        "tokens": tokens,
        "characters": characters,
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_character": loss / math.log(2) * tokens / characters,
    }


def by_source(
    model: GPTNeoXForCausalLM, path: Path, out: Path, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Perplexity a token and bits a character on a file of documents, for each source and for all of them."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    rows = read_documents(path)
    result = {}
    for source in sorted({row["source"] for row in rows}):
        texts = [row["text"] for row in rows if row["source"] == source]
        tokens = encode(texts, tokenizer)
        if len(tokens) > args.context:
            loss = evaluate(model, tokens, args.context, args.device)
            result[source] = summary(loss, len(texts), len(tokens), sum(map(len, texts)))
    documents, count, characters = (
        int(sum(row[key] for row in result.values())) for key in ("documents", "tokens", "characters")
    )
    loss = sum(row["loss"] * row["tokens"] for row in result.values()) / count
    result["all"] = summary(loss, documents, count, characters)
    return result


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    token_stage(args.cache, args.out)
    if args.stage == "tokens":
        return
    best, curve, seconds = train(args)
    model = new_model(0.0)
    model.load_state_dict(best)
    model.half().save_pretrained(args.out)
    # Stored in 16 bits to be small, meant to be run in 32: transformers follows the dtype of the config.
    amend(args.out / "config.json", dtype="float32")
    (args.out / "generation_config.json").unlink(missing_ok=True)

    model = GPTNeoXForCausalLM.from_pretrained(args.out).to(args.device)
    tokens = np.load(args.cache / "train.npy")
    record = {
        "options": {k: v for k, v in vars(args).items() if k not in ("cache", "out", "stage")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": len(tokens),
        "training_tokens_sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
        "epochs": round(curve[-1]["tokens"] / len(tokens), 2),
        "best_step": min(curve, key=lambda row: row["validation_loss"])["step"],
        "wall_seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, tokenizers, np)},
        },
        "validation": by_source(model, args.cache / "validation.jsonl.gz", args.out, args),
        "general": by_source(model, DATA / "tiny/general.jsonl.gz", args.out, args),
        "curve": curve,
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("validation", "general")}, indent=1))


if __name__ == "__main__":
    main()
