"""Arguments out of plain JSON, exactly as they were: see encoding.py.

A file may be anybody's. What is looked up by a name has passed the gate before; nothing else here calls anything that a
file chooses, or makes much out of little.
"""

import argparse
import base64
import enum
import functools
import inspect
import types
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import TAG
from runner.config.sharing import Found
from runner.errors import DamagedError
from runner.trust import is_harmless

TYPES: Mapping[str, type] = {
    one.__name__: one
    for one in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, object, type(None))
}
"""Python's own, which are arguments as they are."""
_POSITIONAL = "_args_"
_DEPTH = 200
"""Of the JSON; that of encoding.py's deepest value is less."""
_LARGEST = 2 * 10**6
"""Values in a form: one out of a pickle can refer to one part from many places, which is more than it looks."""


class CallError(Exception):
    """What is called for an argument raises; the message says what."""


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


def check_extent(form: Any) -> None:
    """Raise ValueError for a form that is deeper or larger than any that is written."""
    pending, count = [(form, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > _DEPTH:
            raise ValueError(f"nested deeper than {_DEPTH} levels")
        if isinstance(value, Mapping | list):
            count += len(value)
            inner = value.values() if isinstance(value, Mapping) else value
            pending += [(one, depth + 1) for one in inner if isinstance(one, Mapping | list)]
        if count > _LARGEST:
            raise ValueError(f"more than {_LARGEST} values")


def why_missing(form: Any) -> str | None:
    """Why a value, or something in it, could not be stored; None where all is there."""
    if is_missing(form):
        return str(form.get("why"))
    inner = form.values() if isinstance(form, Mapping) else form if isinstance(form, list) else ()
    return next((why for one in inner if (why := why_missing(one)) is not None), None)


def names_in(form: Any, argument: str | None = None) -> Iterator[tuple[str | None, Any]]:
    """Every import path in an encoded value, outer ones first, with the argument of the outermost call that has it.

    None stands for what is outermost itself: any text may be the name of an argument.
    """
    if isinstance(form, list):
        for item in form:
            yield from names_in(item, argument or "")
    elif isinstance(form, Mapping):
        key = _NAMED.get(form[TAG]) if isinstance(form.get(TAG), str) else None
        if key is not None:
            yield argument, form.get(key)
        for name, item in form.items():
            if argument is None and is_call(form) and name == "arguments" and isinstance(item, Mapping):
                for own, inner in item.items():
                    yield from names_in(inner, own)
            else:
                yield from names_in(item, argument or "")


def called_in(form: Any) -> Iterator[str]:
    """The import paths in an encoded value that are called when it is decoded."""
    if isinstance(form, list):
        for item in form:
            yield from called_in(item)
    elif isinstance(form, Mapping):
        if is_call(form) and isinstance(form.get("of"), str):
            yield form["of"]
        for item in form.values():
            yield from called_in(item)


def decode(form: Any, found: Found) -> Any:
    """The value of an encoded form; `found` gives what an import path names. Raises ValueError for what is none."""
    if isinstance(form, list):
        return [decode(item, found) for item in form]
    if not isinstance(form, Mapping):
        return form
    if TAG not in form:
        return {key: decode(item, found) for key, item in form.items()}
    return _DECODERS.get(form[TAG], _of_tree)(form, found)


def called(made: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """`call`; whatever it raises is a CallError, which says with what it was called."""
    try:
        return call(made, arguments)
    except Exception as error:
        # A constructor may raise anything; all of it is for the user to see.
        given = ", ".join(f"{key}={_shown(value)}" for key, value in arguments.items())
        name = getattr(made, "__qualname__", type(made).__name__)
        raise CallError(f"{name}({given}) could not be built: {type(error).__name__}: {error}") from error


def _shown(value: Any) -> str:
    # Objects of the user's own may fail even here.
    plain = isinstance(value, str | bytes | int | float | list | tuple | dict | type | type(None))
    return f"{value!r:.40}" if plain else f"<{type(value).__name__}>"


def _of_tree(form: Mapping[str, Any], _found: Found) -> Any:
    from runner.checkpoint.tree import unflatten

    try:
        return unflatten(dict(form), {})
    except DamagedError as error:
        raise ValueError(str(error)) from error


def _decoded_tensor(form: Mapping[str, Any], _found: Found) -> Any:
    import torch

    dtype = _of_tree({TAG: "dtype", "name": form["dtype"]}, _found)
    raw = bytearray(base64.b64decode(form["base64"], validate=True))
    empty = torch.empty(form["shape"], dtype=dtype, device="meta")
    if len(raw) != empty.nbytes:
        raise ValueError(f"a tensor of {form['shape']!r:.40} has {len(raw)} bytes")
    tensor = (
        torch.frombuffer(raw, dtype=dtype).reshape(form["shape"])
        if raw
        else torch.empty(form["shape"], dtype=dtype, device="cpu")
    )
    learnt = bool(form.get("requires_grad"))
    return torch.nn.Parameter(tensor, learnt) if form.get("parameter") else tensor.requires_grad_(learnt)


def _called(form: Mapping[str, Any], found: Found) -> Any:
    return found.once(form, lambda: called(found(form["of"]), _arguments(form, found)))


def _arguments(form: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """Of a call inside an argument, which nobody can be asked for."""
    why = why_missing(form["arguments"])
    arguments = decode(form["arguments"], found)
    if why is not None or not isinstance(arguments, dict):
        raise ValueError(f"an argument {why}" if why else "wanted arguments by name")
    return arguments


def call(made: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call with arguments by name; those under `_args_` are what a `*args` takes."""
    rest = _rest(arguments.get(_POSITIONAL, []))
    named = {name: value for name, value in arguments.items() if name != _POSITIONAL}
    first = []
    for one in inspect.signature(made).parameters.values():
        by_position = one.kind is one.POSITIONAL_ONLY or (rest and one.kind is one.POSITIONAL_OR_KEYWORD)
        if by_position and one.name in named:
            first.append(named.pop(one.name))
    return made(*first, *rest, **named)


def _rest(value: Any) -> list[Any]:
    """What a `*args` takes: a list, for a range of a few digits would be arguments of any number."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{_POSITIONAL} is a {type(value).__name__}; wanted a list")
    return list(value)


def _partial(form: Mapping[str, Any], found: Found) -> Any:
    arguments = _arguments(form, found)
    rest = _rest(arguments.pop(_POSITIONAL))
    return functools.partial(found(form["of"]), *rest, **arguments)


def _member(form: Mapping[str, Any], found: Found) -> Any:
    of = found(form["of"])
    if not isinstance(of, enum.EnumMeta):
        raise TypeError("wanted an enum")
    return of[form["value"]]


def _omegaconf(form: Mapping[str, Any], found: Found) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    value = decode(form["value"], found)
    if not isinstance(value, dict | list) or not may_interpolate(value):
        raise ValueError("wanted a mapping or a list, with interpolations of other values in it at most")
    try:
        return OmegaConf.create(value)
    except OmegaConfBaseException as error:
        raise ValueError(str(error)) from error


def may_interpolate(value: Any) -> bool:
    """Whether a node of OmegaConf has no interpolation in it that calls a function, which may be any."""
    if isinstance(value, dict | list):
        return all(map(may_interpolate, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, str) or is_harmless(value)


def _items(make: Callable[[Any], Any]) -> Callable[[Mapping[str, Any], Found], Any]:
    def made(form: Mapping[str, Any], found: Found) -> Any:
        if not isinstance(form["items"], list):
            # A range of a few digits would be a tuple of any size.
            raise TypeError("wanted a list of items")
        return make(decode(form["items"], found))

    return made


def _namespace(kind: type) -> Callable[[Mapping[str, Any], Found], Any]:
    return lambda form, found: kind(**decode(form["value"], found))


_NAMED = {"name": "value", "call": "of", "partial": "of", "member": "of"}


_DECODERS: Mapping[str, Callable[[Mapping[str, Any], Found], Any]] = {
    "tuple": _items(tuple),
    "set": _items(set),
    "frozenset": _items(frozenset),
    "dict": _items(dict),
    "ordered": _items(OrderedDict),
    "counter": _items(lambda pairs: Counter(dict(pairs))),
    "range": _items(lambda parts: range(*parts)),
    "slice": _items(lambda parts: slice(*parts)),
    "path": lambda form, _: Path(form["value"]),
    "type": lambda form, _: TYPES[form["name"]],
    "arguments": _namespace(argparse.Namespace),
    "namespace": _namespace(types.SimpleNamespace),
    "omegaconf": _omegaconf,
    "name": lambda form, found: found(form["value"]),
    "member": _member,
    "call": _called,
    "partial": _partial,
    "tensor": _decoded_tensor,
    "array": lambda form, found: _decoded_tensor(form, found).numpy(),
    "missing": lambda form, _: Missing(form["why"]),
}
