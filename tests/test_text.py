"""Sources of text: every format, splits, labels, skipping, and one sentence for what is wrong."""

import csv
import gzip
import itertools
import json
import sys

import hub_text
import pytest

from repro.activations.text.documents import _hub_rows, documents, source_fingerprint
from repro.activations.text.splits import parse_split
from repro.base.config import DatasetConfig
from repro.base.errors import BadInput

ROWS = [{"text": f"text {i}", "topic": ["b", "a"][i % 2], "n": i} for i in range(5)]


def write(folder, suffix, rows=ROWS, stem="some"):
    path = folder / f"{stem}{suffix}"
    opener = gzip.open if suffix.endswith(".gz") else open
    if suffix.startswith(".jsonl"):
        with opener(path, "wt") as f:
            f.write("\n".join(json.dumps(r) for r in rows) + "\n\n")
    elif suffix.startswith(".csv"):
        with opener(path, "wt", newline="") as f:
            out = csv.DictWriter(f, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(name, **options):
    return list(documents(DatasetConfig(name=str(name), **options)))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_rows_of_a_file(tmp_path, suffix):
    path = write(tmp_path, suffix)
    found = read(path, label_column="topic")
    assert [(d.text, d.label, d.id) for d in found] == [(r["text"], r["topic"], i) for i, r in enumerate(ROWS)]
    assert [d.label for d in read(path)] == [None] * 5
    assert [d.id for d in read(path, skip_documents=3)] == [3, 4]


def test_awkward_text_survives(tmp_path):
    text = 'two\nlines, "quotes", a tab\t, \u00e9\u4e2d\U0001f600 \x85 and \u2028 inside'
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert read(write(tmp_path, suffix, [{"text": text}]))[0].text == text
    (tmp_path / "a.txt").write_text(text, newline="")
    assert [d.text for d in read(tmp_path / "a.txt")] == [text]


def test_rows_without_text_are_passed_over_but_counted(tmp_path):
    path = write(tmp_path, ".jsonl", [{"text": t} for t in ("a", "", None, " \n", "b")])
    assert [(d.text, d.id) for d in read(path)] == [("a", 0), ("b", 4)]


def test_folders_and_their_splits(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("b.txt", "a.txt", "testimony.txt", ".hidden.txt", "notes.md"):
        (plain / name).write_text(name)
    assert [d.text for d in read(plain)] == ["a.txt", "b.txt", "testimony.txt"]
    split = tmp_path / "split"
    (split / "test").mkdir(parents=True)
    write(split, ".parquet", ROWS[:2], "train-00000-of-00002")
    write(split, ".parquet", ROWS[2:3], "train-00001-of-00002")
    write(split / "test", ".jsonl", ROWS[3:])
    assert [d.text for d in read(split)] == ["text 0", "text 1", "text 2"]
    assert [d.text for d in read(split, split="test")] == ["text 3", "text 4"]
    with pytest.raises(BadInput, match="no files of split 'validation'; it has: test, train"):
        read(split, split="validation")
    with pytest.raises(BadInput, match="no files of split 'tset'; it has: no splits"):
        read(plain, split="tset")


@pytest.mark.parametrize(
    "split, wanted",
    [
        ("[1:3]", [1, 2]),
        ("[3:]", [3, 4]),
        ("[:2]", [0, 1]),
        ("[:]", [0, 1, 2, 3, 4]),
        ("[4:1_000]", [4]),
        ("[:50%]", [0, 1]),
        ("[50%:]", [2, 3, 4]),
        ("[20%:60%]", [1, 2]),
        ("[:100%]", [0, 1, 2, 3, 4]),
    ],
)
def test_part_of_a_split(tmp_path, split, wanted):
    for path in (write(tmp_path, ".jsonl"), write(tmp_path, ".parquet")):
        found = read(path, split="train" + split)
        assert [d.text for d in found] == [f"text {i}" for i in wanted]
        assert [d.id for d in found] == list(range(len(wanted)))
        if len(wanted) > 1:
            assert [(d.text, d.id) for d in read(path, split="train" + split, skip_documents=1)] == [
                (d.text, d.id) for d in found[1:]
            ]


@pytest.mark.parametrize("total", [1, 7, 99, 1000])
def test_percentages_neither_overlap_nor_leave_a_row_out(total):
    cuts = [0, 5, 33, 34, 50, 99, 100]
    rows = [parse_split(f"train[{a}%:{b}%]").rows(total) for a, b in itertools.pairwise(cuts)]
    assert rows[0][0] == 0 and rows[-1][1] == total
    assert all(a[1] == b[0] for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize(
    "split",
    [
        "train[",
        "train[5]",
        "train[3:1]",
        "train[2:2]",
        "train[-5:]",
        "[1:2]",
        "train[:5%",
        "train[1:5%]",
        "train[:101%]",
        "train[a:b]",
        "train[1:2]x",
        "train[:0]",
    ],
)
def test_parts_that_are_none(tmp_path, split):
    with pytest.raises(BadInput, match=r"is no part of a split|is empty or mixed"):
        read(write(tmp_path, ".jsonl"), split=split)


def test_bundled_sets():
    general = list(documents(DatasetConfig(name="tiny")))
    assert len(general) > 1000 and sum(len(d.text) for d in general) > 3e6
    test = read("tiny-labels", split="test")
    assert sorted({d.label for d in test}) == ["animal", "artifact", "location", "person"] and len(test) == 1600
    assert len(read("tiny-labels")) + len(test) == len(read("tiny-labels", split="all")) == 8000
    with pytest.raises(BadInput, match="has no split 'validation'; it has: train, test, all"):
        read("tiny-labels", split="validation")
    with pytest.raises(BadInput, match="did you mean 'tiny-labels'"):
        read("tiny-label")


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.txt", "caf\u00e9\r\n\ufeff"),
        ("a.jsonl", '{"text": "caf\u00e9\\r\\n\ufeff", "topic": "x"}\r\n'),
        ("a.csv", 'text,topic\r\n"caf\u00e9\r\n\ufeff",x\r\n'),
        ("b.csv", '"text","topic"\n"caf\u00e9\r\n\ufeff",x\n'),
    ],
)
def test_a_byte_order_mark_is_no_text(tmp_path, name, data):
    """Those of Windows at the start; one further on is text."""
    (tmp_path / name).write_bytes(MARK + data.encode())
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(MARK + data.encode()))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        assert [d.text for d in read(path)] == ["caf\u00e9\r\n\ufeff"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_other_encodings_are_refused_with_the_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    good = {".jsonl": '{"text": "a"}\n', ".csv": "text\n", ".txt": "a\n"}[suffix]
    bad = {".jsonl": '{"text": "caf\u00e9"}\n', ".csv": '"two\ncaf\u00e9"\n', ".txt": "b caf\u00e9\n"}[suffix]
    path.write_bytes((good * 2).encode() + bad.encode("latin-1"))
    with pytest.raises(BadInput, match=f"Line {4 if suffix == '.csv' else 3} of {path} is not UTF-8: save"):
        read(path)
    path.write_bytes((good + bad).encode("utf-16"))
    with pytest.raises(BadInput, match=f"Line 1 of {path} is not UTF-8: save"):
        read(path)


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good \\ud83d\\ude00", "l": "x"}\n{"text": "cut \\ud83d", "l": "y\\ude00"}\n')
    with pytest.warns(UserWarning, match=f"Line 2 of {path} holds half of a surrogate pair; U.FFFD takes its place"):
        rows = read(path, label_column="l")
    assert [(d.text, d.label) for d in rows] == [("good \U0001f600", "x"), ("cut \ufffd", "y\ufffd")]


def test_a_column_named_twice_is_refused_where_it_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text("text,text,topic\na,b,x\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "text": "b", "topic": "x"}\n')
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["x"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "topic"]), tmp_path / "a.parquet")
    for name, place in (("a.csv", "Line 2"), ("a.jsonl", "Line 1"), ("a.parquet", "Row 0")):
        with pytest.raises(BadInput, match=f"{place} of .*{name} has two values of column 'text'"):
            read(tmp_path / name)
        assert [d.text for d in read(tmp_path / name, text_column="topic")] == ["x"]


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ("a,1\nb, c,2\n", "Line 3 of .* ends a row of 3 fields, not 2 as in the header: put a text with commas"),
        ("a,1\n\nb\n", "Line 4 of .* ends a row of 1 fields"),
        ('a,1\n"b\nc" d,2\n', "Line 4 of .* is no CSV"),
        ('a,1\n"b\nc,2\nd,3\n', "Line 5 of .* is no CSV .unexpected end of data"),
    ],
)
def test_csv_rows_that_do_not_fit_the_header(tmp_path, rows, sentence):
    """Each would be read as another text, or as none, by a reader that is not strict."""
    (tmp_path / "a.csv").write_text("text,n\n" + rows)
    with pytest.raises(BadInput, match=sentence):
        read(tmp_path / "a.csv")
    good = documents(DatasetConfig(name=str(tmp_path / "a.csv")))
    assert next(good).text == "a"


