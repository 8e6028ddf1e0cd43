"""One object that several arguments are: a form of encoding.py that says which others are the same object.

    {"$": "call", "of": "mypackage.nets.Encoder", "arguments": {...}, "shared": 1}      the same number, the same object

In memory that is the form itself, which the object keeps: two arguments that are one object have one form, and it stays
so when all is copied or pickled. In JSON each of them is written out, with the number beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from runner.checkpoint.contents import TAG

SHARED = "shared"
_FORM = "_runner_form"
"""The attribute in which an object keeps its form."""


def kept_form(value: Any, form: dict[str, Any]) -> dict[str, Any]:
    """The form that an object has had before, or else this one, which it keeps from now on."""
    kept: dict[str, Any] | None = vars(value).get(_FORM)
    if kept == form:
        return kept
    vars(value)[_FORM] = form
    return form


def numbered(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nodes in which each form of a call that stands at several places says so. Numbers that are there stay."""
    seen: set[int] = set()
    several: list[int] = []
    highest = 0
    pending: list[Any] = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            if value.get(TAG) == "call":
                highest = max(highest, number_of(value) or 0)
                if id(value) in seen:
                    several.append(id(value))
                    continue
                seen.add(id(value))
            pending += reversed(list(value.values()))
        elif isinstance(value, list):
            pending += reversed(value)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(several), highest + 1)}

    def written_out(value: Any) -> Any:
        if isinstance(value, list):
            return [written_out(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        number = numbers.get(id(value))
        inner = {key: written_out(item) for key, item in value.items()}
        return inner if number is None or SHARED in value else {**inner, SHARED: number}

    return {key: written_out(value) for key, value in config.items()}


def number_of(form: Mapping[str, Any]) -> int | None:
    """The number of an object that stands at several places. Raises ValueError for what is none."""
    number = form.get(SHARED)
    if number is not None and type(number) is not int:
        raise ValueError(f"{SHARED} is {number!r:.40}; wanted a number")
    return number


class Found:
    """What import paths name, and the objects of several places that have been made already."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._made: dict[int, Any] = {}

    def __call__(self, name: str) -> Any:
        return self._find(name)

    def once(self, form: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What a form stands for; made only if none with its number has been."""
        number = number_of(form)
        if number is None:
            return make()
        if number not in self._made:
            self._made[number] = make()
        return self._made[number]
