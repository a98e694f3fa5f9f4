"""Evaluation in blocks: the same table for any block, bounded memory, rows that survive a crash, controls by hand."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import D, M, evaluation, planted, tokens
from scipy.optimize import nnls
from torch.utils._python_dispatch import TorchDispatchMode

from repro import codes as codes_module
from repro.base.config import MetricsConfig
from repro.base.errors import BadInput
from repro.codes import KeptCodes, SparseCodes
from repro.evaluate import (
    EvalData,
    EvalOptions,
    Tokens,
    TokenSums,
    engine,
    evaluate_checkpoints,
    evaluate_sae,
    open_data,
)
from repro.evaluate import run as evaluation_run
from repro.evaluate.controls import random_dictionary, random_encoder
from repro.inference import CONTROLS, MODES
from repro.metrics import Firing, Moments, Reconstruction

GOLDEN = Path(__file__).parent / "golden" / "checkpoints" / "dictionary_learning"
SAE = GOLDEN / "BatchTopK" / "resid_post_layer_8" / "trainer_0"


def table(sae, data, **options):
    given = {"released_tokens": 150, "semi_steps": 20, "non_steps": 30} | options
    return {(r["protocol"], r["mode"]): r for r in evaluate_sae(sae, data, EvalOptions(**given))}


def same(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    for pair in a:
        assert a[pair].keys() == b[pair].keys()
        for name in a[pair].keys() - {"seconds"}:
            assert a[pair][name] == (
                pytest.approx(b[pair][name], rel=tolerance, abs=tolerance, nan_ok=True)
                if isinstance(a[pair][name], float)
                else b[pair][name]
            ), (pair, name)


# --- sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_any_split_in_any_order_adds_up(seed):
    g = torch.Generator().manual_seed(seed)
    x, x_hat = torch.randn(101, 6, generator=g) * 1e3, torch.randn(101, 6, generator=g)
    z, y = torch.randn(101, 9, generator=g).relu(), (torch.rand(101, generator=g) < 0.4).long()
    parts = torch.randperm(101, generator=g).split([1, 40, 3, 57])

    def total(of):
        first, *rest = [of(p) for p in parts]
        for r in rest:
            first = first + r
        return first

    whole = torch.arange(101)
    for of in (lambda p: Reconstruction.of(x[p], x_hat[p]), lambda p: Firing.of(SparseCodes.from_dense(z[p]))):
        assert total(of).value() == pytest.approx(of(whole).value(), rel=1e-12)
    moments = [f(lambda p: Moments.of(SparseCodes.from_dense(z[p]), y[p])) for f in (total, lambda of: of(whole))]
    for name in ("z", "zz", "zy"):
        a, b = (getattr(m, name) for m in moments)
        assert torch.allclose(a, b, rtol=1e-12, atol=0)
    assert torch.equal(moments[0].order(), moments[1].order())


def test_groups_of_documents_add_up_block_by_block():
    x, z, docs = torch.randn(90, 5), torch.randn(90, 7).relu(), torch.arange(90) // 3
    codes, x_hat = SparseCodes.from_dense(z), torch.randn(90, 5)
    sums, whole = TokenSums(docs), TokenSums(docs)
    for rows in (slice(50, 90), slice(0, 13), slice(13, 50)):
        sums.add(rows, x[rows], x_hat[rows], codes[rows])
    whole.add(slice(None), x, x_hat, codes)
    assert sums.value() == pytest.approx(whole.value(), rel=1e-12)


@pytest.mark.parametrize("memory", [1, 2**25])
def test_kept_codes_come_back(memory, monkeypatch):
    monkeypatch.setattr(codes_module, "MEMORY", memory)  # 1 byte: straight to the file
    monkeypatch.setattr(codes_module, "NONZEROS", 25)
    z = torch.randn(40, 30) * (torch.rand(40, 30) < torch.linspace(0, 1, 40)[:, None])
    keep = KeptCodes(30)
    for rows in z.split([7, 1, 0, 32]):
        keep.append(SparseCodes.from_dense(rows))
    assert len(keep) == 40 and len(keep[5:5]) == 0
    assert torch.equal(keep[:].to_dense(), z.relu())
    assert torch.equal(keep[6:9].to_dense(), z[6:9].relu())
    assert torch.equal(torch.cat([b.to_dense() for b in keep.blocks()]), z.relu())
    assert torch.equal(keep.whole().to_dense(), z.relu())
    keep.append(SparseCodes.from_dense(z[:3]))  # reading moves nothing
    assert torch.equal(keep[39:].to_dense(), torch.cat([z[39:], z[:3]]).relu())


def test_documents_stay_whole():
    docs = torch.tensor([3, 1, 3, 3, 0, 1, 5])  # nobody wrote 2 and 4
    tokens = Tokens(torch.arange(7.0)[:, None], docs)
    blocks = list(tokens.documents(3))
    assert [b.tolist() for b, _ in blocks] == [[0, 1, 1], [1, 1, 1], [1]]  # counted from documents 0, 2 and 4
    assert torch.cat([x for _, x in blocks]).flatten().tolist() == [4, 1, 5, 0, 2, 3, 6]


# --- the loop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_tables_do_not_depend_on_the_block(labelled):
    sae = planted()
    data = evaluation(sae, labelled=200 * labelled, shuffled=True)
    modes = (*MODES, *CONTROLS)
    first = table(sae, data, modes=modes, block=330)
    assert set(first) == {("as_released", m) for m in MODES} | {("corrected", m) for m in modes}
    assert all("note" not in row for row in first.values())
    same(table(sae, data, modes=modes, block=17), first)


def test_activations_on_disk_give_the_same_table(tmp_path):
    sae = planted()
    np.save(tmp_path / "acts.npy", tokens(sae, 400).reshape(20, 20, D).numpy())
    metrics = MetricsConfig(max_tokens=300, exclude=("first",))
    tables = []
    for on_disk in (False, True):
        data = open_data(tmp_path / "acts.npy", metrics, skip=17, stream=on_disk)
        assert isinstance(data.tokens.x, torch.Tensor) is not on_disk
        tables.append((table(sae, data, block=50), data.key))
    same(tables[0][0], tables[1][0], 1e-12)
    assert tables[0][1] == tables[1][1]


class Largest(TorchDispatchMode):
    """The largest tensor that anything returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                Largest.numel = max(Largest.numel, t.numel())
        return out


