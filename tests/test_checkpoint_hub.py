"""Released SAEs: from a cache laid out like the hub's, and from a small server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from test_variants import random_sae

from repro.base.errors import BadInput
from repro.checkpoints import load_sae, save_dictionary_learning
from repro.checkpoints.hub import RELEASES, fetch_sae, find_release, find_sae
from repro.sae import Source

pytest.importorskip("huggingface_hub")
REPO = "adamkarvonen/saebench_pythia-160m-deduped_width-2pow14_date-0108"
FOLDER = "BatchTopK_pythia-160m-deduped__0108/resid_post_layer_8"
COMMIT = "0" * 40


def make_release(root: Path) -> None:
    """Trainers whose numbers do not rise with k, and a neighbour whose name ends the same way."""
    for trainer, k in ((6, 5), (7, 3), (11, 2)):
        sae = random_sae("batch_topk", k=k)
        sae.source = Source(family="batch_top_k", layer=8, lm_name="EleutherAI/pythia-160m-deduped")
        save_dictionary_learning(sae, root / FOLDER / f"trainer_{trainer}")
    save_dictionary_learning(random_sae("topk"), root / FOLDER.replace("Batch", "") / "trainer_0")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    repo = hub / f"models--{REPO.replace('/', '--')}"
    make_release(repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repo / "snapshots" / COMMIT


def test_finds_an_sae_by_the_sparsity_in_its_config(cache):
    found = find_sae("pythia-160m-deduped", "batch_topk", sparsity=2)
    assert found == cache / FOLDER / "trainer_11" / "ae.pt"
    sae = load_sae(found)
    assert (sae.source.k, sae.source.trainer, sae.source.layer) == (2, 11, 8)
    assert find_sae("EleutherAI/pythia-160m-deduped", "batch_topk").parent.name == "trainer_7"  # the middle one
    with pytest.raises(BadInput, match=r"No batch_topk SAE with sparsity 4 in .*; it has \[2.0, 3.0, 5.0\]"):
        find_sae("pythia-160m-deduped", "batch_topk", sparsity=4)


def test_fetch_finds_what_is_there(cache):
    assert fetch_sae(REPO, ["BatchTopK_*/*"]) == cache
    assert fetch_sae(REPO) == cache
    assert fetch_sae("pythia-160m-deduped", variant="batch_topk") == cache
    assert fetch_sae("pythia-160m-deduped", variant="batch_topk", sparsity=5) == cache / FOLDER / "trainer_6"


def test_a_path_behind_the_repository_is_one_sae(cache):
    assert fetch_sae(f"{REPO}/{FOLDER}/trainer_7") == cache / FOLDER / "trainer_7"
    assert fetch_sae(f"{REPO}/{FOLDER}/trainer_7/ae.pt") == cache / FOLDER / "trainer_7" / "ae.pt"
    name = "resid_post/layer_12_width_16k_l0_small"
    scope = cache.parents[2] / "models--google--gemma-scope-2-270m-pt"
    (scope / "snapshots" / COMMIT / name).mkdir(parents=True)
    (scope / "snapshots" / COMMIT / name / "params.safetensors").write_bytes(b"x")
    (scope / "refs").mkdir()
    (scope / "refs" / "main").write_text(COMMIT)
    assert fetch_sae(f"gemma-scope-2-270m-pt/{name}") == scope / "snapshots" / COMMIT / name
    with pytest.raises(BadInput, match=r"'mlp_out/layer_1/.' 'mlp_out/layer_1' of google/gemma-scope-2-270m-pt"):
        fetch_sae("google/gemma-scope-2-270m-pt/mlp_out/layer_1")


def test_offline_errors_name_the_fix(cache):
    for call in (
        lambda: fetch_sae(REPO, ["Gated*/*"]),
        lambda: fetch_sae("somebody/else", ["*.pt"]),
    ):
        with pytest.raises(BadInput, match=r"run `repro fetch-sae .* --allow .*` once with a network") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="run `repro fetch-sae pythia-160m-deduped --variant gated --width 16384` once"):
        find_sae("pythia-160m-deduped", "gated")
    (cache / FOLDER / "trainer_7" / "ae.pt").unlink()
    with pytest.raises(BadInput, match=r"trainer_7/ae.pt' of .* is not in the local hub cache .* --sparsity 3` once"):
        find_sae("pythia-160m-deduped", "batch_topk")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: find_release("pythia-160m-dedupd", "topk"), "did you mean 'pythia-160m-deduped'"),
        (lambda: find_release("gemma-2-2b", "batchtopk"), "did you mean 'batch_topk'"),
        (lambda: find_release("gemma-2-2b", "topk", 1000), r"widths are \[4096, 16384, 65536\]"),
        (lambda: find_release("pythia-160m-deduped", "topk", trajectory=True), "No intermediate checkpoints of topk"),
        (lambda: find_release("gemma-2-2b", "gated", trajectory=True), "gemma-2-2b has them for standard and topk"),
        (lambda: find_sae("gemma-2-2b", "topk", layer=3), "has SAEs of layer 12 only, not 3"),
        (lambda: fetch_sae("pythia-160m-deduped"), "also give --variant"),
    ],
)
def test_refuses_what_was_not_released(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()


def test_table_of_releases():
    assert len(RELEASES) == 9
    gemma = find_release("google/gemma-2-2b", "jumprelu", 65536)
    assert gemma.repo == "canrager/saebench_gemma-2-2b_width-2pow16_date-0107"
    assert gemma.folder("jumprelu", 12) == "gemma-2-2b_jump_relu_width-2pow16_date-0107/resid_post_layer_12"
    small = find_release("gemma-2-2b", "gated", 4096)
    assert small.folder("gated", 12) == "GatedSAE_gemma-2-2b__0108/resid_post_layer_12"
    run = find_release("gemma-2-2b", "standard", 4096, trajectory=True)
    assert run.repo == "canrager/saebench_gemma-2-2b_width-2pow12_date-1109"
    assert run.folder("standard", 5) == "gemma-2-2b_vanilla_width-2pow12_date-1109/resid_post_layer_5"


class Hub(BaseHTTPRequestHandler):
    """The three requests of a snapshot download: revision, tree, files (with ranges)."""

    root: Path

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if path == f"/api/models/{REPO}/revision/main":
            return self.answer(json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}).encode())
        if path.startswith(f"/api/models/{REPO}/tree/"):
            files = [p for p in sorted(self.root.rglob("*")) if p.is_file()]
            entries = [
                {"type": "file", "path": p.relative_to(self.root).as_posix(), "size": p.stat().st_size, "oid": etag(p)}
                for p in files
            ]
            return self.answer(json.dumps(entries).encode())
        file = self.root / path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        if file.is_file():
            return self.answer(file.read_bytes(), etag(file))
        return self.answer(b"{}", status=404, error="RepoNotFound")

    def answer(self, body, tag="", status=200, error=""):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else status)
        for name, value in (("ETag", f'"{tag}"'), ("X-Repo-Commit", COMMIT), ("X-Error-Code", error)):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start:])


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def test_downloads_only_the_one_that_is_wanted(tmp_path):
    """In a process of its own: the hub's address and offline mode are read at import."""
    root = tmp_path / "repo"
    make_release(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from repro.checkpoints.hub import find_sae, fetch_sae; from repro.base.errors import BadInput\n"
        "print(find_sae('pythia-160m-deduped', 'batch_topk', sparsity=5))\n"
        "try: fetch_sae('no/body', ['*'])\n"
        "except BadInput as error: print(error)\n"
    )
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    found, refused = done.stdout.strip().split("\n")
    assert found.endswith(f"{FOLDER}/trainer_6/ae.pt")
    assert Path(found).read_bytes() == (root / FOLDER / "trainer_6" / "ae.pt").read_bytes()
    assert len(list((tmp_path / "hub").rglob("ae.pt"))) == 1
    assert len(list((tmp_path / "hub").rglob("config.json"))) == 3  # read to choose by k
    assert refused.startswith("No repository 'no/body' on the hub")
