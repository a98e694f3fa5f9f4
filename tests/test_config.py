"""YAML to dataclasses: every mistake is one sentence that names the nearest right word."""

import os

import pytest

from repro.base.config import RunConfig, from_mapping, load_yaml
from repro.base.errors import BadInput, extra_for, optional
from repro.base.files import digest, repo_root, write_atomically
from repro.sections.scales import Scale, scale_of

SEED = """
output_dir: out
model: {name: tiny, layer_index: 2}
sae_checkpoints:
  standard: {name: standard, roots: [a, b]}
eval_modes: [amortized, semi_amortized]
semi_steps: 30
non_steps: 200
target_dense_semi_non: 0.1
metrics: {max_norm_ratio: 1e1}
seed: 3
"""


def test_seed_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(SEED)
    config = load_yaml(RunConfig, path)
    assert config.model.layer_index == 2
    assert config.sae_checkpoints["standard"].roots == ("a", "b")
    assert config.eval_modes == ("amortized", "semi_amortized")
    assert config.metrics.max_norm_ratio == 10.0  # YAML 1.1 reads 1e1 as text
    assert config.seed == 3


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"semi_step": 3}, "Unknown key 'semi_step' (did you mean 'semi_steps'?)"),
        ({"model": {"nam": "x"}}, "Unknown key 'model.nam' (did you mean 'name'?)"),
        ({"model": "tiny"}, "model must be a mapping"),
        ({"semi_steps": "many"}, "semi_steps must be int, not 'many'"),
        ({"semi_steps": True}, "semi_steps must be int, not True"),
        ({"eval_modes": "amortized"}, "eval_modes must be a list"),
        ({"protocol": "fixed"}, "protocol is 'fixed'; it must be one of as_released, corrected, both"),
        ({"sae_checkpoints": [1]}, "sae_checkpoints must be a mapping"),
    ],
)
def test_mistakes_are_one_sentence(values, sentence):
    with pytest.raises(BadInput) as error:
        from_mapping(RunConfig, values)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_files(tmp_path):
    with pytest.raises(BadInput, match="No config file"):
        load_yaml(RunConfig, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(BadInput, match="not valid YAML"):
        load_yaml(RunConfig, tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(RunConfig, tmp_path / "empty.yaml") == RunConfig()


def test_scales():
    assert scale_of("tiny", m=64, ks=[4], seed=None) == Scale(m=64, ks=(4,))
    with pytest.raises(BadInput, match=r"No scale 'tny' \(did you mean 'tiny'\?\)"):
        scale_of("tny")
    with pytest.raises(BadInput, match=r"did you mean 'steps'"):
        scale_of("tiny", step=3)
    with pytest.raises(BadInput, match="m must be int"):
        scale_of("tiny", m="big")


def test_digest_depends_on_values_only():
    assert digest(Scale(), {"b": 1, "a": 2}) == digest(Scale(), {"a": 2, "b": 1})
    assert digest(Scale()) != digest(Scale(seed=1))


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "sub" / "x.txt"

    def half(draft):
        draft.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(path, half)
    assert list(path.parent.iterdir()) == []
    write_atomically(path, lambda draft: draft.write_text("whole"))
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"] and path.read_text() == "whole"


def test_prepared_data_goes_where_it_can_be_written(tmp_path, monkeypatch):
    from repro.base import files

    for name in ("REPRO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.cache_dir() == repo_root() / "data" / "cache"
    monkeypatch.setattr(files, "ROOT", tmp_path / "installed")  # no clone
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert files.cache_dir() == tmp_path / "home" / ".cache" / "repro"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "repro"
    monkeypatch.setattr(files, "writable", lambda path: False)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    assert files.cache_dir() == tmp_path / f"repro-{os.getuid()}" == files.cache_dir()
    assert files.cache_dir().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "named"))
    assert files.cache_dir() == tmp_path / "named"


def test_no_home_makes_no_folder_named_tilde(tmp_path, monkeypatch):
    """Without HOME and an entry in the list of users, Python leaves ~ as it is, or raises."""
    from repro.base import files

    for name in ("REPRO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    assert files.cache_dir() == tmp_path / f"repro-{os.getuid()}"


def test_what_only_a_clone_has_is_refused_in_a_sentence(tmp_path, monkeypatch):
    from repro.base import files
    from repro.base.machine import commit

    monkeypatch.setattr(files, "ROOT", tmp_path)
    with pytest.raises(BadInput, match="work in a clone"):
        files.repo_root()
    assert commit().startswith("repro 0.")


def test_a_missing_package_names_the_extra_that_brings_it():
    assert "pip install 'repro[book]'" in str(extra_for(ModuleNotFoundError("no docutils", name="docutils.nodes")))
    assert extra_for(ModuleNotFoundError("no x", name="x")) is None and extra_for(ValueError()) is None
    with pytest.raises(BadInput, match=r"numba is not installed: pip install 'repro\[cpu\]'"), optional():
        raise ModuleNotFoundError("no numba", name="numba.core")
    with pytest.raises(ModuleNotFoundError, match="no such path"), optional():
        raise ModuleNotFoundError("no such path", name="repro.kernels.nowhere")


@pytest.mark.parametrize("value", [".nan", ".NaN", "nan"])
def test_a_number_that_is_none_is_refused(tmp_path, value):
    (tmp_path / "c.yaml").write_text(f"target_dense_semi_non: {value}\n")
    with pytest.raises(BadInput, match="target_dense_semi_non is not a number"):
        load_yaml(RunConfig, tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "path", sorted((repo_root() / "notebooks" / "params" / "release").glob("*.yaml")), ids=lambda p: p.stem
)
def test_example_configs_are_valid(path):
    config = load_yaml(RunConfig, path)
    assert config.model.layer_index == 8 and config.output_dir.startswith("outputs")