def test_nothing_grows_to_tokens_by_latents(monkeypatch):
    monkeypatch.setattr(codes_module, "NONZEROS", 2**14)
    monkeypatch.setattr(engine, "CALIBRATION_TOKENS", 100)
    monkeypatch.setattr(engine, "BATCH_TOKENS", 100)
    sae = planted(d=8, m=512)
    data = evaluation(sae, 1200)
    Largest.numel = 0
    with Largest():
        options = {"gap": False, "refit": False, "released_tokens": 1200, "semi_steps": 3, "target_dense": 0.1}
        table(sae, data, block=64, modes=("amortized", "semi"), **options)
    assert 64 * 512 <= Largest.numel < 0.25 * 1200 * 512


def test_a_row_that_cannot_be_says_why():
    sae = planted()
    sae.threshold.fill_(0.0)  # half of all latents fire: more than d
    rows = table(sae, evaluation(sae), protocols=("corrected",), modes=("amortized", "non", "encoder_refit", "pursuit"))
    assert "at most d = 16" in rows["corrected", "non"]["note"]
    assert "at most d = 16" in rows["corrected", "amortized"]["note"] and rows["corrected", "amortized"]["NMSE"] > 0
    assert "NMSE_refit" not in rows["corrected", "amortized"]
    assert "16 dimensions" in rows["corrected", "encoder_refit"]["note"]
    assert "16 dimensions" in rows["corrected", "pursuit"]["note"]
    with pytest.raises(BadInput, match="corrected protocol only"):
        table(sae, evaluation(sae), protocols=("as_released",), modes=("pca",))
    with pytest.raises(BadInput, match="did you mean 'pursuit'"):
        table(sae, evaluation(sae), modes=("persuit",))


