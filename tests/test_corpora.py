"""Texts that a command prepares: parsers on hand-written samples, splits that share nothing, and one sentence each."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess

import pytest

from repro.activations.text import corpora, debian
from repro.activations.text.documents import documents, source_fingerprint
from repro.base.config import DatasetConfig, RunConfig, from_mapping
from repro.base.errors import BadInput
from repro.cli import main


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- Debian -------------------------------------------------------------------------------------------

PACKAGES = """Package: chess
Source: chess-src (1.2)
Description: plays chess
Description-md5: 11
Section: games

Package: chess
Description: another version, without its translation
Description-md5: 12
Section: games

Package: libchess
Source: chess-src
Tag: a::b,
 c::d
Description-md5: 13
Section: universe/libs

Package: closed
Description-md5: 14
Section: non-free/games

Package: twin
Description-md5: 15
Section: sound
"""
TRANSLATION = """Package: chess
Description-md5: 11
Description-en: plays chess
 A game of chess, wrapped
 over two lines. Features:
  * an item
    that goes on
  * another: http://x.org/
 .
 A second  paragraph.
    verbatim line
    and one more
 running text again

Package: libchess
Description-md5: 13
Description-en: library
 The library.

Package: closed
Description-md5: 14
Description-en: not free
 Not free.

Package: twin
Description-md5: 15
Description-en: same text as libchess
 The library.

Package: gone
Description-md5: 16
Description-en: in no list
 Gone.
