"""Objects that are handed over twice are one object again, and others are not."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import runner
from runner import ModelContainer, save_load
from runner.config.calls import build_value
from runner.config.sharing import numbered
from runner.errors import DamagedError


@save_load()
class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Linear(width, width)


@save_load()
class Side(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding


@save_load()
class Pair(nn.Module):
    def __init__(self, one: Any, other: Any) -> None:
        super().__init__()
        self.one, self.other = one, other
        self.parts = nn.ModuleList(other if isinstance(other, list) else [])


def again(model: Any, path: Path) -> Any:
    model.save(path)
    return runner.load(path, trust=[__name__])


def test_a_module_that_is_handed_over_twice_is_one_again(tmp_path: Path) -> None:
    one = Embedding(2)
    model = again(Pair(one, one), tmp_path / "net.pt")
    assert model.one is model.other
    two = again(Pair(one, Embedding(2)), tmp_path / "net.pt")
    assert two.one is not two.other
    assert "shared" not in json.dumps(runner.Checkpoint.open(tmp_path / "net.pt").config)


def test_what_stands_within_two_arguments_is_one_again(tmp_path: Path) -> None:
    embedding = Embedding(2)
    model = again(Pair(Side(embedding), [Side(embedding), embedding]), tmp_path / "net.pt")
    assert model.one.embedding is model.parts[0].embedding is model.parts[1]
    assert model.one is not model.parts[0]
    # And once more, of what was loaded.
    model = again(model, tmp_path / "net.pt")
    assert model.one.embedding is model.parts[0].embedding is model.parts[1]


def test_a_copy_is_another_object_in_which_the_same_are_one(tmp_path: Path) -> None:
    side = Side(Embedding(2))
    model = again(Pair(side, copy.deepcopy(side)), tmp_path / "net.pt")
    assert model.one.embedding is not model.other.embedding
    for copied in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):  # noqa: S301
        pair = again(copied(Pair(side, side)), tmp_path / "net.pt")
        assert pair.one is pair.other


def test_a_container_keeps_what_is_one_through_a_second_save(tmp_path: Path) -> None:
    one, container = Embedding(2), ModelContainer()
    container.initialize(Pair, {"one": one, "other": one})
    path = container.save(tmp_path)
    for _ in range(2):
        container = ModelContainer()
        model: Any = container.load(path, Pair, trust=[__name__])[1].model
        assert model.one is model.other
        path = container.save(tmp_path)


def test_numbers_that_are_there_stay_and_others_follow() -> None:
    form = {"$": "call", "of": "torch.nn.ReLU", "arguments": {}}
    was = {**form, "shared": 3}
    config = numbered({"a": form, "b": [form, was], "c": {**was}})
    assert config == {"a": {**form, "shared": 4}, "b": [{**form, "shared": 4}, was], "c": was}
    assert "shared" not in form


@pytest.mark.parametrize("number", ["1", [1], True, 1.5, {}])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    form = {"$": "call", "of": "torch.nn.ReLU", "arguments": {}, "shared": number}
    with pytest.raises(DamagedError, match=r"shared is .*; wanted a number"):
        build_value([form], where=Path("net.pt"), path="value")


def test_forms_with_one_number_are_one_object() -> None:
    form = {"$": "call", "of": "torch.nn.ReLU", "arguments": {}, "shared": 1}
    first, second, third = build_value([form, form, {**form, "shared": 2}], where=Path("net.pt"), path="value")
    assert first is second
    assert third is not first
    assert torch.equal(first(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0]))
