"""How encoded arguments read."""

import argparse
import enum
import functools
import math
import re
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from runner.config.as_python import as_python, short_name
from runner.config.decoding import missing
from runner.config.encoding import encode


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ([1, 0.5, "a'b", True], '[1, 0.5, "a\'b", True]'),
        ((), "()"),
        ((8,), "(8,)"),
        ((8, (8,)), "(8, (8,))"),
        ({"a": (1,)}, "{'a': (1,)}"),
        ({1: "a", None: ()}, "{1: 'a', None: ()}"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (Counter(a=1), "Counter({'a': 1})"),
        (range(3), "range(0, 3, 1)"),
        (slice(1, None), "slice(1, None, None)"),
        (Path("/a"), "Path('/a')"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**70, str(2**70)),
        (1 + 2j, "complex(1.0, 2.0)"),
        (b"\0a", "b'\\x00a'"),
        (torch.float16, "torch.float16"),
        (torch.device("cuda:1"), "torch.device('cuda:1')"),
        (torch.Size([2, 3]), "torch.Size([2, 3])"),
        (np.float32(0.5), "numpy.float32(0.5)"),
        (torch.zeros(2, 3), "<tensor of float32, (2, 3), #"),
        (nn.Parameter(torch.zeros(2)), "<parameter of float32, (2,), #"),
        (np.zeros(3, "i2"), "<array of int16, (3,), #"),
        (nn.ReLU, "torch.nn.ReLU"),
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (nn.functional.relu, "torch.nn.functional.relu"),
        (int, "int"),
        (nn.LeakyReLU(0.5), "torch.nn.LeakyReLU(negative_slope=0.5, inplace=False)"),
        (functools.partial(nn.Linear, 3, bias=False), "partial(torch.nn.Linear, 3, bias=False)"),
        (functools.partial(nn.Linear), "partial(torch.nn.Linear)"),
        (argparse.Namespace(a=1, b="x"), "Namespace(a=1, b='x')"),
        (OmegaConf.create({"a": 1}), "OmegaConf.create({'a': 1})"),
        (Color.RED, f"{Color.__module__}.Color.RED"),
    ],
)
def test_a_value_reads_as_it_was_typed(value: Any, text: str) -> None:
    # Of a tensor, a digest follows.
    assert re.sub("#[0-9a-f]{8}>", "#", as_python(encode(value))) == text


def test_tensors_with_other_numbers_read_differently() -> None:
    one, other = (as_python(encode(torch.tensor([number]))) for number in (1.0, 2.0))
    assert one != other
    assert one == as_python(encode(torch.tensor([1.0])))


def test_what_is_missing_reads_as_a_gap() -> None:
    assert as_python([1, missing("is a lambda")]) == "[1, ...]"


@pytest.mark.parametrize("form", [{"$": "x"}, {"$": ["tuple"]}, {"$": "tuple"}, {"$": "int", "hex": "x"}])
def test_what_nobody_has_encoded_stands_there_as_it_is(form: Any) -> None:
    assert as_python(form) == f"<{form!r}>"


def test_what_contains_itself_is_cut() -> None:
    form: list[Any] = []
    form.append(form)
    assert as_python(form) == "<nested deeper than 200 levels>"


def test_names_are_those_that_one_types() -> None:
    assert short_name("torch.nn.modules.activation.ReLU") == "torch.nn.ReLU"
    assert short_name("torch.optim.lr_scheduler.StepLR") == "torch.optim.lr_scheduler.StepLR"
    assert short_name("mynets.modules.Net") == "mynets.modules.Net"
