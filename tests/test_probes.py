"""Real labels: read from ids, planted latents found with their sign, draws against repeated documents and noise."""

import numpy as np
import pandas as pd
import pytest
import torch

from repro.codes import SparseCodes
from repro.metrics.absorption import AUX
from repro.metrics.probing import probes as fitted_probes
from repro.sections.probes import draws as probe_draws
from repro.sections.probes import labels
from repro.sections.probes import scores as ps
from repro.sections.probes import words as probes_words
from repro.sections.probes.run import answer, means

DRAWS, SEED = 25, 3


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
        row, found, drawn = answer(q, lambda codes=codes: iter((codes[:100], codes[100:])), DRAWS, SEED)
        assert (found.latents == 3).all()
        for half in found.r:
            assert half[yes] == pytest.approx(sign, abs=1e-4) and half[1 - yes] == pytest.approx(-sign, abs=1e-4)
        assert row["F1@1"] == row["F1@1_low"] == 1 and row["anticorrelated"] == 0.5 and row["F1@1_random"] < 1
        positives, on = found.counts[:, 0, :, 4], found.counts[:, 0, :, 6]
        assert on.sum() == positives.sum() / 2  # the main latent of the other class is off on all its positives
        assert row["absorption_positive"] == 0 and len(drawn["dF1"]) == 26


def noise(seed, n_docs, tokens, m, rates, share=0.3):
    """Labels and two sets of codes of the same kind that know nothing of them: every change between the sets is 0."""
    g = torch.Generator().manual_seed(seed)
    docs = torch.arange(n_docs).repeat_interleave(tokens)
    y = (torch.rand(1, len(docs), generator=g) < share).long()
    q = labels.Question("norm", "token", "general", torch.arange(len(docs)), docs, docs % 2 == 0, ("noise",), y)
    rate = torch.linspace(*rates, m)
    z = [torch.rand(len(docs), m, generator=g) * (torch.rand(len(docs), m, generator=g) < rate) for _ in range(2)]
    return q, [SparseCodes.from_dense(each) for each in z]


def test_both_halves_are_scored_by_the_probes_of_the_other():
    q, (codes, _) = noise(1, 40, 8, 20, (0.1, 0.5))
    row, found, _ = answer(q, lambda: iter((codes,)), DRAWS, SEED)
    first, second = (fitted_probes(lambda: iter((codes,)), list(q.ys), (1, 2), half)[0] for half in (q.train, ~q.train))
    for k in (1, 2):
        said = np.zeros(320)
        said[~q.train], said[q.train] = first.predicted[k], second.predicted[k]
        assert row[f"F1@{k}"] == pytest.approx(ps.f1_score(q.ys[0].numpy(), said))
    r = [np.corrcoef(codes.to_dense()[half].T.numpy(), q.ys[0][half])[-1, :-1] for half in (q.train, ~q.train)]
    assert [int(np.abs(each).argmax()) for each in r] == found.latents[:, 0].tolist()
    assert [each[np.abs(each).argmax()] for each in r] == pytest.approx(found.r[:, 0], abs=1e-4)


def totals(found):
    """`Crossed.counts` from the library's probes."""
    out = np.zeros((len(found), 7 + AUX))
    for c, p in enumerate(found):
        yes, on = p.y == 1, (p.top[:, : 1 + AUX] > 0).numpy()
        columns = [side for k in (1, 2) for side in (yes & (p.predicted[k] == 1), p.y != p.predicted[k])]
        columns += [yes, yes & ~on[:, 0] & on[:, 1:].any(1), *(yes & on[:, j] for j in range(on.shape[1]))]
        out[c, : len(columns)] = [column.sum() for column in columns]
    return out


@pytest.mark.parametrize("tokens, rates", [(1, (0.3, 0.9)), (9, (0.0, 0.2))])
def test_a_draw_is_what_repeated_documents_give(tokens, rates):
    """Probes of the library on rows written down as often as their document was drawn."""
    q, (codes, _) = noise(2, 30, tokens, 15, rates, 0.5)
    docs, train = q.docs.numpy(), q.train.numpy()
    weights = probe_draws.weights_of(docs, train, 3, 5)
    assert (weights[:, ::2].sum(1) == 15).all() and (weights.sum(1) == 30).all() and (weights[0] == 1).all()
    drawn = probe_draws.crossed(lambda: iter((codes[:7], codes[7:])), q.ys, q.docs, q.train, 3, 5).counts
    for w, mine in zip(weights, drawn.swapaxes(0, 1), strict=True):
        rows = torch.from_numpy(np.repeat(np.arange(len(docs)), w[docs].astype(int)))
        again = codes[rows]
        truth = [
            totals(fitted_probes(lambda again=again: iter((again,)), [q.ys[0][rows]], (1, 2), half[rows]))
            for half in (q.train, ~q.train)
        ]
        assert mine == pytest.approx(np.array(truth))


