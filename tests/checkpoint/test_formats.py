"""A checkpoint of every format that was ever written, made by the code that first wrote it, stays readable for ever."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint.archive import unpack
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import FORMAT
from runner.records import Progress

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS = sorted(FIXTURES.glob("format-*"))
PACKED = sorted(path for path in FIXTURES.glob("format-*/*.*") if path.suffix in (".zip", ".pt"))


def lines_of_values() -> Callable[[Any], Iterator[str]]:
    spec = importlib.util.spec_from_file_location("values", FIXTURES / "values.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines: Callable[[Any], Iterator[str]] = module.lines
    return lines


def test_there_is_a_checkpoint_of_every_format() -> None:
    assert [path.name for path in FORMATS] == [f"format-{number}" for number in range(1, FORMAT + 1)]
    assert [Checkpoint.open(path / "run").manifest.format for path in FORMATS] == list(range(1, FORMAT + 1))
    assert {path.name for path in PACKED} == {"packed.zip", "compressed.zip", "packed.pt"}


@pytest.mark.parametrize("fixture", FORMATS, ids=lambda path: path.name)
def test_a_checkpoint_of_an_older_format_is_whole_and_every_value_in_it_is_read(fixture: Path) -> None:
    checkpoint = Checkpoint.open(fixture / "run")
    assert checkpoint.verify() == []
    expected = (fixture / "values.txt").read_text(encoding="utf-8").splitlines()
    assert list(lines_of_values()(checkpoint.state())) == expected
    tensors = checkpoint.tensors()
    assert tensors["tied.weight"] is tensors["head.weight"]
    assert torch.equal(tensors["head.weight"], checkpoint.state()["model"]["head.weight"])


@pytest.mark.parametrize("fixture", PACKED, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_packed_checkpoint_of_an_older_format_holds_every_byte_of_it(fixture: Path, tmp_path: Path) -> None:
    packed = Checkpoint.open(fixture)
    assert packed.verify() == []
    assert packed.tags == ("kept",)
    expected = (fixture.parent / "values.txt").read_text(encoding="utf-8").splitlines()
    assert list(lines_of_values()(packed.state())) == expected
    original = Checkpoint.open(fixture.parent / "run").path
    unpacked = unpack(fixture, tmp_path / "unpacked").path
    assert {path.name: path.read_bytes() for path in unpacked.iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }


@pytest.mark.parametrize("fixture", FORMATS, ids=lambda path: path.name)
def test_what_a_checkpoint_of_an_older_format_says_about_itself_is_read(fixture: Path) -> None:
    checkpoint = Checkpoint.open(fixture / "run", "best")
    manifest = checkpoint.manifest
    assert checkpoint.progress == Progress(step=4, epoch=1, batch=0, samples=16, evaluated_step=4)
    assert checkpoint.reasons == ("every_epochs", "improvement", "end")
    assert {name: round(value, 4) for name, value in checkpoint.metrics.items()} == {
        "loss": 0.6717,
        "lr": 0.0,
        "val_loss": 0.6677,
        "val_accuracy": 0.625,
    }
    assert (manifest.generation, manifest.parent, manifest.facts["host"]) == (1, None, "fixture")
    assert checkpoint.config["model"] == {"_target_": "tiny.Tiny"}
    assert "trainer.ema_decay=0.5" in checkpoint.overrides
    assert checkpoint.document("config.yaml").startswith(b"name: fixture\n")
