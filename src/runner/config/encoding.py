"""Arguments as plain JSON, exactly: what a file says of how an object was made. Nothing is pickled. Back: decoding.py.

What JSON has stands there as itself; everything else is an object with the key `$`: those of checkpoint/tree (tuple,
dict, float, dtype, device, ...), and

    tensor, array    a small one, its bytes among them
    set, frozenset, ordered, counter, path, range, slice, omegaconf, type (of Python's own), arguments (of argparse),
    namespace
    name             a class or function, by its import path     member      of an enum
    call             an object, by the call that makes it        partial     functools.partial
                     (of one that stands at several places: see sharing.py)
    missing          what cannot be stored, and why
"""

import argparse
import base64
import enum
import functools
import inspect
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from runner.checkpoint.contents import TAG
from runner.config.decoding import TYPES, may_interpolate, why_missing
from runner.config.sharing import kept_form

LARGEST_TENSOR = 256 * 1024
"""Bytes of the largest tensor that is an argument; a larger one is data, which belongs into the weights."""
CALL = "_runner_call"
"""The attribute in which an object keeps the call that made it."""
_DEPTH = 50
_TARGET = "_target_"
_POSITIONAL = "_args_"


class UnstorableError(Exception):
    """A value has no form; the message says what it is."""


def target_of(made: Any) -> str:
    """The import path of a class or function. One that was made in a function has `<locals>` in it."""
    return f"{made.__module__}.{made.__qualname__}"


def is_importable(target: str) -> bool:
    return all(part.isidentifier() for part in target.split("."))


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON form of a value. Raises UnstorableError."""
    if depth > _DEPTH:
        raise UnstorableError(f"is nested deeper than {_DEPTH} levels")
    kind = type(value)
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and not {TAG, _TARGET} & value.keys():
            return {key: encode(item, depth + 1) for key, item in value.items()}
        return {TAG: "dict", "items": _pairs(value, depth)}
    if kind in _MANY:
        return {TAG: _MANY[kind], "items": [encode(item, depth + 1) for item in value]}
    if kind in _MAPPINGS:
        return {TAG: _MAPPINGS[kind], "items": _pairs(value, depth)}
    if kind in _NAMESPACES:
        return {TAG: _NAMESPACES[kind], "value": encode(vars(value), depth + 1)}
    if kind is range or kind is slice:
        parts = (value.start, value.stop, value.step)
        return {TAG: kind.__name__, "items": [encode(part, depth + 1) for part in parts]}
    if kind.__module__.startswith("omegaconf."):
        return {TAG: "omegaconf", "value": encode(_container(value), depth)}
    if isinstance(value, PurePath):
        return {TAG: "path", "value": str(value)}
    if isinstance(value, enum.Enum):
        if value not in kind.__members__.values():
            raise UnstorableError(f"is {value!r}, several members in one")
        return {TAG: "member", "of": _name_of(kind), "value": value.name}
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return {TAG: "type", "name": value.__name__}
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return {TAG: "name", "value": _name_of(value)}
    if kind is functools.partial:
        rest = {_POSITIONAL: [encode(item, depth + 1) for item in value.args]}
        return {TAG: "partial", "of": _name_of(value.func), "arguments": _named(value.keywords, depth) | rest}
    return _encode_object(value, depth)


def _encode_object(value: Any, depth: int) -> Any:
    """A leaf, a tensor, or an object whose making is known."""
    from torch import Tensor, nn

    kind = type(value)
    if kind in (Tensor, nn.Parameter):
        return _tensor(value)
    if (kind.__module__, kind.__name__) == ("numpy", "ndarray"):
        return {**_tensor(_tensor_of(value)), TAG: "array"}
    call = vars(value).get(CALL) if hasattr(value, "__dict__") else None
    if isinstance(call, Mapping) and call.get(_TARGET) == target_of(kind):
        for name, inner in call.items():
            if (why := why_missing(inner)) is not None:
                raise UnstorableError(f"is {_one(kind)}, whose own {name!r} {why}")
        arguments = {name: inner for name, inner in call.items() if name != _TARGET}
        return kept_form(value, {TAG: "call", "of": _name_of(kind), "arguments": arguments})
    if is_dataclass(value) and not isinstance(value, nn.Module):
        lost = [one.name for one in fields(value) if one.init and not hasattr(value, one.name)]
        if lost:
            raise UnstorableError(f"is {_one(kind)} without its {lost[0]!r}")
        arguments = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        form = {TAG: "call", "of": _name_of(kind), "arguments": _named(arguments, depth)}
        if not _is_made_again(value, arguments, depth):
            raise UnstorableError(f"is {_one(kind)} that differs from what its own values make")
        return form
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields_of = dict(zip(value._fields, value, strict=True))
        return {TAG: "call", "of": _name_of(kind), "arguments": _named(fields_of, depth)}
    if isinstance(value, nn.Module):
        return {TAG: "call", "of": _name_of(kind), "arguments": _named(_of_plain_module(value), depth)}
    return _leaf(value)


def _is_made_again(value: Any, arguments: Mapping[str, Any], depth: int) -> bool:
    """Whether a dataclass makes the same of the values that it has now: it may change them, or have others beside."""
    kind = type(value)
    if inspect.signature(kind).parameters.keys() - arguments.keys():
        # It was given what it does not keep.
        return False
    if not hasattr(kind, "__post_init__") and all(one.init for one in fields(value)):
        return True
    try:
        again = kind(**arguments)
    except Exception as error:
        # A constructor may raise anything.
        raise UnstorableError(f"is {_one(kind)} that is not made again of its own values: {error}") from error
    return all(_comparable(again, one.name, depth) == _comparable(value, one.name, depth) for one in fields(value))


def _comparable(value: Any, name: str, depth: int) -> Any:
    try:
        return encode(getattr(value, name, None), depth + 1)
    except UnstorableError:
        return type(getattr(value, name))


def _named(arguments: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The arguments of a call by name; `_args_` is what its `*args` takes."""
    for name in arguments:
        if name in (_POSITIONAL, _TARGET, TAG):
            raise UnstorableError(f"has an argument called {name!r}")
    return {name: encode(value, depth + 1) for name, value in arguments.items()}