def test_regressions_are_scikit_learns_even_where_classes_are_apart():
    from sklearn.linear_model import LogisticRegression

    from repro.kernels.cpu.probes import logistic

    g = torch.Generator().manual_seed(0)
    y = (torch.rand(200, generator=g) < 0.1).long()
    x = torch.stack([y * 30 + torch.rand(200, generator=g), torch.rand(200, generator=g) ** 20 * 50], 1).double()
    w, theta = torch.randint(0, 4, (200,), generator=g).double(), np.zeros((3, 3))
    for k in (1, 2):
        logistic(x.numpy(), y.numpy(), w.numpy(), 200, k, theta[k])
        model = LogisticRegression(solver="liblinear", tol=1e-8, max_iter=10_000)
        model.fit(x[:, :k].numpy(), y.numpy(), w.numpy())
        assert theta[k] == pytest.approx([*model.coef_[0], *[0] * (2 - k), model.intercept_[0]], abs=2e-3)


def test_intervals_cover_chance_when_there_is_nothing_to_find():
    """Two sets of codes of the same kind: no change is real, whichever latents each of them happened to pick."""
    names = ("F1@1", "dF1", "absorption")
    covered = dict.fromkeys(names, 0)
    for seed in range(20):
        q, sets = noise(seed, 60, 1, 40, (0.1, 0.6))
        a, b = (answer(q, lambda codes=codes: iter((codes,)), 40, 0)[2] for codes in sets)
        for name in names:
            interval = ps.with_interval({"change": a[name] - b[name]}, 60)
            covered[name] += interval["change_low"] <= 0 <= interval["change_high"]
    assert all(count >= 17 for count in covered.values()), covered  # 95 to 100 of 100 seeds


def test_the_seed_draws_the_documents():
    """The same seed draws the same documents, so that differences between codes are paired; another draws others."""
    q, (codes, _) = noise(1, 40, 2, 20, (0.1, 0.5))
    first, again, other = (answer(q, lambda: iter((codes,)), 10, seed)[2]["F1@1"] for seed in (3, 3, 4))
    assert (first == again).all() and first[0] == other[0] and (first[1:] != other[1:]).any()


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


ASKED = {"norm": 400, "topic": 400}


def draws(change):
    base, noise = (np.append(0.5 * (a + b), np.linspace(a, b, 50)) for a, b in ((0.1, 0.2), (-0.01, 0.01)))
    other = {("norm", "semi"): base - change, ("topic", "semi"): base + change + noise}
    out = {("norm", "amortized"): base, ("topic", "amortized"): base, **other}
    return {key: [dict.fromkeys(ps.SCORES, v), dict.fromkeys(ps.SCORES, v)] for key, v in out.items()}


def test_changes_are_paired_and_the_verdict_follows_its_rule():
    table = pd.DataFrame(means(draws(0.1), ASKED))
    row = table[(table["label"] == "norm") & (table["mode"] == "semi") & (table["metric"] == "dF1")].iloc[0]
    assert (row["change"], row["change_low"]) == pytest.approx((-0.1, -0.1)) and row["falls"] == row["saes"] == 2
    assert row["value_high"] - row["value_low"] > 0.08  # the difference is known better than either
    assert probes_words.depends(table, "dF1", "semi") == ("yes", {"falls": ["norm"], "rises": ["topic"]})
    assert "depends on the label" in probes_words.verdict(table)
    still = pd.DataFrame(means(draws(0.0), ASKED))
    assert probes_words.depends(still, "dF1", "semi") == ("open", {"open": ["norm", "topic"]})
    same = table[table["label"] == "norm"]
    assert probes_words.depends(same, "absorption", "semi") == ("no", {"falls": ["norm"]})
