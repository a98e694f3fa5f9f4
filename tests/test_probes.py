"""Real labels: read from ids by hand, planted latents found with their sign, baselines by hand, draws against loops."""

import numpy as np
import pandas as pd
import pytest
import torch

from repro.codes import SparseCodes
from repro.evaluate import EvalOptions
from repro.experiments import probe_labels as labels
from repro.experiments import probe_scores as ps
from repro.experiments import probes, probes_words
from repro.metrics import probe_metrics

O = EvalOptions(bootstrap=50, seed=3)


def test_labels_are_read_from_ids():
    assert labels.source_of("wordnet/noun.act/12#0") == "wordnet"
    assert labels.source_of("austen/Sense And Sensibility/31#2") == "austen"
    assert labels.lexfile_of("wordnet/noun.Tops/0#0") == "noun.Tops"
    assert labels.lexfile_of("bible/Josh.2#1") is None and labels.pos_of("jargon/281#0") is None
    assert [labels.pos_of(f"wordnet/{f}/1#0") for f in ("noun.act", "verb.motion", "adj.pert", "adv.all")] == [
        "noun",
        "verb",
        "adjective",
        "adverb",
    ]


def test_first_letters():
    begin = {"Ġthe": "t", "▁Zebra": "z"}
    assert {piece: labels.first_letter(piece) for piece in begin} == begin
    assert not any(labels.first_letter(piece) for piece in ("ing", "Ġ", "Ġ(", "Ġ7th", "Ġé", ""))


def test_pages_do_not_name_their_part_of_speech():
    page = "press (verb): make pushing movements\nin a row (adverb): without (verb) a break"
    assert labels.unmarked(page) == "press: make pushing movements\nin a row: without (verb) a break"


def test_documents_are_chosen_in_halves_with_the_same_classes():
    ids = [f"wordnet/{f}/{i}#0" for f in ("noun.act", "adj.all") for i in range(30)]
    ids += [f"austen/x/{i}#0" for i in range(30)] + ["devil/1#0"]
    picked = [d["id"] for d in labels.choose([{"id": i, "source": labels.source_of(i)} for i in ids], 8, 0)]
    assert len(picked) == len(set(picked)) == 4 + 4 + 8 + 1
    assert sum("noun.act" in i for i in picked[::2]) == 2 and sum("austen" in i for i in picked[1::2]) == 4