def test_a_bad_row_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = pa.array([0, 2, 4], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ok\xff\xfe")])
    pq.write_table(pa.Table.from_arrays([text], names=["text"]), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"Cannot read on after row 0 of .*a\.parquet: .*codec can't decode"):
        read(tmp_path / "a.parquet")
    lines = "".join(json.dumps({"text": str(i) * 50}) + "\n" for i in range(2000)).encode()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-12])
    with pytest.raises(BadInput, match=r"Cannot read on after line \d+ of .*cut\.jsonl\.gz: Compressed file ended"):
        read(tmp_path / "cut.jsonl.gz")
    (tmp_path / "deep.jsonl").write_text('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n")
    with pytest.raises(BadInput, match=r"Line 2 of .* is not a JSON object"):
        read(tmp_path / "deep.jsonl")


def test_linked_folders_of_text_are_read(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "texts" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "up").symlink_to(tmp_path / "texts")
    assert [d.text for d in read(tmp_path / "texts")] == ["a", "b"]
    (tmp_path / "link").symlink_to(tmp_path / "texts")
    assert [d.text for d in read(tmp_path / "link")] == ["a", "b"]
    config = DatasetConfig(name=str(tmp_path / "texts"))
    first = source_fingerprint(config)
    (tmp_path / "texts" / "README.md").write_text("---\nlicense: mit\n---\n")  # now the datasets library reads it
    second = source_fingerprint(config)
    (tmp_path / "elsewhere" / "b.txt").write_text("c")
    assert len({first, second, source_fingerprint(config)}) == 3


def test_the_datasets_library(tmp_path):
    pytest.importorskip("datasets")
    folder = hub_text.save(tmp_path / "ag", train=[r["text"] for r in ROWS], test=["held out"])
    found = read(folder, label_column="label")
    assert [(d.text, d.label) for d in found] == [(f"text {i}", ["World", "Sports"][i % 2]) for i in range(5)]
    assert [(d.text, d.id) for d in read(folder, skip_documents=4)] == [("text 4", 4)]
    assert [d.text for d in read(folder, split="test")] == ["held out"]
    streamed = _hub_rows(DatasetConfig(name=str(folder)), parse_split("train"))
    assert next(streamed)[2]["text"] == "text 0"
    assert [(d.text, d.id) for d in read(folder, split="train[1:3]")] == [("text 1", 0), ("text 2", 1)]
    assert [(d.text, d.id) for d in read(folder, split="train[1:3]", skip_documents=1)] == [("text 2", 1)]
    assert [d.text for d in read(folder, split="train[3:]", skip_documents=1)] == ["text 4"]
    with pytest.raises(BadInput, match=r"length of split 'train' is unknown, .* give rows: train\[:1000\]"):
        read(folder, split="train[:50%]")
    with pytest.raises(BadInput, match="holds no text"):
        read(folder, split="train[3:4]", skip_documents=1)
    with pytest.raises(BadInput, match="split validation"):
        read(folder, split="validation[:5]")
    with pytest.raises(BadInput, match="no column 'topic'"):
        read(folder, label_column="topic")


def test_without_a_dependency(tmp_path, monkeypatch):
    path = write(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"datasets is not installed: pip install 'repro\[lm\]'"):
        read("ag_news")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"Reading some.parquet needs pyarrow: pip install pyarrow"):
        read(path)


