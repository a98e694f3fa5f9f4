"""`.ci/gpu`: a dry run of every part with nothing but the packages of a bare GPU machine; its pieces, quickly.

The machine it is meant for has Python 3.12. The tested torch is a CPU build for 3.11 and the index offers 3.12 only
builds of several GB, so the dry run uses the interpreter of the test environment, and every file that it imports is
compiled by a Python 3.12 beside it, where there is one.
"""

import csv
import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from repro.bench.agree import compare, solver_of
from repro.bench.common import HostEvent, event, milliseconds
from repro.bench.correct import Correct, read_memcheck
from repro.bench.solvers import Solvers, decide, decided
from repro.solvers import AUTO

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "gpu"
BARE = (
    *("torch", "numpy", "pandas", "pyarrow", "scikit-learn", "numba", "triton", "pytest", "pyyaml", "tqdm"),
    *("filelock", "safetensors", "transformers"),
)
ABSENT = ("tyro", "datasets", "plotly", "papermill", "hypothesis", "jupyterlab", "xdist")
PARTS = {"correct": "correct", "kernels": "kernels", "inference": "solvers", "train": "train", "evaluate": "agree"}
"""Part -> the csv that it writes."""


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def closure(names):
    """The distributions that these need, themselves included, by normalised name, as installed here."""
    found, left = {}, list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        for need in found[name].requires or ():
            if "extra ==" not in need:
                left.append(re.match(r"[\w.-]+", need)[0])
    return found


