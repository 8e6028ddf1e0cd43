"""What is kept of the user's own source, and that a change in it is noticed."""

import importlib
import sys
from pathlib import Path

import pytest

from runner.runs.source_code import changed_source, keep_source


def test_the_users_own_modules_are_kept_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "own_pieces").mkdir(parents=True)
    (project / "own_pieces" / "__init__.py").write_text("")
    (project / "own_pieces" / "layers.py").write_text("width = 1\n")
    (project / "own_large.py").write_text("#" * (1 << 20) + "\n")
    (project / "own_unused.py").write_text("")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    for name in ("own_pieces.layers", "own_large"):
        importlib.import_module(name)
    try:
        keep_source(tmp_path / "code")
    finally:
        for name in ("own_pieces.layers", "own_pieces", "own_large"):
            del sys.modules[name]
    kept = sorted(path.relative_to(tmp_path / "code").as_posix() for path in (tmp_path / "code").rglob("*.py"))
    assert not any(name.startswith(("source/torch/", "source/runner/", "source/json/")) for name in kept)
    # Other tests may have left modules of their own.
    kept = [name for name in kept if any(own in name for own in ("own_pieces", "own_large", "own_unused"))]
    assert kept == ["source/own_pieces/__init__.py", "source/own_pieces/layers.py"]


def test_a_module_that_has_changed_since_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "own_changing.py"
    module.write_text("sign = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("own_changing")
    try:
        keep_source(tmp_path / "code")
        assert changed_source(tmp_path / "code") == []
        module.write_text("sign = -1\n")
        kept = tmp_path / "code" / "source" / "own_changing.py"
        assert changed_source(tmp_path / "code") == [
            f"own_changing.py: has changed since; what was trained with is {kept}"
        ]
        assert changed_source(tmp_path / "never_kept") == []
    finally:
        del sys.modules["own_changing"]