def test_a_hub_name_without_a_network():
    pytest.importorskip("datasets")
    with pytest.raises(BadInput, match="Cannot open data set 'monology/pile-uncopyrighted'"):
        read("monology/pile-uncopyrighted")
    assert source_fingerprint(DatasetConfig(name="monology/pile-uncopyrighted"))


def test_a_stream_that_breaks(monkeypatch):
    datasets = pytest.importorskip("datasets")

    class Stream:
        features, info = None, type("Info", (), {"splits": {"train": type("S", (), {"num_examples": 4})}})
        taken = None

        def skip(self, n):
            self.skipped = n
            return self

        def take(self, n):
            self.taken = n
            return self

        def __iter__(self):
            yield {"text": "a"}
            raise ConnectionError("reset by peer")

    stream = Stream()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    with pytest.raises(BadInput, match=r"broke after row 0 \(reset by peer\): run the same command again"):
        read("some/set", split="train[25%:75%]")
    assert (stream.skipped, stream.taken) == (1, 2)  # a card that tells the length


def test_fingerprint_follows_the_bytes(tmp_path):
    config = DatasetConfig(name=str(write(tmp_path, ".jsonl")))
    first = source_fingerprint(config)
    assert source_fingerprint(config) == first
    write(tmp_path, ".jsonl", ROWS[:4])
    assert source_fingerprint(config) != first