"""


def test_descriptions_join_two_lists():
    assert debian.descriptions([TRANSLATION, PACKAGES]) == [
        debian.Description(
            "chess",
            "chess-src",
            "games",
            "A game of chess, wrapped over two lines. Features:\n* an item that goes on\n* another: http://x.org/\n"
            "A second paragraph.\nverbatim line\nand one more\nrunning text again",
        ),
        debian.Description("libchess", "chess-src", "libs", "The library."),
    ]


def test_a_list_may_have_no_space_between_item_and_text():
    assert debian.long_description("x\n Has:\n - one\n - two\n   of these\n .\n End.") == (
        "Has:\n- one\n- two of these\nEnd."
    )


def fake_descriptions():
    """Sixty source packages a topic and 300 others; each also builds a library that repeats most of its text."""
    found = []
    for number in range(540):
        section = (*corpora.TOPICS, *["devel"] * 5)[number % 9]
        text = "\n".join(f"{word} {number} makes a sentence of some forty letters." for word in ("This", "It", "Which"))
        found.append(debian.Description(f"p{number:03}", f"s{number}", section, text))
        found.append(debian.Description(f"p{number:03}-doc", f"s{number}", section, f"Documentation of {number}."))
        found.append(debian.Description(f"p{number:03}-lib", f"s{number}", "libs", f"{text}\nLibrary."))
    return found


def test_splits_share_no_source_package(monkeypatch):
    monkeypatch.setattr(corpora, "PER_TOPIC", 50)
    made = corpora.split_debian(fake_descriptions())
    everything, topics = made["debian-descriptions"], made["debian-topics"]
    of = {s: {row["source"] for row in everything[s]} for s in everything}
    assert not of["train"] & of["test"] and len(of["train"] | of["test"]) == 540
    assert not any(row["id"].endswith("-lib") for s in everything.values() for row in s)  # nothing new in them
    by_split = {s: {row["source"] for row in topics[s]} for s in topics}
    assert not by_split["train"] & by_split["test"] and not of["train"] & (by_split["train"] | by_split["test"])
    for split, size in (("train", 40), ("test", 10)):
        labels = [row["label"] for row in topics[split]]
        assert sorted(labels) == sorted(corpora.TOPICS * size) and labels[:size] != labels[:1] * size
        assert len(by_split[split]) == 4 * size and all(len(row["text"]) >= 100 for row in topics[split])
    fewer = corpora.split_debian([d for d in fake_descriptions() if d.source != "s8"])["debian-descriptions"]
    assert fewer == {s: [row for row in rows if row["source"] != "s8"] for s, rows in everything.items()}


def test_topics_take_what_the_smallest_section_has(monkeypatch):
    found = [d for d in fake_descriptions() if d.section != "sound" or d.package < "p100"]
    topics = corpora.split_debian(found)["debian-topics"]
    sound = len({d.source for d in found if d.section == "sound"})
    assert len(topics["train"]) + len(topics["test"]) == 4 * sound


# --- files --------------------------------------------------------------------------------------------


@pytest.fixture
def lists(monkeypatch):
    """apt that brings small package lists; its calls."""
    calls = []

    def download(work):
        (work / "Packages").write_text("fetched")
        calls.append(work)
        return []

    monkeypatch.setattr(debian, "download", download)
    monkeypatch.setattr(debian, "releases", lambda work: {"bookworm": "12"})
    monkeypatch.setattr(debian, "descriptions", lambda lists: fake_descriptions())
    return calls


def test_prepared_once_and_read_by_name(lists, cache):
    folder = corpora.fetch_text("debian-topics")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(before) == ["corpus.json", "test.jsonl.gz", "train.jsonl.gz"]
    assert corpora.fetch_text("debian-topics") == folder and len(lists) == 1
    corpora.fetch_text("debian-topics", force=True)
    again = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert len(lists) == 2 and again == before
    assert sorted(p.name for p in (cache / "text").iterdir()) == ["debian-descriptions", "debian-topics"]
    about = json.loads(before["corpus.json"])
    assert about["splits"]["train"]["documents"] == 192 and "debian-descriptions" in about["license"]
    assert about["made_from"]["releases"] == {"bookworm": "12"} and about["splits"]["test"]["labels"]["games"] == 12
    mapping = {"dataset": {"name": "debian-topics", "split": "all", "label_column": "label"}}
    config = from_mapping(RunConfig, mapping).dataset
    found = list(documents(config))
    assert len(found) == 240 and {d.label for d in found} == set(corpora.TOPICS)
    train = [d.text for d in documents(dataclasses.replace(config, split="train", label_column=None))]
    assert train == [d.text for d in found[:192]]
    assert [d.text for d in documents(DatasetConfig("debian-topics", split="train[:25%]"))] == train[:48]
    assert source_fingerprint(config) != source_fingerprint(dataclasses.replace(config, split="test"))
    with pytest.raises(BadInput, match="debian-topics has no split 'validation'; it has: train, test, all"):
        list(documents(dataclasses.replace(config, split="validation")))


def test_topics_are_labelled_without_being_asked(lists):
    corpora.fetch_text("debian-topics")
    assert {d.label for d in documents(DatasetConfig("debian-topics"))} == set(corpora.TOPICS)
    assert {d.label for d in documents(DatasetConfig("debian-descriptions"))} == {None}  # came along
    rows = gzip.decompress((corpora.folder_of("debian-descriptions") / "train.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(rows[0]).keys() == {"id", "text", "label", "source"}


def test_nothing_is_left_of_a_failure(lists, cache, monkeypatch):
    monkeypatch.setattr(corpora.gzip, "compress", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(BadInput, match=r"Cannot write .*No space left; make room, or set REPRO_CACHE"):
        corpora.fetch_text("debian-topics")
    assert list((cache / "text").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("force", [False, True])
def test_what_a_killed_fetch_left_is_swept_up(lists, cache, monkeypatch, force):
    """kill -9 while the source has come and nothing is in place; a corpus that was there before stays."""
    before = force and {p.name: p.read_bytes() for p in corpora.fetch_text("debian-topics").iterdir()}
    with monkeypatch.context() as m:
        m.setattr(corpora, "_write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            try:
                corpora.fetch_text("debian-topics", force)
            finally:
                os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = list((cache / "text").glob(".*"))
    assert len(left) == 1 and list(left[0].glob("Packages"))
    if force:
        assert {p.name: p.read_bytes() for p in corpora.folder_of("debian-topics").iterdir()} == before
    corpora.fetch_text("debian-topics", force)
    assert not list((cache / "text").glob(".*")) and corpora.is_prepared("debian-topics")


def answer(code=0, stderr=""):
    return lambda command, **_: subprocess.CompletedProcess(command, code, "", stderr)


def test_what_is_missing_is_said_in_a_sentence(monkeypatch, cache, tmp_path):
    for name, sentence in [
        ("debian-topic", r"No text 'debian-topic' \(did you mean 'debian-topics'\?\)"),
        ("pile", "there are debian-descriptions, debian-topics"),
    ]:
        with pytest.raises(BadInput, match=sentence):
            corpora.fetch_text(name)
    with pytest.raises(BadInput, match="run `repro fetch-text debian-topics` once"):
        list(documents(DatasetConfig("debian-topics")))
    with pytest.raises(BadInput, match="did you mean 'debian-topics'"):
        list(documents(DatasetConfig("debian-topix")))
    with monkeypatch.context() as m:
        m.setattr(debian.shutil, "which", lambda tool: None)
        with pytest.raises(BadInput, match="apt-get is missing"):
            corpora.fetch_text("debian-topics")
    monkeypatch.setattr(debian.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(debian, "HELPER", __file__)
    with monkeypatch.context() as m:
        m.setattr(debian.subprocess, "run", answer(100, "W: some\nE: Failed to fetch"))
        with pytest.raises(BadInput, match=r"apt-get cannot fetch .* \(E: Failed to fetch\): check the network"):
            corpora.fetch_text("debian-topics")
        m.setattr(debian.subprocess, "run", answer())
        with pytest.raises(BadInput, match="no package source"):
            corpora.fetch_text("debian-topics")
    assert list((cache / "text").iterdir()) == []


def test_apt_works_in_its_own_folder(monkeypatch, tmp_path):
    """What apt is told: English, folders of its own, and none of the system's hooks."""
    told = []

    def run(command, **_):
        told.append(command[command.index("-c") + 1].read_text())
        for name in ("a_main_binary-amd64_Packages.lz4", "a_main_i18n_Translation-en.lz4", "a_InRelease"):
            (tmp_path / "lists" / name).write_text("Codename: bookworm\nVersion: 12.1\nDate: Sat\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(debian.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(debian, "HELPER", __file__)
    monkeypatch.setattr(debian.subprocess, "run", run)
    assert [p.name[:18] for p in debian.download(tmp_path)] == ["a_main_binary-amd6", "a_main_i18n_Transl"]
    assert f'Dir::State::lists "{tmp_path}/lists";' in told[0] and "#clear APT::Update::Post-Invoke;" in told[0]
    assert debian.releases(tmp_path) == {"bookworm": "12.1 Sat"}


@pytest.mark.parametrize("arguments", [["fetch-text", "pile"], ["collect", "--dataset.name", "debian-topics"]])
def test_the_command_line_exits_2(arguments, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *(["--output-dir", str(tmp_path)] if arguments[0] == "collect" else [])])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("repro: ") and said.count("\n") == 1
    assert "there are debian-descriptions" in said or "run `repro fetch-text debian-topics` once" in said