def bare_environment(folder):
    """A virtual environment that sees BARE and what it needs, by links to this environment's packages; its python.

    Links cost a second and no download; a copy of torch alone is a gigabyte.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in closure(BARE).values():
        for file in distribution.files or ():
            top = file.parts[0]
            target = Path(distribution.locate_file(top))
            if top not in ("..", "__pycache__") and target.exists() and not (site / top).exists():
                (site / top).symlink_to(target.resolve())
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return bare_environment(tmp_path_factory.mktemp("bare") / "venv")


def other_python():
    """A Python 3.12 that runs: on the path, or one that pyenv holds (whose name on the path may be an empty shim)."""
    held = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.12*/bin/python"))
    for python in filter(None, (shutil.which("python3.12"), *map(str, held))):
        if subprocess.run([python, "-c", "pass"], capture_output=True).returncode == 0:
            return python
    return None


@pytest.mark.slow
def test_the_dry_run_passes_where_only_the_bare_packages_are(bare, tmp_path):
    seen = f"import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in {ABSENT!r}))"
    assert subprocess.run([bare, "-c", seen]).returncode == 0
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "TRITON", "PYTHON"))}
    environment |= {"PYTHON": str(bare), "OUT": str(tmp_path)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([SCRIPT, "--dry-run"], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    parts = rows_of(tmp_path / "gpu-parts.csv")
    assert [row["part"] for row in parts] == list(PARTS) and {row["status"] for row in parts} == {"passed"}
    assert len(list(tmp_path.iterdir())) <= 8
    assert all(re.fullmatch(r"[\w.-]+", file.name) for file in tmp_path.iterdir())
    files = PARTS | {"pursuit": "pursuit"}  # which `inference` writes too
    tables = {part: rows_of(tmp_path / f"{name}.csv") for part, name in files.items()}
    for part, rows in tables.items():
        assert rows and all(row["device"] and row["torch"] and row["date"] for row in rows), part
    assert sum(row["outcome"] == "passed" for row in tables["correct"]) > 30
    skipped = [row for row in tables["correct"] if row["outcome"] == "skipped"]
    assert any(row["test"].startswith("memcheck") for row in skipped) and all(row["reason"] for row in skipped)
    assert {row["stored"] for row in tables["kernels"]} == {"float32", "bfloat16"}
    timed = [row for row in tables["kernels"] if row["ms"]]
    assert all(row["error"] and row["share_of_copy_rate"] and row["times_faster_than_eager"] for row in timed)
    assert tables["inference"][-1]["method"] == "auto" and tables["inference"][-1]["reason"]
    assert {row["batch"] for row in tables["train"]} == {"32", "64"}
    assert {row["mode"] for row in tables["evaluate"]} == {"amortized", "semi", "non"}
    # Three minutes of two cores; of processors, not of the clock, which says more of what else the machine does.
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(*(f"{row['part']} {row['seconds']} s" for row in parts), f"{spent:.0f} s of processors", sep=", ")
    assert spent < 2 * 180


@pytest.mark.slow
def test_what_it_imports_compiles_on_python_3_12():
    python = other_python()
    if python is None:
        pytest.skip("no Python 3.12 here")
    files = [*(ROOT / "repro").rglob("*.py"), *(ROOT / "tests").glob("test_*.py"), ROOT / "tests" / "conftest.py"]
    check = "import sys\nfor f in sys.argv[1:]:\n    compile(open(f, encoding='utf-8').read(), f, 'exec')"
    done = subprocess.run([python, "-W", "error", "-c", check, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_parts_are_refused_and_help_names_them():
    done = subprocess.run([SCRIPT, "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "correct kernels inference train evaluate" in done.stderr
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--dry-run" in done.stdout


def test_no_gpu_is_said_before_anything_starts(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    done = subprocess.run([SCRIPT, "correct"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "--dry-run" in done.stderr and not list(tmp_path.iterdir())


# --- its pieces -------------------------------------------------------------------------------------------------------


def test_events_without_a_gpu_are_the_clock():
    start, end = event("cpu"), HostEvent()
    start.record()
    end.record()
    end.synchronize()
    assert 0 <= start.elapsed_time(end) < 1000
    calls = []
    assert milliseconds(lambda: calls.append(1), "cpu", repeats=3) >= 0 and len(calls) == 5


TOY = """
import os, time
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "one is not two"
def test_hangs(): time.sleep(60)
def test_dies(): os._exit(9)
def test_gpu_breaks(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
def test_last(): pass
"""


def test_hangs_crashes_and_broken_gpus_lose_only_themselves(tmp_path):
    file = tmp_path / "test_toy.py"
    file.write_text(TOY)
    config = Correct("cpu", (str(file),), workers=1, each=2.0, seconds=100, memcheck=False, out=tmp_path)
    with pytest.raises(RuntimeError, match=r"correct\.csv"):
        config.run()
    rows = {row["test"].split("::")[-1]: row for row in rows_of(tmp_path / "correct.csv")}
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_hangs": "timed out",
        "test_dies": "crashed",
        "test_gpu_breaks": "failed",
        "test_skipped": "skipped",
        "test_last": "passed",
    }
    assert "one is not two" in rows["test_fails"]["reason"] and "not here" in rows["test_skipped"]["reason"]
    assert rows["test_last"]["device"] and rows["test_last"]["date"]


def test_out_of_time_says_what_was_not_run(tmp_path):
    file = tmp_path / "test_toy.py"
    file.write_text("import time\ndef test_a(): time.sleep(60)\ndef test_b(): pass\n")
    config = Correct("cpu", (str(file),), workers=1, each=60.0, seconds=0.0, memcheck=False, out=tmp_path)
    with pytest.raises(RuntimeError):
        config.run()
    assert all(row["outcome"] in ("stopped", "not run") for row in rows_of(tmp_path / "correct.csv"))


def test_what_the_sanitizer_prints_belongs_to_the_kernel_at_work():
    text = (
        "========= COMPUTE-SANITIZER\nkernel: a\ndone: a\nkernel: b\n"
        "========= Invalid __global__ write of size 4 bytes\n=========     at _b+0x10\ndone: b\nkernel: c\n"
    )
    a, b = read_memcheck(text, True, "")
    assert (a["test"], a["outcome"]) == ("memcheck a", "passed")
    assert b["outcome"] == "failed" and "Invalid __global__ write" in b["reason"]
    assert read_memcheck(text, True, "exit status 9")[2]["outcome"] == "crashed"
    assert read_memcheck(text, False, "")[0]["outcome"] == "skipped"
    assert read_memcheck("no such program", True, "exit status 127")[0]["outcome"] == "failed"


def timing(method, ms, certified=1.0, share=0.5):
    return {"d": 2, "m": 3, "lam_share": share, "method": method, "ms_per_token": ms, "certified": certified}


def test_auto_is_what_certifies_most_and_then_what_is_fastest():
    assert decide([timing("fista", 4.0), timing("working_set", 1.0)])[0] == "working_set"
    choice, reason = decide([timing("fista", 4.0), timing("working_set", 1.0, certified=0.9)])
    assert choice == "fista" and "1 of 1 problems" in reason and "0.25 x the time" in reason
    pair = [
        timing(n, t, share=s)
        for s, (a, b) in ((0.5, (1, 2)), (0.2, (8, 2)))
        for n, t in (("fista", a), ("working_set", b))
    ]
    assert decide(pair)[0] == "working_set"  # geometric means sqrt(8) and 2
    assert decide([timing("ista 200 steps", 1.0)]) == ("", "No solver was measured.")


def test_solvers_bench_certifies_and_its_choice_is_read_back(tmp_path):
    path = Solvers("cpu", ("12x40",), (0.5, 0.3), 6, 5, 300, out=tmp_path).run()
    rows = rows_of(path)
    assert [row["method"] for row in rows[:5]] == ["ista 5 steps", "working_set", "fista", "pursuit", "refit"]
    assert len(rows) == 11 and all(float(row["ms_per_token"]) > 0 for row in rows[:-1])
    assert all(float(row["relative_gap_max"]) <= 1e-3 for row in rows if row["method"] in ("fista", "working_set"))
    assert decided(path, rows[-1]["device"]) == rows[-1]["solver"] and decided(path, "another") is None
    before = dict(AUTO)
    with solver_of("cpu", "fista") as name:
        assert name == AUTO["cpu"] == "fista"
    assert before == AUTO


def test_rows_of_two_devices_agree_within_tolerance():
    row = {"mode": "amortized", "L0": 30.0, "NMSE": 0.5, "lam": 2.0}
    assert compare(row, dict(row)) == [] and compare(row, row | {"lam": 2.05}) == []
    assert compare(row, row | {"L0": 31.0}) == ["L0 30 and 31"]
    assert compare(row | {"mode": "semi"}, row | {"mode": "semi", "L0": 31.0}) == []
    assert compare(row, {"mode": "amortized", "L0": 30.0, "NMSE": 0.5}) == ["lam 2 and nan"]


def test_the_performance_page_has_a_column_for_each_device_and_says_where_there_is_none(tmp_path):
    pd = pytest.importorskip("pandas")
    from repro.sections import performance

    assert "Nothing on this page was measured on a GPU yet" in performance.gpus(tmp_path)
    for text in (performance.solvers(tmp_path), performance.two_devices(tmp_path)):
        assert "No device has rows yet" in text
    assert performance.choices(tmp_path) == ""
    devices = ("Some CPU, 2 threads", "NVIDIA H100")
    row = {"operation": "decode", "impl": "torch", "n": 1, "d": 2, "m": 3, "k": 1, "ms": 1.0, "bytes": 8, "flops": 9}
    row |= {"gemm_tflops": 1.0, "copy_gb_s": 1.0, "date": "2026-01-01"}
    table = pd.DataFrame([row | {"device": device} for device in devices])
    table.to_csv(tmp_path / "kernels.csv", index=False)
    wide = performance.operations(performance.bench("kernels", tmp_path))
    assert [device for device, _ in wide.columns] == list(devices) and len(wide) == 1
    told = performance.gpus(tmp_path)
    assert "NVIDIA H100: the operations." in told and "Not measured on a GPU: tests" in told
    problem = {"d": 2, "m": 3, "lam_share": 0.5, "method": "fista", "ms_per_token": 2.0, "certified": 1.0, "tokens": 4}
    choice = {"method": "auto", "solver": "fista", "reason": "it is fast."}
    rows = [r | {"device": device, "date": "2026-01-01"} for device in devices for r in (problem, choice)]
    pd.DataFrame(rows).to_csv(tmp_path / "solvers.csv", index=False)
    assert list(dict.fromkeys(device for device, _ in performance.solvers(tmp_path).columns)) == list(devices)
    assert performance.choices(tmp_path).splitlines()[1] == "- NVIDIA H100: it is fast."
