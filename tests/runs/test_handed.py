"""What a door writes beside the weights."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from runner.config.calls import call_of
from runner.runs import handed
from runner.runs.handed import documents_for, facts_here, remember
from runner.runs.source_code import LARGEST_SOURCE
from runner.trust_memory import TrustMemory

Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """`load("name", "text")`: a module of the user's own."""
    made = []

    def load(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        made.extend([name, name.partition(".")[0]])
        return importlib.import_module(name)

    yield load
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    for cached in (handed._git, handed._source_of):
        cached.cache_clear()
    yield
    for cached in (handed._git, handed._source_of):
        cached.cache_clear()


def sources(*classes: type) -> dict[str, str]:
    documents = documents_for({}, *classes)
    return {name: text.decode() for name, text in documents.items() if name.startswith("source.")}


def test_the_config_is_a_document_without_secrets() -> None:
    node = call_of(nn.Linear, (2, 1), {})
    documents = documents_for({"door": "here", "model": node, "api_key": "abc", "name": "\ud800ä"})
    assert list(documents) == ["config.json"]
    assert json.loads(documents["config.json"].decode("utf-8", "surrogatepass")) == {
        "config": {"door": "here", "model": node, "api_key": "<redacted>", "name": "\ud800ä"},
        "overrides": [],
    }


def test_the_source_of_a_class_and_of_those_that_it_is_made_of_is_kept(load: Load) -> None:
    base = "from torch import nn\nclass Base(nn.Module): ...\n"
    net = "from handedlib.base import Base\nclass Net(Base): ...\n"
    load("handedlib.base", base)
    assert sources(load("handedlib.net", net).Net, nn.Linear) == {
        "source.handedlib.net.py": net,
        "source.handedlib.base.py": base,
    }


def test_the_source_is_that_of_the_first_save(load: Load, tmp_path: Path) -> None:
    module = load("handededited", "class Net: ...\n")
    assert sources(module.Net) == {"source.handededited.py": "class Net: ...\n"}
    (tmp_path / "handededited.py").write_text("class Net: edited = True\n")
    assert sources(module.Net) == {"source.handededited.py": "class Net: ...\n"}


@pytest.mark.parametrize("gone", ["removed", "a directory", "too large", "a long name", "not ascii"])
def test_what_cannot_be_kept_is_left_out(gone: str, load: Load, tmp_path: Path) -> None:
    name = {"a long name": "n" * 90, "not ascii": "netz_ä"}.get(gone, "handedgone")
    module = load(name, "class Net: ...\n")
    path = tmp_path / f"{name}.py"
    if gone in ("removed", "a directory"):
        path.unlink()
    if gone == "a directory":
        path.mkdir()
    if gone == "too large":
        path.write_text("#" * (LARGEST_SOURCE + 1))
    assert sources(module.Net) == {}


def test_a_class_of_a_script_is_kept_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text("class Net: ...\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "script.py"), raising=False)
    assert sources(type("Net", (), {"__module__": "__main__"})) == {"source.__main__.py": "class Net: ...\n"}


def test_a_class_of_a_notebook_without_a_source_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert sources(type("Net", (nn.Module,), {"__module__": "__main__"})) == {}


def test_the_difference_to_the_commit_is_kept(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "a.txt").write_text("before\n")
    git("init")
    git("add", "a.txt")
    git("commit", "-m", "first")
    (tmp_path / "a.txt").write_text("after\n")
    diff = documents_for({})["git.diff"].decode()
    assert "-before" in diff
    assert "+after" in diff
    facts = facts_here()
    assert facts["versions"]["torch"] == str(torch.__version__)
    assert len(str(facts["git"])) >= 40


def test_what_was_handed_to_a_door_is_remembered(load: Load, tmp_path: Path) -> None:
    module = load("handednet", "class Net: ...\ndef loss(): ...\n")
    remember(module.Net, module.loss, nn.Linear, len)
    memory: Any = TrustMemory()
    assert memory.remembered("handednet") == {tmp_path / "handednet.py"}
    assert not memory.remembered("torch")
    assert not memory.remembered("builtins")
