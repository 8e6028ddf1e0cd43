"""Arguments as plain JSON and back: exactly what they were, or a reason why not."""

import argparse
import ctypes
import enum
import functools
import io
import json
import math
import operator
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import DictConfig, OmegaConf
from torch import nn

from runner.config.calls import build_value
from runner.config.encoding import CALL, LARGEST_TENSOR, UnstorableError, encode, target_of
from runner.errors import TrustError

HERE = Path("/somewhere/net.pt")


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Options:
    width: int
    sizes: tuple[int, ...] = (8, 8)
    derived: int = field(default=0, init=False)


class Pair(NamedTuple):
    left: float
    right: Any


class Squash(nn.Module):
    """Keeps the call that made it, as a door would have it."""

    def __init__(self, by: float) -> None:
        super().__init__()
        setattr(self, CALL, {"_target_": target_of(Squash), "by": by})
        self.by = by


def double(x: Any) -> Any:
    return x * 2


@pytest.fixture
def back() -> Callable[[Any], Any]:
    """`back(value)`: the value through JSON, by somebody who trusts this module."""

    def back(value: Any) -> Any:
        form = json.loads(json.dumps(encode(value), allow_nan=False))
        return build_value(form, where=HERE, path="argument", trust=[__name__])

    return back


PLAIN: dict[str, Any] = {
    "nothing": None,
    "truth": True,
    "a number": 3,
    "a large number": -(2**80),
    "a real number": 0.1,
    "minus zero": -0.0,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "the least number": 5e-324,
    "a complex number": complex(1, -0.0),
    "text": "ä\n\x00 \ud800 ${x}",
    "bytes": b"\x00\xff",
    "a list": [1, [2.0, "x"], []],
    "a tuple": (1, (2, [3]), ()),
    "a mapping": {"b": 1, "a": {"c": None}},
    "a mapping with other keys": {1: "a", (2, 3): "b", None: "c", 1.5: "d", False: "e"},
    "a mapping that looks like a node": {"_target_": "os.system", "command": "true"},
    "a mapping that looks like a form": {"$": "call", "of": "os.system"},
    "an ordered mapping": OrderedDict([("b", 1), (2, 3)]),
    "a counter": Counter({"a": 2, 3: 1}),
    "a set": {1, 2, (3, "x")},
    "a frozen set": frozenset({"a"}),
    "a range": range(3, -10, -2),
    "a slice": slice(None, 5, 2),
    "a path": Path("/data/x"),
    "arguments": argparse.Namespace(lr=0.1, sizes=(1, 2)),
    "a namespace": types.SimpleNamespace(a=1, b=types.SimpleNamespace(c=(2,))),
    "a dtype": torch.bfloat16,
    "a device": torch.device("cuda", 3),
    "a size": torch.Size([2, 0, 3]),
    "a number of numpy": np.float32(0.1),
    "a whole number of numpy": np.uint64(2**64 - 1),
    "a member of an enum": Color.BLUE,
    "a flag": Access.READ,
    "a whole number of an enum": Level.LOW,
    "a dataclass": Options(3, (1,)),
    "a named tuple": Pair(1.0, Pair(2.0, (None,))),
    "a class": nn.GELU,
    "a class of Python's own": float,
    "the class of None": type(None),
    "a function": double,
    "a function of torch": torch.tanh,
    "a function of torch in C++": F.gelu,
    "a function of torch with a private twin": F.threshold,
    "a function of torch that chooses": F.max_pool2d,
    "a function that initializes": nn.init.xavier_uniform_,
    "a function of math": math.sqrt,
    "a config": OmegaConf.create({"width": 3, "double": "${width}", "home": "${oc.env:HOME}", "lost": "???"}),
    "a list of a config": OmegaConf.create([1, {"a": 2, "b": "${.a}"}]),
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN.keys())
def test_a_value_comes_back_exactly(value: Any, back: Callable[[Any], Any]) -> None:
    again = back({"it": value})["it"]
    assert type(again) is type(value)
    assert again == value
    assert repr(again) == repr(value)


def test_nan_comes_back(back: Callable[[Any], Any]) -> None:
    assert math.isnan(back(math.nan))
    assert math.isnan(back(np.float64("nan")))


def test_the_order_of_a_mapping_is_kept(back: Callable[[Any], Any]) -> None:
    assert list(back({"b": 1, "a": 2})) == ["b", "a"]
    assert list(back({2: 1, 1: 2})) == [2, 1]


def test_a_change_after_it_was_stored_does_not_show() -> None:
    value = {"sizes": [1, 2]}
    form = encode(value)
    value["sizes"].append(3)
    assert form == {"sizes": [1, 2]}


