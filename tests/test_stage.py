"""The copy of a store that a host keeps: one, whole, what the store is, and refused where it cannot be made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_store

from repro.activations import stage
from repro.activations.stage import staged
from repro.activations.store import open_store
from repro.base.errors import BadInput
from repro.jobs.run import fan_out
from repro.jobs.task import Fanout, Task


def bare(folder):
    folder.mkdir(parents=True)
    np.save(folder / "acts_layer0.npy", np.random.default_rng(0).normal(size=(40, 8)).astype("float32"))
    return folder / "acts_layer0.npy"


def collected(folder):
    folder.mkdir()
    test_store.write(folder, labels=[1, 0])
    return folder / "acts_layer5.npy"


@pytest.mark.parametrize("make", [bare, collected])
def test_the_copy_is_the_store(make, tmp_path, monkeypatch):
    path = make(tmp_path / "net")
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    copy = staged(path, "$NODE_DISK/acts")
    assert copy.name == path.name and copy.is_relative_to(tmp_path / "disk" / "acts")
    old, new = open_store(path, verify=True), open_store(copy, verify=True)
    everything = np.arange(old.mask.size)
    np.testing.assert_array_equal(new.read(everything), old.read(everything))
    for role in ("mask", "docs", "tokens", "labels", "norms"):
        np.testing.assert_array_equal(getattr(new, role), getattr(old, role))
    assert new.select(()).describe() == old.select(()).describe()
    made = inodes(tmp_path / "disk")
    assert staged(path, tmp_path / "disk" / "acts") == copy and inodes(tmp_path / "disk") == made  # found, not made


def inodes(folder):
    return {str(p): p.stat().st_ino for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock")}


def test_a_store_of_collect_is_copied_with_what_lies_beside_it_and_nothing_else(tmp_path):
    folder = tmp_path / "net"
    path = collected(folder)
    (folder / "metrics.parquet").write_text("not the store's")
    copy = staged(path, tmp_path / "disk")
    names = {p.name for p in folder.iterdir()} - {"metrics.parquet"}
    assert {p.name for p in copy.parent.iterdir()} == names | {"copied.json"}
    assert open_store(copy, verify=True).meta == open_store(path).meta


@pytest.mark.parametrize("make", [bare, collected])
def test_a_damaged_copy_is_noticed_and_made_again(make, tmp_path):
    path = make(tmp_path / "net")
    copy = staged(path, tmp_path / "disk")
    whole = copy.read_bytes()
    for damaged in (whole[:-7], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        copy.write_bytes(damaged)
        assert staged(path, tmp_path / "disk") == copy and copy.read_bytes() == whole
    shutil.rmtree(copy.parent / "copied.json", ignore_errors=True)
    (copy.parent / "copied.json").write_text("{")
    assert staged(path, tmp_path / "disk") == copy
    assert json.loads((copy.parent / "copied.json").read_text())["from"] == str(path)


def test_another_store_of_the_same_name_has_a_copy_of_its_own(tmp_path):
    path = bare(tmp_path / "net")
    first = staged(path, tmp_path / "disk")
    np.save(path, np.ones((40, 8), "float32"))
    os.utime(path, ns=(1, 1))
    second = staged(path, tmp_path / "disk")
    assert first != second and first.is_file() and (np.load(second) == 1).all()


def test_a_store_that_is_not_what_its_manifest_says_is_not_copied(tmp_path):
    path = collected(tmp_path / "net")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"acts_layer5.npy has changed since it was collected"):
        staged(path, tmp_path / "disk")
    assert not inodes(tmp_path / "disk")


def test_no_room_and_no_folder_are_one_sentence(tmp_path, monkeypatch):
    path = bare(tmp_path / "net")
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(BadInput, match="names a variable that is not set on"):
        staged(path, "$NOWHERE/x")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage.os, "fsync", full)
    with pytest.raises(BadInput, match=r"has no room for a copy of .*acts_layer0.npy .*leave out --stage"):
        staged(path, tmp_path / "disk")
    assert not inodes(tmp_path / "disk")


SLOW_DISK = """
import sys, time
from pathlib import Path
from repro.activations import stage
whole = stage._copy_file
def slowly(path, copy, sha256):
    done = whole(path, copy, sha256)
    print("one file", flush=True)
    time.sleep(60)
    return done
stage._copy_file = slowly
stage.staged(sys.argv[1], sys.argv[2])
"""


def test_a_copy_that_is_killed_leaves_nothing_under_the_final_name(tmp_path):
    path = collected(tmp_path / "net")
    words = [sys.executable, "-c", SLOW_DISK, str(path), str(tmp_path / "disk")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "one file\n"
        process.kill()
    assert [p.name for p in (tmp_path / "disk").iterdir() if p.is_dir() and not p.name.startswith(".")] == []
    copy = staged(path, tmp_path / "disk")
    open_store(copy, verify=True)
    assert [p for p in (tmp_path / "disk").iterdir() if p.is_dir()] == [copy.parent]  # the draft is gone too


def test_two_workers_make_one_copy(tmp_path, monkeypatch):
    pytest.importorskip("joblib")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.syspath_prepend(here)
    import fanout_stage

    path = collected(tmp_path / "net")
    tasks = [Task(f"t{i}", f"t{i}", fanout_stage.copy, (str(path), str(tmp_path), f"t{i}")) for i in range(2)]
    assert fan_out(tasks, Fanout(workers=2, retries=0), tmp_path, progress=False) == {}
    said = [json.loads((tmp_path / f"t{i}").read_text()) for i in range(2)]
    assert said[0]["pid"] != said[1]["pid"] and said[0]["inode"] == said[1]["inode"]
    assert sorted(told["copies"] for told in said) == [0, 1]
