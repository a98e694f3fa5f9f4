"""Benchmarks: the rows they write carry proofs; flags come from dataclass fields. Nothing here is timed."""

import csv

import pytest
import torch

from repro import bench, cli
from repro.base.errors import BadInput
from repro.bench.common import append, flag, table


def rows_of(path):
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def test_inference_rows_carry_proofs(tmp_path):
    args = ["inference", "--shapes", "16x64", "--l0s", "4", "--tokens", "8", "--few", "2", "--stream", "40", "--out"]
    path = bench.run([*args, str(tmp_path)])
    by_name = {row["method"]: row for row in rows_of(path)}
    assert len(by_name) >= 9
    certified = by_name["working_set 1e-3"]
    assert float(certified["relative_gap_max"]) <= 1e-3
    assert float(certified["objective"]) <= float(by_name["numpy ISTA-200"]["objective"]) * 1.02
    assert by_name["working_set 1e-3, 40 tokens"]["tokens"] == "40"
    assert all(float(row["ms_per_token"]) > 0 and row["device"] and row["date"] for row in by_name.values())


def test_memory_rows_and_their_sentence(tmp_path):
    from repro.sections import performance

    args = ["memory", "--tokens", "60", "--d", "12", "--m", "64", "--k", "4", "--ways", "semi", "non to a folder"]
    rows = rows_of(bench.run([*args, "--out", str(tmp_path)]))
    assert [row["way"] for row in rows] == ["semi", "non to a folder"]
    assert all(float(row["beyond_mib"]) < 500 and float(row["l0"]) > 1 and row["device"] for row in rows)
    sentence = performance.memory(tmp_path)
    assert sentence.startswith("- 60 tokens, 12 × 64: semi ") and sentence.endswith(" MiB.")
    with pytest.raises(BadInput, match="did you mean 'semi'"):
        bench.run([*args[:-2], "semmi", "--out", str(tmp_path)])


def test_real_activations_need_an_sae(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "inference", "--acts", str(tmp_path / "x.npy"), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "both --acts and --sae" in capsys.readouterr().err


def test_unknown_bench_and_flag_exit_2(capsys):
    for args in (["bench", "nothing"], ["bench", "inference", "--nothing", "1"], ["bench"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(args)
        assert stop.value.code == 2
    assert "NAME" in capsys.readouterr().err


def test_csv_keeps_old_rows_when_columns_change(tmp_path):
    path = table("x", tmp_path)
    append(path, [{"a": 1, "b": 2}])
    append(path, [{"a": 3, "c": 4}])
    assert rows_of(path) == [{"a": "1", "b": "2", "c": ""}, {"a": "3", "b": "", "c": "4"}]


def test_flag_has_default_and_help():
    from dataclasses import dataclass, fields

    @dataclass(frozen=True)
    class One:
        n: int = flag(3, "how many")

    assert One().n == 3 and fields(One)[0].metadata["help"] == "how many"


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_pursuit_rows_are_multiples_of_the_encoder(tmp_path):
    path = bench.run(
        [
            "pursuit",
            "--shapes",
            "16x40x3",
            "--tokens",
            "12",
            "--repeats",
            "1",
            "--price-tokens",
            "40",
            "--out",
            str(tmp_path),
        ]
    )
    rows = {row["method"]: row for row in rows_of(path)}
    assert {"x @ W_enc", "Gram matrix", "omp", "ompr, warm, 1 round", "ompr, cold", "optimum, gap 1e-3"} < set(rows)
    assert float(rows["repro price"]["tokens"]) == 40
    assert float(rows["ompr, warm"]["residual"]) <= float(rows["ompr, warm, 1 round"]["residual"]) <= 1 + 1e-6
    assert all(float(row["times_the_encoder"]) > 0 for row in rows.values()) and float(rows["omp"]["l0"]) <= 3
