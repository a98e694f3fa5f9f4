"""Input made to harm: code in pickles, archives and headers that claim too much, tags, aliases, paths that lead out."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.activations.store import open_store
from repro.base.config import RunConfig, load_yaml
from repro.base.errors import BadInput
from repro.checkpoints import load_sae

FAMILY, ENDS = "hostile input", "refused"
CONFIG = {"trainer": {"dict_class": "AutoEncoderTopK", "activation_dim": 4, "dict_size": 8, "k": 2}}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def folder(tmp_path, name, data, config=CONFIG):
    (tmp_path / "sae").mkdir(exist_ok=True)
    (tmp_path / "sae" / name).write_bytes(data)
    if config is not None:
        (tmp_path / "sae" / "config.json").write_text(json.dumps(config))
    return tmp_path / "sae"


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


@pytest.mark.parametrize("pack", [pickle.dumps, saved], ids=["pickle", "torch"])
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"W_enc": torch.zeros(4, 8), "x": b}], ids=["bare", "within"])
@pytest.mark.parametrize("name", ["ae.pt", "sae.pt", "multi_encoder_sae.pt", "6.pt"])
def test_a_pickle_never_runs_its_code(pack, wrap, name, tmp_path):
    mark = tmp_path / "ran"
    for path in (folder(tmp_path, name, pack(wrap(Bomb(mark)))), tmp_path / "sae" / name):
        with pytest.raises(BadInput) as refused:
            load_sae(path)
        assert "\n" not in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("allow", [True, False])
def test_an_npy_of_objects_is_not_unpickled(allow, tmp_path):
    mark = tmp_path / "ran"
    np.save(tmp_path / "acts_layer0.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"acts_layer0\.npy"):
        open_store(tmp_path / "acts_layer0.npy", verify=allow)
    out = io.BytesIO()
    np.savez(out, W_enc=np.array([Bomb(mark)], dtype=object))
    where = tmp_path / "layer_12" / "width_16k" / "average_l0_82"
    where.mkdir(parents=True)
    (where / "params.npz").write_bytes(out.getvalue())
    with pytest.raises(BadInput):
        load_sae(where)
    assert not mark.exists()


def npy_header(shape):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_archives_that_claim_terabytes_are_refused_before_memory_is_taken(tmp_path):
    where = tmp_path / "layer_12" / "width_16k" / "average_l0_82"
    where.mkdir(parents=True)
    with zipfile.ZipFile(where / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
            archive.writestr(f"{name}.npy", npy_header((2**20, 2**20)) + bytes(10_000_000))
    assert (where / "params.npz").stat().st_size < 200_000
    with pytest.raises(BadInput, match=r"params\.npz|average_l0_82"):
        load_sae(where)
    (tmp_path / "acts_layer0.npy").write_bytes(npy_header((2**40, 4)))
    with pytest.raises(BadInput, match=r"acts_layer0\.npy"):
        open_store(tmp_path / "acts_layer0.npy")


@pytest.mark.parametrize("size", [2**63, 2**40, 10**9, 0])
def test_safetensors_headers_of_absurd_size(size, tmp_path):
    data = struct.pack("<Q", size) + b'{"W_enc": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}}'
    config = {"architecture": "standard", "d_in": 4, "d_sae": 8}
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(data)
    for path in (tmp_path / "sae", tmp_path / "sae" / "sae_weights.safetensors"):
        with pytest.raises(BadInput):
            load_sae(path)


YAMLS = {
    "tag": "output_dir: !!python/object/apply:os.mkdir ['{mark}']\n",
    "new": "!!python/object/new:os.mkdir ['{mark}']\n",
    "module": "output_dir: !!python/name:os.system\n",
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi")
    ),
    "itself": "output_dir: &x [*x]\n",
    "deep": "[" * 3000,
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_tags_and_aliases(name, tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "run.yaml").write_text(YAMLS[name].replace("{mark}", str(mark)))
    with pytest.raises(BadInput) as refused:
        load_yaml(RunConfig, tmp_path / "run.yaml")
    assert not mark.exists() and len(str(refused.value)) < 2000


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "a/../../secret.npy"])
def test_a_manifest_that_leads_out_of_its_folder(name, tmp_path):
    pytest.importorskip("transformers")
    from repro.activations.collect import collect
    from repro.base.config import DatasetConfig

    data = DatasetConfig("tiny-labels", split="all", max_tokens=64, seq_len=16, packing=False)
    path = collect(RunConfig(output_dir=str(tmp_path), dataset=data))
    manifest = path.with_suffix(".json")
    about = json.loads(manifest.read_text())
    first = next(iter(about["files"]))
    about["files"] = {name if k == first else k: v for k, v in about["files"].items()}
    manifest.write_text(json.dumps(about))
    with pytest.raises(BadInput) as refused:
        open_store(path)
    assert "passwd:" not in str(refused.value)


EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_names_of_checkpoints_are_text_in_figures_and_tables(tmp_path, tally):
    tally.right()
    pytest.importorskip("plotly")
    import pandas as pd

    from repro.commands import visualize as figures

    rows = [
        {"variant": EVIL, "trainer": 0, "step": s, "sparsity": 8.0, "mode": m, "protocol": "corrected", "NMSE": 0.1 * s}
        for s in (1, 2)
        for m in ("amortized", "semi")
    ]
    for _, figure in figures.draw(figures.with_steps(pd.DataFrame(rows).assign(L0=8.0, dead_rate=0.1))):
        page = figure.to_html(include_plotlyjs=False)
        assert "<script>alert" not in page and "<img src=x" not in page


@pytest.mark.parametrize("value", ["__import__('os').mkdir('{mark}')", "open('{mark}','w')", "(lambda: 0)()", "x"])
def test_notebook_parameters_are_never_run(value, tmp_path, capsys):
    pytest.importorskip("papermill")
    from repro.cli import main

    mark = tmp_path / "ran"
    with pytest.raises(SystemExit) as stopped:
        main(
            ["notebook", "70_performance", "-p", "seed", value.replace("{mark}", str(mark)), "--out-dir", str(tmp_path)]
        )
    assert stopped.value.code in (1, 2) and not mark.exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "secret.txt"])
def test_an_index_that_leads_elsewhere_gives_a_reason_and_not_what_lies_there(path, tmp_path, tally):
    pytest.importorskip("pyarrow")
    import pandas as pd

    from repro.cli import main

    (tmp_path / "secret.txt").write_text("root: word of honour\n")
    listing = pd.DataFrame({"variant": ["topk"], "path": [path]})
    listing.to_parquet(tmp_path / "checkpoint_index.parquet")
    np.save(tmp_path / "acts_layer0.npy", np.ones((40, 4), "float32"))
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "--output-dir", str(tmp_path)])
    finally:
        os.chdir(before)
    assert stopped.value.code == 1  # the row says why
    (row,) = pd.read_parquet(tmp_path / "metrics.parquet").to_dict("records")
    assert row["note"] and "root:" not in str(row) and "NMSE" not in row
    tally.refused()


PAGE = f"""import pandas as pd
from repro.base import theme
from repro.commands import visualize as figures
theme.use_theme()
rows = [
    dict(variant={EVIL!r}, trainer=0, step=s, sparsity=8.0, mode=m, protocol="corrected", NMSE=0.1 * s, L0=8.0)
    for s in (1, 2) for m in ("amortized", "semi")
]
table = figures.with_steps(pd.DataFrame(rows).assign(dead_rate=0.1))
[theme.caption(figure, {EVIL!r}) for _, figure in figures.draw(table)][0]"""


@pytest.mark.slow
@pytest.mark.browser
def test_names_and_texts_of_the_book_are_text_in_a_browser(tmp_path, tally):
    """The page is built the way the real book is, and opened in Chromium."""
    import shutil

    nbformat = pytest.importorskip("nbformat")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium (apt-get install chromium)")
    import runs
    from playwright.sync_api import sync_playwright

    from repro.book.build import build
    from repro.book.runner import execute

    evil = EVIL.replace("alert(", "window.harmed=(")
    cells = [PAGE.replace("alert(", "window.harmed=("), f"table.assign(text={evil!r}).set_index('variant')"]
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    (tmp_path / "notebooks" / "params" / "tiny.yaml").write_text("a:\n")
    made = [nbformat.v4.new_markdown_cell("# A page"), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "notebooks" / "a.ipynb")
    shutil.copyfile(tmp_path / "notebooks" / "a.ipynb", tmp_path / "notebooks" / "b.ipynb")
    runs.checkout(tmp_path, tmp_path / "out")
    book = tmp_path / "out" / "book"
    for name in "ab":
        execute(name, notebooks_dir=tmp_path / "notebooks", out_dir=book / "executed")
    html = build(book)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto((html / "executed" / "a.html").as_uri())
        page.wait_for_timeout(2000)
        assert page.evaluate("window.harmed") is None
        assert page.locator("img[src='x']").count() == 0
        assert "<img src=x" in page.locator("table.dataframe").first.inner_text()
        assert "<img src=x" in page.locator("figcaption").first.inner_text()
        chromium.close()
    tally.right()
