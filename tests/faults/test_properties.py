"""Properties that hold for every input: codes, sums, manifests and configs with any JSON in them, the ledger."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.activations.store import open_store
from repro.base.config import RunConfig, from_mapping
from repro.base.errors import BadInput
from repro.base.files import digest
from repro.checkpoints import load_sae
from repro.codes import SparseCodes
from repro.metrics import Firing, Reconstruction
from repro.metrics.firing import Moments
from repro.metrics.intervals import of_probes
from repro.metrics.probing import Probe, f1_score
from repro.sections import claims
from repro.sections.effects import Effect
from repro.sections.ledger import ledger
from repro.sections.scales import Scale
from repro.sections.verdict import REFUTED, SUPPORTED

FAMILY = "properties (hypothesis)"
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW, database=None)
few = settings(quick, max_examples=15)
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"


@pytest.fixture(autouse=True)
def _as_many_as_examples(request, tally):
    yield
    inner = getattr(request.function, "_hypothesis_internal_use_settings", None)
    tally.right(1 if inner is None else inner.max_examples)


# --- codes ----------------------------------------------------------------------------------------------


@st.composite
def dense(draw, least=1):
    """Codes [n, m] of small whole numbers of either sign, most of them 0: every sum of them is exact."""
    shape = draw(st.integers(least, 9)), draw(st.integers(1, 12))
    values = draw(st.lists(st.sampled_from([0, 0, 0, 1, -1, 2, 5]), min_size=shape[0] * shape[1], max_size=9 * 12))
    return torch.tensor(values[: shape[0] * shape[1]], dtype=torch.float32).view(shape)


@quick
@given(dense(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_codes_come_back(z, size, random):
    codes = SparseCodes.from_dense(z)
    assert torch.equal(codes.to_dense(), z)
    assert torch.equal(codes.l0, (z != 0).sum(1)) and codes.values.shape[1] == max(1, int((z != 0).sum(1).max()))
    assert torch.equal(SparseCodes.cat(list(codes.blocks(size))).to_dense(), z)
    columns = list(range(z.shape[1]))
    random.shuffle(columns)
    where = torch.tensor(columns)
    assert torch.equal(SparseCodes.packed(z[:, where], where.expand_as(z), z.shape[1]).to_dense(), z)
    assert torch.equal(codes.columns(where[:3]), z[:, where[:3]])
    assert torch.equal(codes[where[:1] % len(z)].to_dense(), z[where[:1] % len(z)])
    atoms = torch.arange(z.shape[1] * 3, dtype=torch.float32).view(-1, 3) - 4
    assert torch.equal(codes.decode(atoms), z @ atoms)


# --- sums -----------------------------------------------------------------------------------------------


def same(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@quick
@given(dense(least=2), st.data())
def test_sums_of_any_parts_are_the_sum_of_the_whole(z, data):
    n = len(z)
    cut = data.draw(st.integers(1, n - 1))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    parts = order[:cut], order[cut:]
    y = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), dtype=torch.float32)
    records = (
        lambda i: Firing.of(SparseCodes.from_dense(z[i])),
        lambda i: Moments.of(SparseCodes.from_dense(z[i]), y[i]),
        lambda i: Reconstruction.of(z[i], z[i].roll(1, 1)),
    )
    for of in records:
        a, b, whole = of(parts[0]), of(parts[1]), of(order)
        assert same(a + b, whole) and same(b + a, whole)
        if hasattr(whole, "value"):
            assert same(whole - b, a)
            assert all(np.isnan(v) or v >= -1e-9 for k, v in whole.value().items() if k != "FVE")


@quick
@given(st.integers(2, 300), st.data())
def test_an_interval_holds_its_share(n, data):
    y, first, second = (np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))) for _ in range(3))
    probe = Probe(torch.arange(6), 0.5, {}, y, {1: first, 2: second}, torch.zeros(n, 6))
    ends = of_probes([probe], (1, 2), np.arange(n))
    one, two = f1_score(y, first), f1_score(y, second)
    for name, value, least in (("F1@1", one, 0), ("F1@2", two, 0), ("dF1", two - one, -1), ("absorption", 0, 0)):
        low, high = ends[name]
        assert least <= low <= value + 1e-12 and value - 1e-12 <= high <= 1


# --- what is read ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(value, path, new):
    """The value with something else, or nothing (Ellipsis), in one place."""
    if not path:
        return None if new is ... else new
    out = copy.copy(value)
    if len(path) == 1 and new is ...:
        del out[path[0]]
    else:
        out[path[0]] = changed(value[path[0]], path[1:], new)
    return out


@settings(quick, max_examples=60)
@given(data=st.data())
def test_a_manifest_with_anything_in_it(store_path, data):
    path, manifest = store_path, store_path.with_suffix(".json")
    text = manifest.read_text()
    meta = json.loads(text)
    place = data.draw(st.sampled_from(list(places(meta))))
    store = open_store(path)
    x, labels = store.select().take(20).x, store.labels
    try:
        manifest.write_text(json.dumps(changed(meta, place, data.draw(JSON | st.just(...)))))
        found = open_store(path)
        assert torch.equal(found.select(()).take(20).x, store.select(()).take(20).x)
        if place and place[0] not in ("special_ids", "label_names"):
            assert torch.equal(found.select().take(20).x, x)
            assert labels is None or found.labels is None or np.array_equal(found.labels, labels)
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    finally:
        manifest.write_text(text)


CONFIGS = sorted(
    p for p in GOLDEN.rglob("*.json") if p.name in ("config.json", "cfg.json") and any(p.parent.glob("expected*.npz"))
)


@pytest.mark.parametrize("config", CONFIGS, ids=[str(p.parent.relative_to(GOLDEN)) for p in CONFIGS])
@few
@given(data=st.data())
def test_a_checkpoint_config_with_anything_in_it(config, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sae") / config.parent.name
    shutil.copytree(config.parent, folder)
    value = json.loads(config.read_text())
    place = data.draw(st.sampled_from(list(places(value))))
    (folder / config.name).write_text(json.dumps(changed(value, place, data.draw(JSON | st.just(...)))))
    whole = load_sae(config.parent)
    try:
        assert load_sae(folder).W_dec.shape == whole.W_dec.shape
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    finally:
        shutil.rmtree(folder.parent)


@quick
@given(st.data())
def test_a_run_config_with_anything_in_it(data):
    value = json.loads(json.dumps(dataclasses.asdict(RunConfig())))
    place = data.draw(st.sampled_from(list(places(value))))
    try:
        config = from_mapping(RunConfig, changed(value, place, data.draw(JSON | st.just(...))))
    except BadInput as error:
        assert str(error)
    else:
        assert from_mapping(RunConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


@quick
@given(st.integers(), st.integers())
def test_a_key_tells_values_apart(a, b):
    assert (digest(Scale(seed=a)) == digest(Scale(seed=b))) == (a == b)


# --- the ledger's rules ---------------------------------------------------------------------------------

effects = st.lists(st.floats(-1, 1).map(lambda v: round(v, 6)), min_size=2, max_size=8)


@quick
@given(effects, st.floats(-3, 3))
def test_an_effect_and_its_opposite(values, by):
    a, b = Effect.of(values), Effect.of([-v for v in values])
    assert (a.low, a.high) == (-b.high, -b.low) and np.array_equal(a.p(0.1), b.p(-0.1), equal_nan=True)
    assert a.low <= a.value <= a.high
    assert Effect.of([*values, float("nan")]).n == len(values)
    if abs(by) > 1e-3:
        scaled = Effect.of([by * v for v in values])
        assert [scaled.low, scaled.high] == pytest.approx(sorted([by * a.low, by * a.high]), abs=1e-9)


METRICS = ("NMSE", "NMSE_refit", "dead_rate", "dense@0.1", "dF1", "excess")
ONE_SIDED = ("C5a", "C5c", "C8c", "C8d")
"""Claims whose whole statement is the sign of a difference between modes, of L1-trained SAEs or of all."""


def comparison(by_sae, sign):
    """Every metric of every mode lies by_sae[i] (times the sign) above the encoder's, in SAE i."""
    rows = []
    for i, delta in enumerate(by_sae):
        for protocol in ("as_released", "corrected"):
            for mode in ("amortized", "semi", "non"):
                change = 0 if mode == "amortized" else sign * delta
                row = {"variant": "standard", "sparsity": float(i), "protocol": protocol, "mode": mode, "L0": 9.0 - i}
                rows.append(row | dict.fromkeys(METRICS, 2.0 + change))
    return pd.DataFrame(rows)


