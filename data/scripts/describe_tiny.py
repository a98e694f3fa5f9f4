"""Describes the embedded language model and labelled glosses: linear probe, residual stream, samples, known leaks."""

import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from repro.activations.collect import collect_texts
from repro.activations.language_models.load import LoadedModel, as_loaded, load_model
from repro.base.config import ModelConfig
from repro.base.files import write_atomically

DATA = Path(__file__).resolve().parents[1]
PROMPTS = ["Elizabeth", "God said to Moses,", "physics (noun):", "oak (noun):", "hack (n.):", "It was a"]


def read_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pooled(model: LoadedModel, texts: list[str]) -> np.ndarray:
    """Mean of the residual stream over the tokens of each text [n, d]; each text is run by itself."""
    parts = []
    for i in range(0, len(texts), 500):  # few enough for the padded activations to fit in memory
        store = collect_texts(model, texts[i : i + 500], seq_len=256)
        parts.append(store.x.sum(1) / store.mask.sum(1, keepdims=True))  # padding holds zeros
    return np.concatenate(parts)


def random_weights(model: LoadedModel) -> LoadedModel:
    """The same architecture, tokenizer and layer before any training."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    lm: Any = model.model
    return as_loaded(AutoModelForCausalLM.from_config(lm.config, dtype=torch.float32), model.tokenizer, model.layer)


def probe(model: LoadedModel, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Accuracy of logistic regression on pooled activations, with the split as stored.

    Beside it two floors that know no more than which tokens or words a text has: the same probe on the same network
    with random weights, and logistic regression on TF-IDF.
    """
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    test = np.array([row["split"] == "test" for row in rows])
    x, linear = pooled(model, texts), make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    untrained = pooled(random_weights(model), texts)
    floor = linear.fit(untrained[~test], labels[~test]).score(untrained[test], labels[test])
    linear.fit(x[~test], labels[~test])
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1000))
    words.fit([t for t, out in zip(texts, test) if not out], labels[~test])
    right = linear.predict(x[test]) == labels[test]
    return {
        "train_documents": int((~test).sum()),
        "test_documents": int(test.sum()),
        "train_accuracy": linear.score(x[~test], labels[~test]),
        "test_accuracy": right.mean(),
        "test_accuracy_of_class": {name: right[labels[test] == name].mean() for name in sorted(set(labels))},
        "random_weights_test_accuracy": floor,
        "tfidf_test_accuracy": words.score([t for t, out in zip(texts, test) if out], labels[test]),
    }


def residual(model: LoadedModel, texts: list[str], tokens: int) -> dict[str, Any]:
    """Norms and spectrum of the residual stream on packed text.

    The effective rank is exp(entropy) of the eigenvalues of the covariance, normalised to sum to one; the
    participation ratio is (sum of eigenvalues)^2 / sum of squares. Position 0 has its own norms and is left out of
    the spectrum.
    """
    store = collect_texts(model, texts, seq_len=128, packing=True, max_tokens=tokens)
    norms = np.linalg.norm(store.x, axis=2)
    all_norms, median = norms[store.mask], float(np.median(norms[store.mask]))
    rows = torch.cat(list(store.select(exclude=("pad", "first")).blocks())).double()
    spectrum = torch.linalg.eigvalsh(torch.cov(rows.T)).clamp(min=0).flip(0)
    share = (spectrum / spectrum.sum()).numpy()
    centred = rows - rows.mean(0)
    kurtosis = (centred**4).mean(0) / (centred**2).mean(0) ** 2
    return {
        "tokens": int(store.mask.sum()),
        "norm_median": median,
        "norm_max": float(all_norms.max()),
        "norm_median_at_position_0": float(np.median(norms[:, 0])),
        "norm_median_elsewhere": float(np.median(norms[:, 1:][store.mask[:, 1:]])),
        "share_above_3_medians": float((all_norms > 3 * median).mean()),
        "effective_rank": float(np.exp(-(share * np.log(share + 1e-300)).sum())),
        "participation_ratio": float(1 / (share**2).sum()),
        "variance_in_first_component": float(share[0]),
        "components_for_90_percent": int(np.searchsorted(share.cumsum(), 0.9) + 1),
        "energy_in_mean": float(rows.mean(0).square().sum() / rows.square().sum(1).mean()),
        "kurtosis_median": float(kurtosis.median()),
        "kurtosis_max": float(kurtosis.max()),
    }


def leaks(rows: list[dict[str, str]]) -> dict[str, Any]:
    """What could tell the class without meaning: years, and words with glosses (of other senses) in both splits."""
    words = {split: {row["word"].lower() for row in rows if row["split"] == split} for split in ("train", "test")}
    numbers = Counter(row["label"] for row in rows if re.search(r"\b\d{3,4}\b", row["text"]))
    return {
        "words_in_both_splits": len(words["train"] & words["test"]),
        "with_a_number_of_three_or_four_digits": dict(sorted(numbers.items())),
    }


def samples(model: LoadedModel, tokens: int = 40) -> dict[str, str]:
    """A continuation of each prompt, drawn at temperature 0.7 with one seed."""
    lm: Any = model.model
    torch.manual_seed(0)
    out = {}
    for prompt in PROMPTS:
        ids = torch.tensor([[model.special_ids["eos"][0], *model.tokenizer(prompt)["input_ids"]]])
        drawn = lm.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.7, top_k=0,
                            max_new_tokens=tokens, pad_token_id=0)  # fmt: skip
        out[prompt] = model.tokenizer.decode(drawn[0], skip_special_tokens=True)
    return out


def rounded(value: Any) -> Any:
    """Floats to four significant digits, so that the file does not change with the last bits of a machine."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="tiny", help="preset, or a folder with a model of the same tokenizer")
    parser.add_argument("--layer", type=int, default=2, help="block whose output is read")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens the residual statistics are taken over")
    parser.add_argument("--out", type=Path, default=DATA / "tiny/lm/description.json")
    args = parser.parse_args()

    model = load_model(ModelConfig(args.model, layer_index=args.layer), "cpu")
    glosses = read_rows(DATA / "tiny/glosses.jsonl.gz")
    general = [row["text"] for row in read_rows(DATA / "tiny/general.jsonl.gz")]
    record = {
        "layer": args.layer,
        "site": "resid_post",
        "probe": probe(model, glosses),
        "residual": residual(model, general, args.tokens),
        "glosses": leaks(glosses),
        "samples": samples(model),
    }
    text = json.dumps(rounded(record), indent=1, ensure_ascii=False) + "\n"
    write_atomically(args.out, lambda draft: draft.write_text(text, encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    main()