TENSORS = {
    "numbers": torch.tensor([0.1, -0.0, math.nan, math.inf]),
    "one number": torch.tensor(3),
    "nothing": torch.empty(3, 0),
    "rows that lie apart": torch.arange(12.0).reshape(3, 4).T,
    "truths": torch.tensor([True, False]),
    "half": torch.tensor([0.1], dtype=torch.float16),
    "bfloat16": torch.tensor([[0.1]], dtype=torch.bfloat16),
    "float8": torch.tensor([1.5, 2.0]).to(torch.float8_e4m3fn),
    "uint16": torch.tensor([65535], dtype=torch.uint16),
    "complex": torch.tensor([1 + 2j]),
    "complex and conjugated": torch.tensor([1 + 2j]).conj(),
    "negative in name": torch.tensor([1 + 2j]).conj().imag,
    "with a gradient": torch.ones(2, requires_grad=True),
    "a parameter": nn.Parameter(torch.ones(2)),
    "a frozen parameter of whole numbers": nn.Parameter(torch.tensor([1, 2]), requires_grad=False),
}


@pytest.mark.parametrize("value", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_comes_back_exactly(value: torch.Tensor, back: Callable[[Any], Any]) -> None:
    again = back(value)
    assert type(again) is type(value)
    assert (again.dtype, again.shape, again.requires_grad) == (value.dtype, value.shape, value.requires_grad)
    if value.numel():
        bits = [torch.empty(one.shape, dtype=one.dtype).copy_(one.detach()).flatten() for one in (again, value)]
        assert torch.equal(bits[0].view(torch.uint8), bits[1].view(torch.uint8))


@pytest.mark.parametrize(
    "value",
    [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(2)), np.array(1.5, dtype=np.float32), np.zeros((0, 2), bool)],
)
def test_an_array_comes_back_exactly(value: Any, back: Callable[[Any], Any]) -> None:
    again = back(value)
    assert type(again) is np.ndarray
    assert (again.dtype, again.shape) == (value.dtype, value.shape)
    assert np.array_equal(again, value)


def test_a_partial_comes_back(back: Callable[[Any], Any]) -> None:
    again = back(functools.partial(nn.Linear, 3, bias=False, dtype=torch.float64))
    assert (again.func, again.args) == (nn.Linear, (3,))
    assert again.keywords == {"bias": False, "dtype": torch.float64}


MODULES = {
    **{
        "relu": nn.ReLU(inplace=True),
        "leaky": nn.LeakyReLU(0.2),
        "dropout": nn.Dropout(0.3),
        "softmax": nn.Softmax(-1),
    },
    **{
        "identity": nn.Identity(),
        "flatten": nn.Flatten(2),
        "pool": nn.MaxPool2d(2, padding=1),
        "gelu": nn.GELU("tanh"),
    },
    **{"tanh": nn.Tanh(), "upsample": nn.Upsample(scale_factor=2.0), "threshold": nn.Threshold(0.1, 20)},
    **{"loss": nn.CrossEntropyLoss(label_smoothing=0.1), "huber": nn.HuberLoss(delta=2.0)},
}


@pytest.mark.parametrize("value", MODULES.values(), ids=MODULES.keys())
def test_a_module_of_torch_without_weights_comes_back(value: nn.Module, back: Callable[[Any], Any]) -> None:
    again = back(value)
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    plain = {name: one for name, one in vars(value).items() if not name.startswith("_")}
    assert {name: vars(again)[name] for name in plain} == plain


