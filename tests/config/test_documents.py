import json
from pathlib import Path
from typing import Any

import pytest

from runner.config.composing import Config, compose
from runner.config.documents import documents, resolved, saved_config, sweep_file_redacted, write_hydra_files, written
from runner.config.prepare import prepare
from runner.config.secrets import REDACTED
from runner.config.sources import Sources
from runner.errors import FormatError


def config_of(*overrides: str) -> Config:
    return compose(overrides, sources=Sources(), draw_seed=lambda: 1).config


def test_what_is_written_is_what_is_read() -> None:
    config = config_of("optimizer.lr=1e-5", "name='a: #b \"c\" 1e3'", "+model.labels={0:no,1:yes}", "+model.big=inf")
    files = documents(config)
    assert sorted(files) == ["config.json", "config.yaml"]
    saved = saved_config(files["config.yaml"], files["config.json"], where=Path("x"))
    assert saved.composed == config.composed
    assert saved.written == written(config) == config.resolved
    assert saved.overrides == config.overrides and saved.choices == config.choices
    assert saved.written["model"]["labels"] == {0: "no", 1: "yes"}
    assert resolved(json.loads(files["config.json"])["config"]) == config.resolved
    assert documents(config) == files


def test_what_comes_from_the_environment_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", "/private/here")
    config = config_of("+root=${oc.env:DATA_ROOT}", "data.path=${root}/digits.npz")
    assert config.resolved["data"]["path"] == "/private/here/digits.npz"
    files = documents(config)
    assert b"/private/here" not in files["config.json"] + files["config.yaml"]
    saved = json.loads(files["config.json"])["config"]
    assert saved["data"]["path"] == "${root}/digits.npz" and saved["root"] == "${oc.env:DATA_ROOT}"
    monkeypatch.setenv("DATA_ROOT", "/private/there")
    assert resolved(saved)["data"]["path"] == "/private/there/digits.npz"
    monkeypatch.delenv("DATA_ROOT")
    with pytest.raises(FormatError, match="DATA_ROOT"):
        resolved(saved)


def test_a_text_that_only_looks_like_an_interpolation_comes_back_as_it_was() -> None:
    config = config_of(r"name='\${not.one}'")
    assert config.resolved["name"] == "${not.one}"
    assert resolved(json.loads(documents(config)["config.json"])["config"])["name"] == "${not.one}"


def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    secret = "geheim-4711"
    prepared = prepare([f"hydra.run.dir={tmp_path / 'run'}", f"+hydra.job.env_set.MY_API_KEY={secret}", "seed=3"])
    looks = "ghp_" + "a1B2" * 9
    named = prepare([f"hydra.run.dir={tmp_path / 'named'}", f"name={looks}"]).run
    assert looks not in (named.path / "run.json").read_text()
    config = config_of(f"+data.token={secret}", "+data.pad_token=<pad>".replace("<pad>", "PAD"))
    write_hydra_files(prepared.run, 1, prepared.config)
    write_hydra_files(prepared.run, 2, config)
    for file in prepared.run.path.rglob("*"):
        assert not file.is_file() or secret not in file.read_text()
    for data in documents(config).values():
        assert secret.encode() not in data
    assert written(config)["data"]["token"] == REDACTED and written(config)["data"]["pad_token"] == "PAD"


def test_attempts_never_overwrite_what_earlier_ones_wrote(tmp_path: Path) -> None:
    run = prepare([f"hydra.run.dir={tmp_path / 'run'}", "seed=3"]).run
    write_hydra_files(run, 1, config_of("seed=3"))
    first = (run.hydra / "overrides.yaml").read_bytes()
    write_hydra_files(run, 2, config_of("seed=4"))
    assert (run.hydra / "overrides.yaml").read_bytes() == first == b"- seed=3\n"
    assert (run.hydra / "attempts" / "002" / "overrides.yaml").read_bytes() == b"- seed=4\n"
    names = {"config.json", "config.yaml", "hydra.yaml", "overrides.yaml"}
    assert {file.name for file in (run.hydra / "attempts" / "001").iterdir()} == names


GOOD: dict[str, Any] = {"config": {}, "overrides": [], "choices": {}}


@pytest.mark.parametrize(
    ("composed", "built", "message"),
    [
        (b"a: &x [1]\nb: [*x, *x]\n", json.dumps(GOOD), "config.yaml: not readable YAML .*aliases are not read"),
        (b"- 1\n", json.dumps(GOOD), "config.yaml: holds a list; wanted a mapping"),
        (b"a: !!python/object/apply:os.system [true]\n", json.dumps(GOOD), "config.yaml: not readable YAML"),
        (b"a: [\n", json.dumps(GOOD), "config.yaml: not readable YAML"),
        (b"a: " + b"[" * 100_000, json.dumps(GOOD), "config.yaml: not readable YAML"),
        (b"a: 1\n", "{", "config.json: not readable JSON"),
        (b"a: 1\n", "[" * 100_000, "config.json: not readable JSON"),
        (b"a: 1\n", "[]", "config.json: holds a list; wanted a mapping"),
        (b"a: 1\n", "{}", "config.json: not a saved config .KeyError: 'config'."),
        (b"a: 1\n", json.dumps(GOOD | {"overrides": [1]}), "config.json: not a saved config .*no list of texts"),
        (b"a: 1\n", json.dumps(GOOD | {"config": {"_items_": [[[1], 2]]}}), "config.json: not a saved config"),
        (b"a: 1\n" + b" " * 16 * 1024 * 1024, json.dumps(GOOD), "config.yaml: 16777221 bytes"),
    ],
)
def test_a_file_that_is_no_saved_config_is_refused(composed: bytes, built: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        saved_config(composed, built.encode(), where=Path("x"))


def test_the_sweepers_own_file_loses_its_secrets(tmp_path: Path) -> None:
    node = compose(["+data.token=geheim", "seed=3"], sources=Sources(), draw_seed=lambda: 1).node
    from omegaconf import OmegaConf

    file, other = tmp_path / "multirun.yaml", tmp_path / "other.yaml"
    OmegaConf.save(node, file)
    assert file.read_text().count("geheim") > 1
    with sweep_file_redacted():
        OmegaConf.save(node, file)
        OmegaConf.save(node, f=other)
    assert "geheim" not in file.read_text() and "seed=3" in file.read_text()
    assert other.read_text().count("geheim") > 1
    OmegaConf.save(node, file)
    assert file.read_text().count("geheim") > 1


@pytest.mark.parametrize(
    "text",
    ["1e3", "1e-3", ".5e3", "1_000", "0x1F", "0o17", "12:30:00", "2026-11-23", "yes", "~", "=", "<<", "null", ".inf"],
)
def test_a_text_that_looks_like_something_else_comes_back_as_a_text(text: str) -> None:
    config = config_of(f"name='{text}'")
    files = documents(config)
    saved = saved_config(files["config.yaml"], files["config.json"], where=Path("x"))
    assert saved.composed["name"] == saved.written["name"] == text


def test_small_and_large_numbers_come_back_as_numbers() -> None:
    config = config_of("optimizer.lr=1e-5", "+model.big=1e22", "+model.none=-inf", "+model.whole=123456789012345678901")
    files = documents(config)
    saved = saved_config(files["config.yaml"], files["config.json"], where=Path("x"))
    assert saved.composed["model"] == config.composed["model"]
    assert saved.composed["optimizer"]["lr"] == 1e-5
