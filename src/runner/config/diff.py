"""How two configs differ, and what each difference does to a run that goes on with the other config."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.identity import OUTSIDE, PARTS
from runner.config.interpolation import Path, dotted
from runner.config.names import shown

HARMLESS = "harmless"
COURSE = "course"
STRUCTURAL = "structural"
NOT_THERE = "(not there)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not what it was."""

    key: str
    saved: Any
    now: Any
    kind: str
    """`harmless`: outside what it computes; `course`: another training from here on; `structural`: another model."""

    def __str__(self) -> str:
        saved, now = ("not there" if value is NOT_THERE else shown(value) for value in (self.saved, self.now))
        return f"{self.key} was {saved} and is {now} now"


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Every leaf that differs between two resolved configs, both in the form in which they are written."""
    return [Difference(dotted(path), was, new, kind_of(path)) for path, was, new in differing(saved, now)]


def kind_of(path: Path) -> str:
    """What a difference at `path` does."""
    part = path[0]
    if part == "model":
        return STRUCTURAL
    if part not in PARTS or (part in OUTSIDE and len(path) > 1 and path[1] in OUTSIDE[str(part)]):
        return HARMLESS
    return COURSE


def differing(saved: Any, now: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Where two trees differ, and the two values; NOT_THERE where one of them has none. Lists are values."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*saved, *now]):
            before = saved.get(key, NOT_THERE)
            after = now.get(key, NOT_THERE)
            yield from differing(before, after, (*path, key))
    elif not same(saved, now):
        yield path, saved, now


def same(one: Any, other: Any) -> bool:
    """Equal, with 1, 1.0 and True told apart, and NaN equal to itself."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))
