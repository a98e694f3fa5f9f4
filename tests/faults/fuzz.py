"""Coverage-guided fuzzing of the readers: `pip install atheris`, then `python tests/faults/fuzz.py FOLDER SECONDS`.

The first byte of an input says which file of a whole folder the rest replaces. A reader may read it or refuse it with
BadInput; every other exception is kept in FOLDER/found, one input a kind, and becomes a case of test_damaged_files.py.
"""

import gzip
import json
import shutil
import sys
import traceback
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["repro"]):
    import repro.activations.store
    import repro.activations.text.documents
    import repro.base.config
    import repro.book.runner
    import repro.checkpoints
    import repro.commands.files

import nbformat
import numpy as np
import pandas as pd
import torch

from repro.base.config import DatasetConfig, RunConfig
from repro.base.errors import BadInput

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CORPUS = Path(__file__).with_name("corpus.zip")  # what earlier runs covered: the files of their FOLDER/corpus
LARGEST = 64_000


def read_texts(path):
    list(repro.activations.text.documents.documents(DatasetConfig(name=str(path))))


READERS = {
    "run.yaml": lambda path: repro.base.config.load_yaml(RunConfig, path),
    "acts_layer0.npy": lambda path: repro.activations.store.open_store(path).select().take(5),
    "table.parquet": lambda path: repro.commands.files.read_table(path, ("path",)),
    "one.ipynb": lambda path: repro.book.runner.plan("one", notebooks_dir=path.parent),
    **{f"text.{kind}": read_texts for kind in ("parquet", "csv", "jsonl", "jsonl.gz")},
}


def whole_files(folder):
    """A folder of whole files that these readers read."""
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "tiny.yaml").write_text("one:\n")
    frame = pd.DataFrame({"text": [f"document {i}" for i in range(8)], "path": "x"})
    frame.to_parquet(folder / "table.parquet")
    frame.to_parquet(folder / "text.parquet")
    frame.to_csv(folder / "text.csv", index=False)
    lines = "".join(json.dumps({"text": t}) + "\n" for t in frame["text"])
    (folder / "text.jsonl").write_text(lines)
    (folder / "text.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "run.yaml").write_text("output_dir: out\nmodel: {name: tiny, layer_index: 2}\neval_modes: [amortized]\n")
    np.save(folder / "acts_layer0.npy", np.ones((6, 3), np.float32))
    cells = [nbformat.v4.new_code_cell("n: int = 1", metadata={"tags": ["parameters"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "one.ipynb")


def places(folder):
    """(file that an input replaces, what reads it), in a fixed order."""
    whole_files(folder / "plain")
    found = [(folder / "plain" / name, read) for name, read in READERS.items()]
    for source in sorted({p.parent for p in GOLDEN.rglob("expected*.npz")} - {GOLDEN}):
        copy = folder / "sae" / source.relative_to(GOLDEN)
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("expected*"), dirs_exist_ok=True)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        for file in sorted(p for p in copy.iterdir() if p.is_file() and p.stat().st_size < LARGEST):
            found.append((file, lambda path: repro.checkpoints.load_sae(path.parent)))
    return found[:256]


def main(folder, seconds):
    torch.set_num_threads(1)
    work, seeds, corpus, bad = (folder / name for name in ("work", "seeds", "corpus", "found"))
    for new in (work, seeds, corpus, bad):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    files = places(work)
    whole = [path.read_bytes() for path, _ in files]
    for i, data in enumerate(whole):
        (seeds / f"{i:03d}").write_bytes(bytes([i]) + data)
    if CORPUS.is_file():
        zipfile.ZipFile(CORPUS).extractall(seeds)
    kinds = set()

    def one(data):
        if not data:
            return
        number = data[0] % len(files)
        path, read = files[number]
        path.write_bytes(data[1:])
        try:
            read(path)
        except BadInput:
            pass
        except Exception as error:
            last = [f for f in traceback.extract_tb(error.__traceback__) if "/repro/" in f.filename][-1]
            kind = f"{type(error).__name__}-{Path(last.filename).name}-{last.lineno}"
            if kind not in kinds:
                kinds.add(kind)
                (bad / f"{kind}-{path.parent.name}-{path.name}").write_bytes(data[1:])
                (bad / f"{kind}.txt").write_text(traceback.format_exc())
        finally:
            path.write_bytes(whole[number])

    flags = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-rss_limit_mb=6000", "-timeout=60"]
    atheris.Setup([sys.argv[0], *flags, str(corpus), str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