def asked(classes, least_docs=16):
    docs = torch.arange(least_docs).repeat_interleave(len(classes) // least_docs)
    return labels.question("source", "token", "general", classes, docs, docs % 2 == 0)


def test_a_question_splits_by_document_and_leaves_out_what_has_no_class():
    classes = [*(["a", "b", None, "c"] * 16)[:-1], "rare"]
    q = asked(classes)
    assert q.names == ("a", "b", "c") and len(q.rows) == 48 and q.ys.sum(1).tolist() == [16, 16, 15]
    assert not set(q.docs[q.train].tolist()) & set(q.docs[~q.train].tolist())
    assert asked(["a"] * 32) is None


def planted(sign):
    """Latent 3 is on (sign 1) or off (sign -1) exactly where the first class is; the others are noise."""
    g = torch.Generator().manual_seed(0)
    q = asked([("yes", "no")[(i // 4 + i) % 2] for i in range(320)])
    z = torch.rand(320, 9, generator=g) * (torch.rand(320, 9, generator=g) < 0.2)
    first = q.ys[list(q.names).index("yes")]
    z[:, 3] = (first if sign > 0 else 1 - first).float()
    return q, SparseCodes.from_dense(z), list(q.names).index("yes")


def test_a_planted_latent_is_found_with_its_sign():
    for sign in (1, -1):
        q, codes, yes = planted(sign)
        row, found, drawn = probes.answer(q, lambda codes=codes: iter((codes[:100], codes[100:])), O)
        assert [int(p.order[0]) for p in found] == [3, 3] and found[yes].f1[1] == 1
        assert (found[yes].r_main == pytest.approx(sign, abs=1e-4) and found[1 - yes].r_main < 0) or sign < 0
        assert row["F1@1"] == row["F1@1_low"] == 1 and row["anticorrelated"] == 0.5 and row["F1@1_random"] < 1
        on = np.array([[p.top[p.y == 1][:, 0].numpy() > 0] for p in found])
        assert on.mean() == 0.5  # the main latent of the other class is off on all its positives
        assert row["absorption_positive"] == 0 and len(drawn["dF1"]) == 51


def test_estimates_are_the_metrics_and_draws_are_of_documents():
    g = torch.Generator().manual_seed(1)
    q = asked(["abc"[int(i)] for i in torch.randint(0, 3, (320,), generator=g)])
    codes = SparseCodes.from_dense(torch.rand(320, 20, generator=g) * (torch.rand(320, 20, generator=g) < 0.3))
    row, found, drawn = probes.answer(q, lambda: iter((codes,)), O)
    values = probe_metrics(codes, q.ys.argmax(0), q.train, (1, 2))[0]
    for name in ("F1@1", "F1@2", "dF1", "absorption", "absorption_null"):
        assert row[name] == pytest.approx(values[name], abs=1e-9), name
    weights = np.random.default_rng(O.seed).multinomial(8, np.full(8, 1 / 8), O.bootstrap)[0]
    test_docs = q.docs[~q.train].unique().tolist()
    rows = np.concatenate([np.flatnonzero(q.docs[~q.train] == d) for d, w in zip(test_docs, weights) for _ in range(w)])
    again = np.mean([ps.f1_score(p.y[rows], p.predicted[1][rows]) for p in found])
    assert drawn["F1@1"][1] == pytest.approx(again)


def test_baselines_by_hand():
    y = np.array([1, 0, 0, 0])
    assert ps.always_f1(y) == pytest.approx(2 * 0.25 / 1.25)
    assert ps.majority_f1(np.array([1, 0, 0]), y) == 0
    assert ps.majority_f1(np.array([1, 1, 0]), y) == pytest.approx(0.4)
    x, train = torch.tensor([[0.0, 1], [0, 2], [1, 1], [1, 2]]).repeat(5, 1), torch.arange(20) < 12
    ys = torch.stack([x[:, 0].long(), 1 - x[:, 0].long()])
    found = ps.references(x, ys, train, seed=0)
    assert found["F1_dense"] == 1 and found["F1_always"] == pytest.approx(2 / 3) and found["F1_majority"] == 0
    assert 0 <= found["F1@1_direction"] <= 1


def test_random_latents_fire_where_probes_are_fitted():
    fired = torch.tensor([0, 3, 0, 1, 2, 0])
    assert set(ps.some_latents(fired, 3, 0).tolist()) == {1, 3, 4}
    assert len(ps.some_latents(fired, 8, 0)) == 8 and len(ps.some_latents(torch.zeros(4), 6, 0)) == 6


def draws(change):
    base, noise = np.linspace(0.1, 0.2, 51), np.linspace(-0.01, 0.01, 51)
    other = {("norm", "semi"): base - change, ("topic", "semi"): base + change + noise}
    out = {("norm", "amortized"): base, ("topic", "amortized"): base, **other}
    return {key: [dict.fromkeys(ps.METRICS, v), dict.fromkeys(ps.METRICS, v)] for key, v in out.items()}


def test_changes_are_paired_and_the_verdict_follows_its_rule():
    means = pd.DataFrame(probes.means(draws(0.1)))
    row = means[(means["label"] == "norm") & (means["mode"] == "semi") & (means["metric"] == "dF1")].iloc[0]
    assert row["change"] == row["change_low"] == pytest.approx(-0.1) and row["falls"] == row["saes"] == 2
    assert row["value_high"] - row["value_low"] > 0.08  # the difference is known better than either
    assert probes_words.depends(means, "dF1", "semi") == ("yes", {"falls": ["norm"], "rises": ["topic"]})
    assert "depends on the label" in probes_words.verdict(means)
    still = pd.DataFrame(probes.means(draws(0.0)))
    assert probes_words.depends(still, "dF1", "semi") == ("open", {"open": ["norm", "topic"]})
    same = means[means["label"] == "norm"]
    assert probes_words.depends(same, "absorption", "semi") == ("no", {"falls": ["norm"]})
