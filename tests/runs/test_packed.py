"""Packed checkpoints where checkpoints are used: loaded as models, and gone on with in a new run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import runner
from runner.checkpoint.archive import pack, unpack
from runner.errors import ConfigError, ResumeError

Short = Callable[..., runner.Run]


@pytest.mark.parametrize("name", ["x.zip", "x.pt"])
def test_a_model_is_loaded_from_a_packed_file(name: str, short: Short, tmp_path: Path) -> None:
    run = short()
    pack(run.checkpoint(), tmp_path / name)
    loaded, expected = runner.load(tmp_path / name).state_dict(), run.model.state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["x.pt", "unpacked"])
def test_a_new_run_goes_on_from_a_packed_file_as_the_run_itself_would_have(
    name: str, short: Short, tmp_path: Path
) -> None:
    first = short("trainer.max_steps=3", "trainer.max_epochs=2", "scheduler=constant")
    pack(first.checkpoint(), tmp_path / "x.zip")
    if name == "unpacked":
        unpack(tmp_path / "x.zip", tmp_path / "unpacked")
    else:
        pack(first.checkpoint(), tmp_path / name)
    second = runner.run([f"+resume={tmp_path / name}", "trainer.max_steps=null"])
    whole = short("trainer.max_epochs=2", "scheduler=constant")
    assert second.directory != first.directory
    assert [path.name for path in (first.directory / "checkpoints").iterdir()] == ["step-000000003"]
    expected, found = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert second.checkpoint().step == 10
    copied = second.checkpoint(3)
    assert copied.manifest == first.checkpoint().manifest
    assert copied.verify() == []
    # The new run is one like any other: it is gone on with by its own directory.
    third = runner.run([f"+resume={second.directory}", "trainer.max_epochs=3"])
    assert third.directory == second.directory
    assert third.checkpoint().step == 15


def test_the_new_run_is_where_it_is_asked_to_be(short: Short, tmp_path: Path) -> None:
    pack(short("trainer.max_steps=3").checkpoint(), tmp_path / "x.zip")
    run = runner.run([f"+resume={tmp_path / 'x.zip'}", "trainer.max_steps=4", "hydra.run.dir=there"])
    assert run.directory == tmp_path / "there"
    assert run.checkpoint().step == 4


def test_nothing_is_left_of_a_new_run_that_is_refused(short: Short, tmp_path: Path) -> None:
    pack(short().checkpoint(), tmp_path / "x.zip")
    before = sorted(tmp_path.rglob("*"))
    for words, error, message in (
        (
            [],
            ConfigError,
            r"x\.zip: its run has finished \(max_epochs\), and nothing is left .* trainer\.max_epochs=11",
        ),
        (["model.hidden=[3]"], ResumeError, "the saved state may not fit another model"),
        (["trainer.max_epochs=no"], ConfigError, "trainer.max_epochs"),
    ):
        with pytest.raises(error, match=message):
            runner.run([f"+resume={tmp_path / 'x.zip'}", *words])
        assert sorted(tmp_path.rglob("*")) == before


def test_a_packed_file_from_somebody_else_is_not_trusted(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    (tmp_path / "mynets.py").write_text(
        "import torch\n\nclass Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n        return super().forward(x.flatten(1))\n"
    )
    own = ["model._target_=mynets.Net", "model.in_features=64", "+model.out_features=10"]
    pack(short(*own, "trainer.max_steps=1").checkpoint(), tmp_path / "x.zip")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("another")))
    for act in (runner.load, lambda path: runner.run([f"+resume={path}"])):
        with pytest.raises(runner.TrustError, match=r"x\.zip: .*mynets"):
            act(tmp_path / "x.zip")
