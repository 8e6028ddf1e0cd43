"""Arguments out of plain JSON, exactly as they were: see encoding.py."""

import base64
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import TAG

Found = Callable[[str], Any]
"""Gives what an import path names."""
_POSITIONAL = "_args_"


@dataclass(frozen=True, slots=True)
class Missing:
    """An argument that could not be stored."""

    why: str


def missing(why: str) -> dict[str, Any]:
    """The form of what cannot be stored."""
    return {TAG: "missing", "why": why}


def is_missing(form: Any) -> bool:
    return isinstance(form, Mapping) and form.get(TAG) == "missing"


def is_call(form: Any) -> bool:
    return isinstance(form, Mapping) and form.get(TAG) == "call"


def names_in(form: Any, argument: str) -> Iterator[tuple[str, Any]]:
    """Every import path in an encoded value, outer ones first, with the argument of the outermost call that has it."""
    if isinstance(form, list):
        for item in form:
            yield from names_in(item, argument)
    elif isinstance(form, Mapping):
        key = _NAMED.get(form[TAG]) if isinstance(form.get(TAG), str) else None
        if key is not None:
            yield argument, form.get(key)
        for name, item in form.items():
            if not argument and is_call(form) and name == "arguments" and isinstance(item, Mapping):
                for own, inner in item.items():
                    yield from names_in(inner, own)
            else:
                yield from names_in(item, argument)


def decode(form: Any, found: Found) -> Any:
    """The value of an encoded form; `found` gives what an import path names. Raises ValueError for what is none."""
    if isinstance(form, list):
        return [decode(item, found) for item in form]
    if not isinstance(form, Mapping):
        return form
    if TAG not in form:
        return {key: decode(item, found) for key, item in form.items()}
    return _DECODERS.get(form[TAG], _of_tree)(form, found)


def _of_tree(form: Mapping[str, Any], _found: Found) -> Any:
    from runner.checkpoint.tree import unflatten

    return unflatten(dict(form), {})


def _decoded_tensor(form: Mapping[str, Any], _found: Found) -> Any:
    import torch

    dtype = getattr(torch, form["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{form['dtype']!r:.40} is no dtype")
    raw = bytearray(base64.b64decode(form["base64"], validate=True))
    empty = torch.empty(form["shape"], dtype=dtype, device="meta")
    if len(raw) != empty.nbytes:
        raise ValueError(f"a tensor of {form['shape']!r:.40} has {len(raw)} bytes")
    tensor = (
        torch.frombuffer(raw, dtype=dtype).reshape(form["shape"]) if raw else torch.empty(form["shape"], dtype=dtype)
    )
    return torch.nn.Parameter(tensor) if form.get("parameter") else tensor


def _called(form: Mapping[str, Any], found: Found) -> Any:
    arguments = decode(form["arguments"], found)
    return call(found(form["of"]), arguments)


def call(made: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call with arguments by name; those under `_args_` are what a `*args` takes."""
    rest = list(arguments.get(_POSITIONAL, ()))
    named = {name: value for name, value in arguments.items() if name != _POSITIONAL}
    first = []
    for one in inspect.signature(made).parameters.values():
        by_position = one.kind is one.POSITIONAL_ONLY or (rest and one.kind is one.POSITIONAL_OR_KEYWORD)
        if by_position and one.name in named:
            first.append(named.pop(one.name))
    return made(*first, *rest, **named)


def _partial(form: Mapping[str, Any], found: Found) -> Any:
    arguments = decode(form["arguments"], found)
    rest = arguments.pop(_POSITIONAL)
    return functools.partial(found(form["of"]), *rest, **arguments)


def _omegaconf(form: Mapping[str, Any], found: Found) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.create(decode(form["value"], found))


def _items(make: Callable[[Any], Any]) -> Callable[[Mapping[str, Any], Found], Any]:
    return lambda form, found: make(decode(form["items"], found))


_NAMED = {"name": "value", "call": "of", "partial": "of", "member": "of"}


_DECODERS: Mapping[str, Callable[[Mapping[str, Any], Found], Any]] = {
    "tuple": _items(tuple),
    "set": _items(set),
    "frozenset": _items(frozenset),
    "dict": _items(dict),
    "ordered": _items(OrderedDict),
    "range": _items(lambda parts: range(*parts)),
    "slice": _items(lambda parts: slice(*parts)),
    "path": lambda form, _: Path(form["value"]),
    "omegaconf": _omegaconf,
    "name": lambda form, found: found(form["value"]),
    "member": lambda form, found: found(form["of"])[form["value"]],
    "call": _called,
    "partial": _partial,
    "tensor": _decoded_tensor,
    "array": lambda form, found: _decoded_tensor(form, found).numpy(),
    "missing": lambda form, _: Missing(form["why"]),
}