def test_rows_survive_a_crash(tmp_path, monkeypatch):
    from repro.checkpoints import load_sae

    seen: list[str] = []
    entry = {"path": str(SAE), "variant": "batch_topk", "sparsity": 4}
    data = evaluation(load_sae(entry["path"]))
    options = EvalOptions(protocols=("corrected",), semi_steps=10)
    whole, row = evaluation_run.row_of, lambda job, mode: (seen.append(mode), whole(job, mode))[1]

    def dies(job, mode):
        if mode == "non":
            raise KeyboardInterrupt
        return row(job, mode)

    monkeypatch.setattr(evaluation_run, "row_of", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoints([entry], data, options, tmp_path / "rows")
    assert seen == ["amortized", "semi"] and len(list((tmp_path / "rows").iterdir())) == 2
    monkeypatch.setattr(evaluation_run, "row_of", row)
    rows = evaluate_checkpoints([entry], data, options, tmp_path / "rows")
    assert seen == ["amortized", "semi", "non"]
    assert [r["mode"] for r in rows] == ["amortized", "semi", "non"]
    fresh = evaluate_checkpoints([entry], data, options, tmp_path / "elsewhere")
    same({r["mode"]: r for r in rows}, {r["mode"]: r for r in fresh})
    more = dataclasses.replace(options, modes=("pca", "non"), block=7)  # rows are found whatever else is asked for
    assert [r["mode"] for r in evaluate_checkpoints([entry], data, more, tmp_path / "rows")] == ["pca", "non"]
    assert seen[-1] == "pca"
    evaluate_checkpoints([entry], data, dataclasses.replace(options, tol=1e-2), tmp_path / "rows")
    assert seen[-3:] == ["amortized", "semi", "non"]  # other options, other rows
    assert all(json.loads(f.read_text())["variant"] == "batch_topk" for f in (tmp_path / "rows").iterdir())


def test_rows_are_keyed_by_every_source_that_makes_them():
    code = (
        "import sys, repro.evaluate, repro.kernels.cpu.working_set; print(*(m for m in sys.modules if 'repro.' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    package = Path(evaluation_run.__file__).parent.parent
    covered = {file.relative_to(package).with_suffix("").parts[0] for file in evaluation_run.sources()}
    assert loaded - covered <= {"base"} and {"kernels", "solvers", "codes", "ops", "sae"} <= covered


def test_a_checkpoint_that_cannot_be_read_is_a_row(tmp_path):
    rows = evaluate_checkpoints(
        [{"path": str(tmp_path / "no.pt")}], evaluation(planted()), EvalOptions(), tmp_path / "r"
    )
    assert len(rows) == 1 and "no checkpoint" in rows[0]["note"]


# --- controls ---------------------------------------------------------------------------------------


def test_pca_is_numpys_svd_on_the_other_documents():
    sae = planted()
    data = evaluation(sae)
    row = table(sae, data, protocols=("corrected",), modes=("pca",), block=29)["corrected", "pca"]
    x, odd = data.tokens.x.double().numpy(), (data.tokens.docs % 2).numpy().astype(bool)
    rank, error = round(row["target_L0"]), 0.0
    for here in (odd, ~odd):
        mean = x[~here].mean(0)
        basis = np.linalg.svd(x[~here] - mean)[2][:rank]
        error += ((x[here] - mean - (x[here] - mean) @ basis.T @ basis) ** 2).sum()
    assert row["NMSE"] == pytest.approx(error / (x**2).sum(), rel=1e-5)
    assert row["FVE"] == pytest.approx(1 - error / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert row["L0"] == rank and "F1@1" not in row and "note" not in row
    alone = EvalData(Tokens(data.tokens.x, torch.zeros(330).long()), None, "")
    assert "one document" in table(sae, alone, protocols=("corrected",), modes=("pca",))["corrected", "pca"]["note"]


def test_encoder_refit_is_nnls_on_the_encoders_support():
    sae = planted(d=48, m=96)
    data = evaluation(sae, 60)
    rows = table(sae, data, protocols=("corrected",), modes=("encoder_refit", "amortized"))
    target, z, atoms = sae.target(data.tokens.x), sae.encode(data.tokens.x), sae.W_dec.double().numpy()
    error = sum(
        nnls(atoms[z[i].numpy() > 0].T, t)[1] ** 2 if z[i].any() else (t**2).sum()
        for i, t in enumerate(target.double().numpy())
    )
    nmse = error / float(data.tokens.x.double().square().sum())
    assert rows["corrected", "encoder_refit"]["NMSE"] == pytest.approx(nmse, rel=1e-4)
    assert rows["corrected", "amortized"]["NMSE_refit"] == pytest.approx(nmse, rel=1e-4)


def test_controls_that_learned_nothing_are_worse_than_what_was_planted():
    sae = planted(d=48, m=96)
    rows = table(sae, evaluation(sae, 600), protocols=("corrected",), modes=(*MODES, *CONTROLS), gap=False)
    fve = {mode: row["FVE"] for (_, mode), row in rows.items()}
    l0 = {mode: row["L0"] for (_, mode), row in rows.items()}
    assert fve["amortized"] > 0.5 > fve["random_encoder"]
    refitted = {mode: row["NMSE_refit"] for (_, mode), row in rows.items() if "NMSE_refit" in row}
    assert refitted["amortized"] < 0.7 * refitted["random_encoder"]
    assert refitted["non"] < refitted["random_dictionary"]
    assert fve["non"] > fve["random_dictionary"] + 0.1
    k = round(rows["corrected", "amortized"]["target_L0"])
    assert l0["pursuit"] <= k and l0["random_encoder"] <= k and l0["encoder_refit"] <= l0["amortized"]
    assert l0["random_dictionary"] == pytest.approx(l0["amortized"], rel=0.06)
    assert fve["encoder_refit"] >= fve["amortized"] and fve["pursuit"] > fve["random_dictionary"]


def test_semi_at_the_optimums_lambda_is_plain_ista_at_that_lambda():
    """Thirty steps of z <- max(z - a ((zD - y) D^T + lambda), 0) from the encoder, with a = 1 / the norm of D D^T."""
    sae = planted()
    data = evaluation(sae, 60)
    rows = table(sae, data, protocols=("corrected",), modes=("non", "semi", "semi_same_lambda"), semi_steps=30)
    lam, D = rows["corrected", "non"]["lam"], sae.W_dec.double()
    y, z = sae.target(data.tokens.x).double(), sae.encode(data.tokens.x).double()
    step = 1 / torch.linalg.matrix_norm(D @ D.T, 2)
    for _ in range(30):
        z = (z - step * ((z @ D - y) @ D.T + lam)).clamp_min(0)
    row = rows["corrected", "semi_same_lambda"]
    assert row["lam"] == lam != rows["corrected", "semi"]["lam"]
    assert row["L0"] == pytest.approx(float((z > 0).double().sum(1).mean()), rel=0.02)
    nmse = (y - z @ D).square().sum() / data.tokens.x.double().square().sum()
    assert row["NMSE"] == pytest.approx(float(nmse), rel=1e-2)


def test_random_weights_are_seeded_and_keep_shapes_and_norms():
    sae = planted()
    before = sae.W_dec.clone()
    a, b, c = (random_dictionary(sae, seed).W_dec for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == sae.W_dec.shape and torch.allclose(a.norm(dim=1), torch.ones(M), atol=1e-6)
    other = random_encoder(sae, 5, 0)
    assert torch.equal(sae.W_dec, before) and other.W_dec is sae.W_dec
    assert torch.allclose(other.W_enc.norm(dim=0), sae.W_enc.norm(dim=0), rtol=1e-5)
    assert int(other.encode_sparse(tokens(sae, 9)).l0.max()) <= 5
    overlap = torch.nn.functional.cosine_similarity(other.W_enc.T, sae.W_dec).abs().max()
    assert float(overlap) < 0.9


def test_compare_and_evaluate_take_controls(tmp_path):
    from repro.cli import main

    np.save(tmp_path / "acts_layer8.npy", tokens(planted(), 200).reshape(10, 20, D).numpy())
    names = ("--model-name", "toy", "--sae-path", str(SAE), "--acts", str(tmp_path / "acts_layer8.npy"))
    main(["compare", *names, "--out-dir", str(tmp_path), "--eval-modes", "amortized", "random_encoder", "pca"])
    out = json.loads((tmp_path / "toy_batch_topk_3modes.json").read_text())
    assert set(out["corrected"]) == {"amortized", "random_encoder", "pca"} and set(out["as_released"]) == {"amortized"}
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output_dir: {tmp_path}\nmodel: {{layer_index: 8}}\neval_modes: [amortized, encoder_refit]\n"
        f"protocol: corrected\nsae_checkpoints: {{b: {{name: b, roots: ['{SAE}']}}}}\n"
    )
    main(["index", "--config", str(config)])
    main(["evaluate", "--config", str(config)])
    import pandas as pd

    assert set(pd.read_parquet(tmp_path / "metrics.parquet")["mode"]) == {"amortized", "encoder_refit"}


def test_the_benchmark_writes_its_rows(tmp_path):
    from repro.bench.evaluate import Evaluate

    path = Evaluate(tokens=60, d=16, m=64, k=4, modes=("amortized", "pca"), out=tmp_path).run()
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and "peak_mib_beyond_weights" in lines[0] and "dense_codes_mib" in lines[0]
    assert not math.isnan(float(lines[1].split(",")[lines[0].split(",").index("nmse")]))