def _container(value: Any) -> Any:
    """A node of OmegaConf as plain containers: its interpolations as they are, where they lead to the same alone."""
    from omegaconf import Container, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(value, Container):
        raise UnstorableError(f"is {_described(value)}")
    plain = OmegaConf.to_container(value)
    if not may_interpolate(plain):
        raise UnstorableError("has an interpolation that calls a function")
    alone = OmegaConf.create(plain)
    try:
        resolved = OmegaConf.to_container(value, resolve=True)
        try:
            same = OmegaConf.to_container(alone, resolve=True) == resolved
        except OmegaConfBaseException:
            # It refers to what stands above it.
            same = False
        if not same and "${oc.env:" in str(plain):
            raise UnstorableError("has interpolations of the environment beside those of what stands above it")
    except OmegaConfBaseException as error:
        raise UnstorableError(f"is {_described(value)} with an interpolation that leads nowhere") from error
    return plain if same else resolved


def _leaf(value: Any) -> Any:
    from runner.checkpoint.tree import flatten

    try:
        form, tensors = flatten(value)
    except (TypeError, ValueError) as error:
        raise UnstorableError(f"is {_described(value)}") from error
    if tensors:
        raise UnstorableError(f"is {_described(value)}")
    return form


def _of_plain_module(module: Any) -> dict[str, Any]:
    """The arguments of one of torch's own modules without parameters: it keeps them under their own names."""
    kind = type(module)
    parameters = inspect.signature(kind).parameters.values()
    plain = kind.__module__.startswith("torch.nn.modules.") and not list(module.parameters()) and not module._modules
    kept = vars(module) | module._buffers
    arguments = {one.name: kept[one.name] for one in parameters if one.name in kept}
    # nn.Identity takes any, and keeps none.
    unknown = [
        one
        for one in parameters
        if one.name not in arguments
        and one.default is not None
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if not plain or unknown:
        raise UnstorableError(f"is {_described(module)}, and how it was made is not known")
    return arguments


def _tensor(value: Any) -> dict[str, Any]:
    import torch

    from runner.checkpoint.tensors import can_store

    tensor = value.detach()
    if not can_store(tensor) or tensor.is_nested or tensor.nbytes > LARGEST_TENSOR:
        raise UnstorableError(f"is {_described(value)}; wanted a dense one of at most {LARGEST_TENSOR // 1024} KiB")
    # Into a new one: what has one element counts as contiguous with any stride, and cannot be viewed then.
    plain = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor).flatten()
    raw = plain.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return {
        TAG: "tensor",
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "base64": base64.b64encode(raw).decode("ascii"),
        "parameter": isinstance(value, torch.nn.Parameter),
        "requires_grad": value.requires_grad,
    }


def _tensor_of(array: Any) -> Any:
    import torch

    try:
        return torch.from_numpy(array.copy(order="C"))
    except (TypeError, ValueError) as error:
        raise UnstorableError(f"is an array of {array.dtype}") from error


def _name_of(made: Any) -> str:
    """The import path of a class or function that can be found by it. Raises UnstorableError."""
    targets = [f"{getattr(made, '__module__', None)}.{getattr(made, '__qualname__', '')}"]
    if not isinstance(made, type) and targets[0].startswith("torch."):
        # Functions of torch know themselves by the names of what makes them.
        names = [name for name, value in vars(sys.modules["torch.nn.functional"]).items() if value is made]
        names.sort(key=lambda name: name.startswith("_"))
        targets = [*(f"torch.nn.functional.{name}" for name in names), *targets, f"torch.{made.__name__}"]
    found = [target for target in targets if is_importable(target) and _stands_for(target) is made]
    if not found:
        raise UnstorableError(f"is {_described(made)}, which has no name that it can be imported by")
    return found[0]


def _stands_for(target: str) -> Any:
    """What an import path names, of what is imported already; None where nothing is."""
    module, rest = target.rpartition(".")[0], [target.rpartition(".")[2]]
    while module and module not in sys.modules:
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    value: Any = sys.modules.get(module)
    for part in rest:
        value = getattr(value, part, None)
    return value


def _pairs(value: Mapping[Any, Any], depth: int) -> list[Any]:
    return [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]


def _described(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return "a lambda" if value.__name__ == "<lambda>" else f"the function {value.__qualname__}"
    if type(value).__name__ in ("Tensor", "Parameter") and type(value).__module__.startswith("torch"):
        return f"{_one(type(value))} of {value.dtype}" + ("" if value.is_nested else f", {tuple(value.shape)}")
    return f"the class {value.__qualname__}" if isinstance(value, type) else _one(type(value))


def _one(kind: type) -> str:
    return f"{'an' if kind.__name__[:1].lower() in set('aeio') else 'a'} {kind.__name__}"


_MANY: Mapping[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAPPINGS: Mapping[type, str] = {OrderedDict: "ordered", Counter: "counter"}
_NAMESPACES: Mapping[type, str] = {argparse.Namespace: "arguments", types.SimpleNamespace: "namespace"}
