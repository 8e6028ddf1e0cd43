import json
import math
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner.checkpoint.contents import EXTRA, FROZEN, MODEL, OPTIMIZER
from runner.checkpoint.parts import FROZEN_FROM_BYTES, put_together, take_apart
from runner.checkpoint.tree import flatten, references, unflatten
from runner.errors import DamagedError

WHERE = Path("step-000000001/state.json")


def through_json(tree: Any) -> Any:
    value, tensors = flatten(tree)
    return unflatten(json.loads(json.dumps(value, allow_nan=False)), tensors)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        0,
        -(2**63),
        2**63,
        -(10**6000),
        1.0,
        -0.0,
        5e-324,
        math.nan,
        math.inf,
        -math.inf,
        complex(-0.0, math.nan),
        "",
        "größe \x00 \ud800 😀",
        b"",
        bytes(range(256)),
        [],
        (),
        {},
        [1, [2, (3, [4])]],
        {"b": 1, "a": 2},
        {1: "int", "1": "text", (1, ("x", None)): "tuple", False: "bool"},
        {None: 1, 2.5: 2, b"k": 3},
        {"$": "not a tag", "x": {"$": {"$": 1}}},
        torch.float8_e4m3fn,
        torch.bits8,
        torch.device("cuda", 3),
        torch.device("cpu"),
        torch.Size([]),
        torch.Size([2, 0]),
        random.Random(0).getstate(),
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_values_come_back_exactly(tree: Any, same: Callable[[Any, Any], bool]) -> None:
    assert same(through_json(tree), tree)


def test_an_ordered_dict_becomes_a_dict_in_the_same_order() -> None:
    assert list(through_json(OrderedDict(b=1, a=2)).items()) == [("b", 1), ("a", 2)]


def test_a_counter_as_torchs_multi_step_scheduler_keeps_one_becomes_a_dict() -> None:
    assert list(through_json({"milestones": Counter([3, 2, 3])})["milestones"].items()) == [(3, 2), (2, 1)]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "uint64", "float16", "float32", "float64", "complex128"])
def test_numpy_arrays_and_numbers_come_back_as_numpy(dtype: str) -> None:
    for array in (
        np.arange(6).reshape(2, 3).astype(dtype),
        np.array(3, dtype=dtype),
        np.zeros((2, 0), dtype=dtype),
        np.arange(6).astype(dtype)[::2],
        np.arange(6).reshape(2, 3).astype(dtype).T,
    ):
        back = through_json({"x": array})["x"]
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert np.array_equal(back, array)
    number = np.dtype(dtype).type(1)
    assert type(through_json(number)) is type(number)
    assert through_json(number) == number


def test_a_numpy_array_of_the_other_byte_order_comes_back_with_its_values() -> None:
    assert through_json(np.array([1, 2], dtype=">i4")).tolist() == [1, 2]


def test_numpy_generators_come_back(same: Callable[[Any, Any], bool]) -> None:
    state: Any = np.random.RandomState(1).get_state()
    back = through_json(state)
    assert np.array_equal(back[1], state[1])
    one, other = np.random.RandomState(5), np.random.RandomState(6)
    one.set_state(back)
    other.set_state(state)
    assert one.bytes(8) == other.bytes(8)
    modern = np.random.default_rng(1).bit_generator.state
    assert same(through_json(modern), modern)


def test_tensor_names_are_the_readable_paths() -> None:
    tree = {"layers.0.weight": torch.ones(1), "groups": [{"x": (torch.ones(2),)}], 3: torch.ones(3)}
    assert list(flatten(tree)[1]) == ["layers.0.weight", "groups.0.x.0", "3"]
    assert list(flatten(torch.ones(1))[1]) == ["value"]


def test_names_that_meet_stay_apart(same: Callable[[Any, Any], bool]) -> None:
    tree: dict[Any, Any] = {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "__metadata__": torch.ones(2),
        "a.b#2": torch.ones(3),
        "\ud800": torch.ones(4),
        1: torch.ones(5),
        "1": torch.ones(6),
    }
    _, tensors = flatten(tree)
    assert len(tensors) == 7
    assert "__metadata__" not in tensors
    assert same(through_json(tree), tree)


def test_tied_tensors_are_stored_once_and_come_back_tied() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    tree = {"embed": weight, "head": weight.data, "view": weight.data[:2], "turned": weight.data.T}
    value, tensors = flatten(tree)
    assert list(tensors) == ["embed", "view", "turned"]
    back = unflatten(value, tensors)
    assert back["head"] is back["embed"]
    assert references(value) == {"embed": "embed", "head": "embed", "view": "view", "turned": "turned"}


def test_empty_tensors_and_views_of_another_dtype_are_not_taken_for_tied() -> None:
    base = torch.ones(4)
    tree = {"a": torch.empty(0), "b": torch.empty(0), "c": base, "d": base.view(torch.int32), "e": base.view(2, 2)}
    assert len(flatten(tree)[1]) == 5
    conjugate = torch.ones(2, dtype=torch.complex64)
    assert len(flatten([conjugate, conjugate.conj()])[1]) == 2