def test_the_weights_of_a_loss_come_back(back: Callable[[Any], Any]) -> None:
    again = back(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
    assert torch.equal(again.weight, torch.tensor([1.0, 2.0]))


def test_an_object_that_knows_its_call_comes_back(back: Callable[[Any], Any]) -> None:
    assert back([Squash(0.5)])[0].by == 0.5


def test_a_part_of_a_config_means_the_same_without_what_stands_above_it(back: Callable[[Any], Any]) -> None:
    config = OmegaConf.create({"width": 3, "model": {"hidden": "${width}", "own": "${.hidden}"}})
    again = back(config.model)
    assert isinstance(again, DictConfig)
    assert (again.hidden, again.own) == (3, 3)


def here() -> Any:
    class Inner:
        pass

    return Inner


class Holder:
    def method(self) -> None: ...


class Odd(nn.Parameter):
    pass


class Mine(nn.Module):
    pass


UNSTORABLE: dict[str, tuple[Any, str]] = {
    "a lambda": (lambda x: x, "is a lambda, which has no name that it can be imported by"),
    "a function in a function": (
        functools.wraps(here)(lambda: None),
        "is the function here, which has no name that it can be imported by",
    ),
    "a class in a function": (here(), "is the class here.<locals>.Inner, which has no name that it can be imported by"),
    "a method": (Holder().method, "is a method"),
    "an object": (Holder(), "is a Holder"),
    "something open": (io.TextIOWrapper(io.BytesIO()), "is a TextIOWrapper"),
    "a generator": (torch.Generator(), "is a Generator"),
    "a large tensor": (
        torch.zeros(LARGEST_TENSOR + 1, dtype=torch.uint8),
        "is a Tensor of torch.uint8, (262145,); wanted a dense one of at most 256 KiB",
    ),
    "a tensor without values": (
        torch.empty(2, device="meta"),
        "is a Tensor of torch.float32, (2,); wanted a dense one of at most 256 KiB",
    ),
    "a sparse tensor": (
        torch.eye(2).to_sparse(),
        "is a Tensor of torch.float32, (2, 2); wanted a dense one of at most 256 KiB",
    ),
    "a parameter without a shape": (nn.LazyLinear(2).weight, "is a UninitializedParameter"),
    "a parameter of a kind of its own": (Odd(torch.ones(1)), "is an Odd"),
    "an array of texts": (np.array(["a"]), "is an array of <U1"),
    "an array of foreign byte order": (np.array([1], ">i4"), "is an array of >i4"),
    "a matrix": (np.ma.array([1.0]), "is a MaskedArray"),
    "a function of numpy": (np.tanh, "is a ufunc"),
    "dots": (..., "is an ellipsis"),
    "a mapping with a default": (defaultdict(list), "is a defaultdict"),
    "a queue": (deque([1]), "is a deque"),
    "a view of a mapping": (types.MappingProxyType({}), "is a mappingproxy"),
    "several members in one": (Access.READ | Access.WRITE, "is <Access.READ|WRITE: 3>, several members in one"),
    "a module with weights": (nn.Linear(1, 1), "is a Linear, and how it was made is not known"),
    "a module of modules": (nn.Sequential(nn.ReLU()), "is a Sequential, and how it was made is not known"),
    "a module of one's own": (Mine(), "is a Mine, and how it was made is not known"),
    "a function of C": (ctypes.CDLL(None).getpid, "is a _FuncPtr"),
    "a partial of a lambda": (
        functools.partial(lambda x: x, 1),
        "is a lambda, which has no name that it can be imported by",
    ),
    "a partial with a name that means something else": (
        functools.partial(double, _target_="x"),
        "has an argument called '_target_'",
    ),
    "a config that calls something": (
        OmegaConf.create({"a": "${now:%Y}"}),
        "has an interpolation that calls a function",
    ),
    "a config that leads nowhere": (
        OmegaConf.create({"a": "${b}"}),
        "is a DictConfig with an interpolation that leads nowhere",
    ),
    "a part of a config with the environment in it": (
        OmegaConf.create({"b": 1, "a": {"c": "${b}", "d": "${oc.env:HOME}"}}).a,
        "has interpolations of the environment beside those of what stands above it",
    ),
}


@pytest.mark.parametrize(("value", "reason"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
def test_what_cannot_be_stored_says_what_it_is(value: Any, reason: str) -> None:
    with pytest.raises(UnstorableError) as caught:
        encode([value])
    assert str(caught.value) == reason


def test_a_list_in_itself_cannot_be_stored() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnstorableError, match=r"^is nested deeper than 50 levels$"):
        encode(value)


def test_the_deepest_value_that_is_stored_comes_back(back: Callable[[Any], Any]) -> None:
    value: Any = ()
    for _ in range(24):
        value = {1: (value,)}
    assert back(value) == value


def test_an_object_that_was_made_with_what_cannot_be_stored_says_so() -> None:
    made = Squash(1.0)
    setattr(made, CALL, {"_target_": target_of(Squash), "_args_": [1, {"$": "missing", "why": "is a lambda"}]})
    with pytest.raises(UnstorableError, match=r"^is a Squash, whose own '_args_' is a lambda$"):
        encode(made)


@dataclass
class Doubling:
    width: int

    def __post_init__(self) -> None:
        self.width *= 2


@dataclass
class Gathering:
    width: int
    found: list[int] = field(init=False, default_factory=list)


@dataclass
class Handed:
    width: int
    depth: InitVar[int] = 1


def test_a_dataclass_that_is_not_made_again_of_its_values_says_so() -> None:
    gathering = Gathering(1)
    assert encode(gathering)["arguments"] == {"width": 1}
    gathering.found.append(3)
    assert encode(Doubling(0))["arguments"] == {"width": 0}
    for value in (Doubling(1), gathering, Handed(1, 2)):
        with pytest.raises(UnstorableError, match=r"is a \w+ that differs from what its own values make"):
            encode(value)


def test_a_dataclass_that_lost_a_field_says_so() -> None:
    made = Options(1)
    object.__delattr__(made, "width")
    with pytest.raises(UnstorableError, match=r"^is an Options without its 'width'$"):
        encode(made)


def test_a_function_that_is_not_on_the_list_is_asked_about(back: Callable[[Any], Any]) -> None:
    with pytest.raises(TrustError, match=r"'_operator.add' is not trusted"):
        back(operator.add)
