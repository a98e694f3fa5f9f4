"""Activations, dictionaries, labels at the edges: right or refused, never NaN in a row without a reason beside it."""

import math

import pytest
import torch

from repro.base.errors import BadInput
from repro.evaluate import EvalData, EvalOptions, Labelled, Tokens, evaluate_sae
from repro.sae import VARIANTS

FAMILY = "awkward numbers"
D, M, N = 6, 14, 60


def sae(variant="topk", atoms=None, bias=0.0, k=3):
    config = VARIANTS[variant].Config(D, M, **({"k": k} if variant == "topk" else {}))
    made = VARIANTS[variant](config)
    g = torch.Generator().manual_seed(1)
    dictionary = torch.randn(M, D, generator=g)
    dictionary = dictionary / dictionary.norm(dim=1, keepdim=True) if atoms is None else atoms
    with torch.no_grad():
        made.W_dec.copy_(dictionary)
        made.W_enc.copy_(torch.randn(M, D, generator=g).T)
        made.b_enc.fill_(bias)
        made.b_dec.zero_()
    return made


def data(x, labels=None):
    docs = torch.arange(len(x)) // max(1, len(x) // 6)
    probed = None
    if labels is not None:
        classes = torch.as_tensor(labels)
        probed = Labelled(Tokens(x, docs), classes, torch.arange(len(classes)) % 2 == 0, ("a", "b"))
    return EvalData(Tokens(x, docs), probed, "key")


def rows(made, x, labels=None):
    given = {"released_tokens": len(x), "semi_steps": 2, "non_steps": 3, "tol": 1e-2}
    return list(evaluate_sae(made, data(x, labels), EvalOptions(**given)))


def honest(found):
    """Every row has its main numbers and those of its probes, or a note."""
    assert found
    for row in found:
        main = [row.get(name) for name in ("NMSE", "L0", "dead_rate")]
        probes = [row[name] for name in ("F1@1", "F1@2", "dF1", "absorption") if name in row]
        if any(v is None or not math.isfinite(v) for v in main + probes):
            assert row.get("note"), row
    return found


def normal(n=N):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(2))


def test_ordinary_activations_have_all_their_numbers():
    assert all(math.isfinite(row["NMSE"]) for row in rows(sae(), normal()) if "note" not in row)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_refused(value):
    x = normal()
    x[7, 3] = value
    with pytest.raises(BadInput, match=r"NaN|infinite|finite"):
        rows(sae(), x)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.ones(N, D), id="constant"),
        pytest.param(torch.zeros(N, D), id="zero"),
        pytest.param(normal() * 1e12, id="huge"),
        pytest.param(normal() * 1e-12, id="tiny"),
        pytest.param(normal(1), id="one token"),
    ],
)
def test_activations_at_the_edge(x):
    honest(rows(sae(), x))


def edge(name):
    atoms = sae().W_dec.detach().clone()
    if name == "zero":
        atoms[3] = 0
    if name == "duplicate":
        atoms[3] = atoms[4]
    if name == "not unit":
        atoms *= torch.linspace(0.01, 50, M)[:, None]
    if name == "all the same":
        atoms[:] = atoms[0]
    return atoms


@pytest.mark.parametrize("name", ["zero", "duplicate", "not unit", "all the same"])
@pytest.mark.parametrize("variant", ["topk", "standard"])
def test_dictionaries_at_the_edge(name, variant):
    honest(rows(sae(variant, edge(name)), normal()))


def test_a_dictionary_with_nan_is_refused():
    atoms = edge("none")
    atoms[2, 2] = float("nan")
    with pytest.raises(BadInput):
        rows(sae(atoms=atoms), normal())


def test_an_encoder_that_is_silent():
    found = honest(rows(sae("standard", bias=-1e6), normal()))
    silent = next(row for row in found if (row["protocol"], row["mode"]) == ("corrected", "amortized"))
    assert silent["L0"] == 0 and silent["dead_rate"] == 1


@pytest.mark.parametrize("labels", [[0] * 6, [0, 0, 0, 0, 0, 1], [1] * 6], ids=["one class", "one of a class", "other"])
def test_labels_of_one_class(labels):
    for row in honest(rows(sae(), normal(), labels)):
        for name in ("F1@1", "dF1", "absorption"):
            if name in row and not math.isfinite(row[name]):
                assert row["protocol"] == "corrected"  # no probe can be fitted, and none is made up
                assert name in row["note"]