class Strange:
    pass


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Strange(), "state['model.x.1'] is a test_tree.Strange, which a checkpoint cannot hold; wanted tensors,"),
        ({1, 2}, "state['model.x.1'] is a builtins.set"),
        (defaultdict(int), "state['model.x.1'] is a collections.defaultdict"),
        (Pair(1, 2), "state['model.x.1'] is a test_tree.Pair"),
        (Path("x"), "state['model.x.1'] is a pathlib."),
        (torch.ones(2).to_sparse(), "state['model.x.1'] is a tensor of torch.float32, torch.sparse_coo, on cpu"),
        (torch.ones(2, device="meta"), "torch.strided, on meta, which a checkpoint cannot hold; wanted a dense"),
        (np.array(["a"]), "state['model.x.1'] is a ndarray of <U1"),
        (np.array([None]), "state['model.x.1'] is a ndarray of object"),
        (np.datetime64("2026"), "state['model.x.1'] is a numpy datetime64"),
        (np.longdouble(1), "state['model.x.1'] is a numpy "),
    ],
)
def test_what_has_no_form_is_refused_naming_its_place(value: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        flatten({"model": {"x": [0, value]}})
    assert message in str(caught.value).replace("checkpoint.test_tree", "test_tree").replace("tests.", "")


def test_a_tree_that_holds_itself_is_refused() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(ValueError, match="nested deeper than 100 levels at state"):
        flatten(tree)


def test_absurd_depth_in_a_file_is_damage() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    for read in (lambda: unflatten(value, {}), lambda: references(value)):
        with pytest.raises(DamagedError, match="nested deeper than 100 levels"):
            read()


@pytest.mark.parametrize(
    "value",
    [
        {"$": "pickle", "data": "x"},
        {"$": None},
        {"$": ["tensor"]},
        {"$": "tensor"},
        {"$": "tensor", "name": ["x"]},
        {"$": "tensor", "name": "lost"},
        {"$": "array", "name": "half"},
        {"$": "bytes", "base64": "???"},
        {"$": "bytes", "base64": "\u00e9"},
        {"$": "int", "hex": "zz"},
        {"$": "float", "value": "1"},
        {"$": "tuple", "items": 5},
        {"$": "dict", "items": [[1, 2, 3]]},
        {"$": "dict", "items": [[[], 2]]},
        {"$": "dtype", "name": "__loader__"},
        {"$": "device", "name": "moon"},
        {"$": "size", "lengths": [2**80]},
        {"$": "complex", "parts": [1]},
        {"$": "number", "dtype": "O", "value": 1},
        {"$": "number", "dtype": "int8", "value": 1000},
        {"$": "number", "dtype": "float32", "value": [1]},
    ],
    ids=str,
)
def test_what_flatten_cannot_have_made_is_damage(value: Any) -> None:
    with pytest.raises(DamagedError, match="the state "):
        unflatten({"x": [value]}, {"half": torch.ones(1, dtype=torch.bfloat16)})


def test_changed_trees_are_read_or_refused_but_nothing_else_happens() -> None:
    state: dict[Any, Any] = {
        "model": {"w": torch.ones(2)},
        "a": (1, 2.5, b"x", math.nan),
        "n": np.float32(1),
        5: {3: torch.Size([1])},
    }
    value, tensors = flatten(state)
    text = json.dumps(value)
    draw = random.Random(0)
    pieces = ['"$"', '"tensor"', "[", "]", "{", "}", "null", "-1", "1e999", '"items"', ",", ":", '"name"', "7"]
    for _ in range(3000):
        at = draw.randrange(len(text))
        broken = text[:at] + draw.choice(pieces) + text[at + draw.randrange(4) :]
        try:
            put_together(b'{"format": 1, "state": {"rest": ' + broken.encode() + b"}}", {EXTRA: tensors}, WHERE)
        except DamagedError as error:
            assert str(WHERE) in str(error)


def test_each_part_of_a_state_has_its_file() -> None:
    half = torch.ones(FROZEN_FROM_BYTES // 8)
    model = {"a": half, "b": half + 1, "head": torch.ones(2), "tied": half}
    state = {"model": model, "optimizer": {"m": torch.ones(1)}, "rng": {"torch": torch.ones(3)}, "step": 7}
    found = take_apart(state, frozen=["a", "b", "not there"])
    assert {file: list(tensors) for file, tensors in found.tensors.items()} == {
        MODEL: ["head"],
        FROZEN: ["a", "b"],
        OPTIMIZER: ["m"],
        EXTRA: ["rng.torch"],
    }
    back = put_together(found.text(), found.tensors, WHERE)
    assert list(back) == ["model", "optimizer", "rng", "step"]
    assert back["model"]["tied"] is back["model"]["a"]


def test_little_that_is_frozen_gets_no_file() -> None:
    found = take_apart({"model": {"a": torch.ones(FROZEN_FROM_BYTES // 4 - 1)}}, frozen=["a"])
    assert list(found.tensors) == [MODEL]


def test_strange_keys_of_a_state_are_refused() -> None:
    strange: list[dict[Any, Any]] = [{5: 1}, {"$": 1}]
    for state in strange:
        with pytest.raises(TypeError, match="wanted a word, such as 'model'"):
            take_apart(state, frozen=())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"format": "2", "state": {}}', b'{"format": 1, "state": 3}', b"[" * 99999]
)
def test_a_text_that_is_no_state_is_damage(text: bytes) -> None:
    with pytest.raises(DamagedError, match=r"state\.json: is "):
        put_together(text, {}, WHERE)