def test_what_is_wrong_is_said_in_a_sentence(tmp_path):
    jsonl = write(tmp_path, ".jsonl")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(write(tmp_path, ".jsonl.gz").read_bytes()[:-12])
    (tmp_path / "plain.jsonl.gz").write_text("no gzip")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "x.docx").write_bytes(b"")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "folder").mkdir()
    number = write(tmp_path, ".jsonl", [{"text": 3}], "number")
    unlabelled = write(tmp_path, ".jsonl", [{"text": "a", "topic": None}], "unlabelled")
    for name, options, sentence in [
        (tmp_path / "none.txt", {}, "No text at"),
        ("no/such/folder", {}, "No text at"),
        (jsonl, {"text_column": "body"}, r"no column 'body' \(it has: text, topic, n\); set dataset\.text_column"),
        (jsonl, {"label_column": "class"}, r"no column 'class' .* set dataset\.label_column"),
        (jsonl, {"split": "test"}, "one file without splits"),
        (jsonl, {"skip_documents": 5}, "holds no text"),
        (tmp_path / "bad.jsonl", {}, "Line 2 of"),
        (tmp_path / "list.jsonl", {}, "Line 1 of"),
        (tmp_path / "cut.jsonl.gz", {}, "Cannot read"),
        (tmp_path / "plain.jsonl.gz", {}, "Cannot read"),
        (tmp_path / "latin.txt", {}, "Line 1 of .* is not UTF-8"),
        (tmp_path / "no.parquet", {}, "is not a parquet file"),
        (tmp_path / "x.docx", {}, "Cannot read|No text"),
        (tmp_path / "empty.txt", {}, "holds no text"),
        (tmp_path / "folder", {}, "No text in"),
        (number, {}, "Line 1 of .* holds int in column 'text', not text"),
        (unlabelled, {"label_column": "topic"}, "Line 1 of .* has no label"),
    ]:
        with pytest.raises(BadInput, match=sentence):
            read(name, **options)