def judged(table):
    claims_of_one_side = [claim for claim in claims.CLAIMS if claim.id in ONE_SIDED]
    return ledger(claims_of_one_side, "tiny", {"comparison": table}).set_index("claim")


def verdicts(table):
    return judged(table)["verdict"]


@few
@given(effects, st.randoms(use_true_random=False))
def test_a_verdict_turns_with_the_sign_and_not_with_the_order_of_rows(by_sae, random):
    table = comparison(by_sae, 1)
    there, back = verdicts(table), verdicts(comparison(by_sae, -1))
    assert not ((there == SUPPORTED) & (back == SUPPORTED)).any()
    for claim in ONE_SIDED:
        assert there[claim] != SUPPORTED or back[claim] == REFUTED
    shuffled = table.sample(frac=1, random_state=random.randrange(2**31))
    assert (verdicts(shuffled) == there).all()


@few
@given(st.sampled_from([claim.metric for claim in claims.CLAIMS if claim.id in ONE_SIDED]), effects)
def test_what_was_not_measured_never_holds(metric, by_sae):
    table = comparison(by_sae, 1)
    table.loc[table["mode"] != "amortized", metric] = float("nan")
    table["NMSE_refit" if metric == "NMSE" else metric] = float("nan")
    found = judged(table)
    lost = found[found["corrected"].str.strip() == "–"]
    assert len(lost) and not lost["verdict"].isin([SUPPORTED, REFUTED]).any()
