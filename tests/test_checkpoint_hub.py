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
    scope = lay_out(cache, "google/gemma-scope-2-270m-pt", f"{name}/params.safetensors")
    assert fetch_sae(f"gemma-scope-2-270m-pt/{name}") == scope / name
    with pytest.raises(BadInput, match=r"'mlp_out/layer_1/.' 'mlp_out/layer_1' of google/gemma-scope-2-270m-pt"):
        fetch_sae("google/gemma-scope-2-270m-pt/mlp_out/layer_1")


def lay_out(cache: Path, repo: str, path: str) -> Path:
    """An SAE in the hub's cache; the folder of the repository's files."""
    folder = cache.parents[2] / f"models--{repo.replace('/', '--')}"
    weights = folder / "snapshots" / COMMIT / path
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


# as in the directory of sae-lens 6.54: a folder of another name, a factor, settings of the language model
DIRECTORY = """
gpt2-small-res-jb:
  conversion_func: null
  model: gpt2-small
  repo_id: jbloom/GPT2-Small-SAEs-Reformatted
  config_overrides:
    model_from_pretrained_kwargs:
      center_writing_weights: true
  saes:
  - id: blocks.8.hook_resid_pre
    path: blocks.8.hook_resid_pre
  - id: blocks.9.hook_resid_pre
    path: blocks.9.hook_resid_pre
gemma-2b-res-jb:
  conversion_func: null
  repo_id: jbloom/Gemma-2b-Residual-Stream-SAEs
  saes:
  - id: blocks.12.hook_resid_post
    path: gemma_2b_blocks.12.hook_resid_post_16384
    norm_scaling_factor: 0.21381938399317255
gemma-scope-2b-pt-res-canonical:
  conversion_func: gemma_2
  repo_id: google/gemma-scope-2b-pt-res
  saes:
  - id: layer_12/width_16k/canonical
    path: layer_12/width_16k/average_l0_82
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An installed sae_lens that must not be imported."""
    package = tmp_path / "site" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "pretrained_saes.yaml").write_text(DIRECTORY)
    monkeypatch.syspath_prepend(str(package.parent))
    return package / "pretrained_saes.yaml"


@pytest.mark.parametrize(
    ("name", "sae_id", "repo", "path", "note"),
    [
        ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", "jbloom/GPT2-Small-SAEs-Reformatted", "", "center_writing"),
        ("gpt2-small-res-jb/blocks.8.hook_resid_pre", None, "jbloom/GPT2-Small-SAEs-Reformatted", "", "plain model"),
        (
            *("gemma-2b-res-jb/blocks.12.hook_resid_post", None, "jbloom/Gemma-2b-Residual-Stream-SAEs"),
            *("gemma_2b_blocks.12.hook_resid_post_16384", r"norm_scaling_factor=0.213819383"),
        ),
        (
            *("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical", None, "google/gemma-scope-2b-pt-res"),
            *("layer_12/width_16k/average_l0_82", ""),
        ),
    ],
)
def test_a_release_of_saelens(cache, directory, capsys, name, sae_id, repo, path, note):
    from repro.cli import main

    path = path or "blocks.8.hook_resid_pre"
    root = lay_out(cache, repo, f"{path}/sae_weights.safetensors")
    assert fetch_sae(name, sae_id=sae_id) == root / path
    main(["fetch-sae", name, *(["--sae-id", sae_id] if sae_id else [])])
    out = capsys.readouterr()
    assert out.out.strip() == str(root / path) and note in out.err
    assert "sae_lens" not in sys.modules


@pytest.mark.parametrize(
    ("name", "repo", "path"),
    [
        *(
            (f"gemma-scope-2-{model}-{kind}/{sae}", f"google/gemma-scope-2-{model}", f"{folder}/{sae}")
            for model, kind, folder, sae in (
                ("270m-pt", "res", "resid_post", "layer_9_width_16k_l0_medium"),
                ("4b-it", "res-all", "resid_post_all", "layer_0_width_262k_l0_big"),
                ("1b-pt", "mlp", "mlp_out", "layer_13_width_16k_l0_small"),
                ("27b-it", "att-all", "attn_out_all", "layer_3_width_16k_l0_small"),
                ("270m-pt", "res", "resid_post", "layer_5_width_262k_l0_medium_seed_1"),
            )
        ),
        ("gemma-scope-9b-pt-att/layer_0/width_16k/average_l0_12", "google/gemma-scope-9b-pt-att", ""),
    ],
)
def test_gemma_scope_by_the_names_of_saelens_without_it(cache, monkeypatch, name, repo, path):
    monkeypatch.setattr("repro.checkpoints.releases._directory_file", lambda: None)
    path = path or name.partition("/")[2]
    root = lay_out(cache, repo, f"{path}/params.safetensors")
    assert fetch_sae(name) == root / path
    release, _, sae_id = name.partition("/")
    assert fetch_sae(release, sae_id=sae_id) == root / path


@pytest.mark.parametrize(
    ("name", "sae_id", "sentence"),
    [
        (
            "gpt2-small-res-jp",
            "blocks.8.hook_resid_pre",
            "'gpt2-small-res-jp'; the nearest are gpt2-small-res",
        ),
        ("nothing-like-it", "x", "no release 'nothing-like-it'; there are gpt2-small-res-jb, .* and others"),
        (
            "gpt2-small-res-jb",
            "blocks.8.hook_resid_post",
            "no SAE 'blocks.8.hook_resid_post'; the nearest are blocks",
        ),
        ("gpt2-small-res-jb/blocks.99.hook_resid_pre", None, "nearest are blocks.9.hook_resid_pre, blocks.8"),
        ("gpt2-small-res-jb", None, "has 2 SAEs, so give --sae-id; there are blocks.8.hook_resid_pre"),
        ("a/b", "blocks.8.hook_resid_pre", "'a/b' has an SAE or a repository behind the slash"),
        (
            "gemma-scope-2-270m-pt-res/layer_9",
            None,
            "no SAE 'layer_9': give one such as layer_12_width_16k_l0_med",
        ),
        ("gemma-2-2b-none", None, "is no hub id .* for a release of SAELens --sae-id"),
        ("somebody/else/blocks", None, "run `repro fetch-sae .*` once with a network"),
    ],
)
def test_unknown_names_of_releases_are_one_sentence(cache, directory, name, sae_id, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        fetch_sae(name, sae_id=sae_id)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sae_id"),
    [
        ("gpt2-small-res-jb", "blocks.8.hook_resid_pre"),
        ("gpt2-small-res-jb/blocks.8.hook_resid_pre", None),
        ("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical", None),
    ],
)
def test_without_saelens_a_release_says_how_to_get_it(cache, monkeypatch, name, sae_id):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"sae_lens is not installed: pip install sae-lens, or give the hub repository"):
        fetch_sae(name, sae_id=sae_id)
    with pytest.raises(BadInput, match="--sae-id is of a release of SAELens and --variant of a language model"):
        fetch_sae("pythia-160m-deduped", variant="topk", sae_id="x")


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
