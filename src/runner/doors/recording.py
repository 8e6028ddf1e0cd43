"""What an object was constructed with, noted before its own constructor runs. Nothing of the class changes for that.

The note is taken in `__new__`, which gets the same arguments as `__init__`: so a subclass is noted with its own ones,
whatever it hands up, and a constructor may change what it is given.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from runner.config.calls import POSITIONAL, call_of
from runner.config.decoding import Missing, is_missing, missing
from runner.config.encoding import CALL, LARGEST_TENSOR

_DEPTH = 50
"""Levels of an argument that a file can hold."""
_OURS = "_runner_records"
"""Marks a `__new__` of ours; its value is the class's own, which it calls, or None."""


class Arguments(dict[str, Any]):
    """Arguments by name. Containers are copies; what cannot be stored is itself, and left out of pickles.

    So an object can be pickled and copied whenever it could be without this note.
    """

    def __init__(self, values: Mapping[str, Any], live: Collection[str] = ()) -> None:
        super().__init__(values)
        self._live = frozenset(live)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Arguments":
        def copied(name: str, value: Any) -> Any:
            return value if name in self._live and not isinstance(value, nn.Module) else deepcopy(value, memo)

        return Arguments({name: copied(name, value) for name, value in self.items()}, self._live)

    def __reduce__(self) -> tuple[Any, ...]:
        left_out = Missing("was not kept in a pickle")
        return Arguments, ({name: left_out if name in self._live else value for name, value in self.items()},)


def record_calls(cls: type, variable: Callable[[type], str]) -> None:
    """Note on every object of `cls` and its subclasses the call that made it, under CALL, and its arguments.

    `variable` gives the name of the attribute for the arguments.
    """
    inherited = any(_is_ours(base.__dict__.get("__new__")) for base in cls.__mro__[1:])
    if not inherited:
        _note_subclasses(cls, variable)
        if not any("__signature__" in base.__dict__ for base in cls.__mro__):
            cls.__signature__ = _Signature()  # type: ignore[attr-defined]
    if not inherited or "__new__" in cls.__dict__:
        _note_new(cls, variable)


def _note_new(cls: Any, variable: Callable[[type], str]) -> None:
    own = cls.__dict__.get("__new__")
    if _is_ours(own):
        return
    make = own.__func__ if isinstance(own, staticmethod) else own

    def __new__(kind: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        noted = _noted(kind, args, kwargs)
        if make is not None:
            made = make(kind, *args, **kwargs)
        else:
            following = super(cls, kind).__new__
            made = following(kind) if following is object.__new__ else following(kind, *args, **kwargs)
        if noted is not None and isinstance(made, kind):
            # A subclass's own `__new__` need not hand its arguments up: the outermost is right, and is the last here.
            made.__dict__[CALL], made.__dict__[variable(kind)] = noted
        return made

    setattr(__new__, _OURS, make)
    __new__.__qualname__ = f"{cls.__qualname__}.__new__"
    cls.__new__ = staticmethod(__new__)


def _note_subclasses(cls: Any, variable: Callable[[type], str]) -> None:
    """Have the `__new__` of a subclass, where it has one of its own, note its arguments, too."""
    own = cls.__dict__.get("__init_subclass__")

    def __init_subclass__(kind: Any, /, **kwargs: Any) -> None:  # noqa: N807
        if own is not None:
            own.__get__(None, kind)(**kwargs)
        else:
            super(cls, kind).__init_subclass__(**kwargs)
        if "__new__" in kind.__dict__:
            _note_new(kind, variable)

    cls.__init_subclass__ = classmethod(__init_subclass__)


def _noted(kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Arguments] | None:
    """The call as data, and its arguments; None for one that the constructor will refuse, or for a copy being made."""
    try:
        bound = inspect.signature(kind).bind(*args, **kwargs)
    except TypeError:
        return None
    call = call_of(kind, args, kwargs)
    bound.apply_defaults()
    given = _by_name(bound)
    rest = {name for name, one in bound.signature.parameters.items() if one.kind is one.VAR_POSITIONAL}
    # A default that cannot be stored is left out of the call.
    live = {name for name in given if _lacks(call.get(POSITIONAL, []) if name in rest else call.get(name, missing("")))}
    return call, Arguments({name: _copied(value) for name, value in given.items()}, live)


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """What a `**kwargs` takes stands under its own names."""
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            given |= value
        else:
            given[name] = value
    return given


def _lacks(form: Any) -> bool:
    """Whether something in the form of an argument could not be stored."""
    if isinstance(form, Mapping):
        return is_missing(form) or any(map(_lacks, form.values()))
    return isinstance(form, list) and any(map(_lacks, form))


def _copied(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value whose containers and small tensors are copies; `within` has the ids of the containers that it is in."""
    kind = type(value)
    if id(value) in within or len(within) > _DEPTH:
        # No file can hold that, and so it is itself.
        return value
    within = (*within, id(value))
    if kind in (dict, OrderedDict):
        return kind((key, _copied(item, within)) for key, item in value.items())
    if kind in (list, tuple, set):
        return kind(_copied(item, within) for item in value)
    if isinstance(value, Tensor) and value.nbytes <= LARGEST_TENSOR:
        return value.detach().clone()
    return value


class _Signature:
    """A class's `__signature__`: that of its constructor, seen through the `__new__` of ours."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        for base in owner.__mro__ if instance is None else ():
            new = base.__dict__.get("__new__")
            new = getattr(new, "__func__", new)
            for constructor in (getattr(new, _OURS, new), base.__dict__.get("__init__")):
                if isinstance(constructor, FunctionType):
                    signature = inspect.signature(MethodType(constructor, object()))
                    if constructor.__name__ == "__init__" or not _says_nothing(signature):
                        return signature
        raise AttributeError("__signature__")


def _says_nothing(signature: inspect.Signature) -> bool:
    """Whether it takes anything: then `__init__` is the one to ask."""
    return all(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in signature.parameters.values())


def _is_ours(new: Any) -> bool:
    return hasattr(getattr(new, "__func__", new), _OURS)
