"""Which tensor of some weights goes to which tensor of a model, by name. Pure: names, shapes and dtypes; no torch.

    a name in the file -> renamed by the first rule that fits -> without `module.` and `_orig_mod.` -> a model's name

`include` and `exclude` are patterns for the model's names: what they leave out is neither missing nor unexpected.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

WRAPPERS = ("module", "_orig_mod")
"""What data parallelism and compilation put into names."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor is, apart from its values."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it: `float32`."""

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Matching:
    """What can be loaded from where, and what cannot."""

    loaded: Mapping[str, str]
    """The model's name of each tensor that can be loaded, and its name in the file."""
    missing: tuple[str, ...]
    """In the model only."""
    unexpected: tuple[str, ...]
    """In the file only, under the names that they have there."""
    mismatched: Mapping[str, tuple[Spec, Spec]]
    """By the model's name: what the file has, and what the model wants."""
    cast: Mapping[str, tuple[str, str]]
    """Of those that can be loaded: the dtype in the file and the model's, where it is another one."""
    left_out: int
    """Tensors of the model that `include` and `exclude` leave as they are."""

    @property
    def whole(self) -> bool:
        """Every tensor has its counterpart."""
        return not (self.missing or self.unexpected or self.mismatched)


def match(
    stored: Mapping[str, Spec],
    model: Mapping[str, Spec],
    *,
    rename: Mapping[str, str],
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    tied: Iterable[Collection[str]] = (),
) -> Matching:
    """Match the tensors of a file with those of a model.

    `tied` are groups of the model's names that are one tensor: none of a group is missing when one of it is loaded.
    Raises ValueError, with a line for each mistake, if two tensors would go to one place, or if a rule or a pattern
    fits nothing.
    """
    places = _places(stored, model, rename)
    problems = _collisions(places) + _idle(stored, model, places, rename, include, exclude)
    if problems:
        raise ValueError("\n".join(problems))

    def wanted(name: str) -> bool:
        return is_chosen(name, include, exclude)

    fitting: dict[str, str] = {}
    mismatched: dict[str, tuple[Spec, Spec]] = {}
    unexpected = []
    for source, target in places.items():
        if not wanted(target):
            continue
        if target not in model:
            unexpected.append(source)
        elif _fits(stored[source], model[target]):
            fitting[target] = source
        else:
            mismatched[target] = (stored[source], model[target])
    there = {*fitting, *mismatched}
    there |= {name for group in tied if not there.isdisjoint(group) for name in group}
    return Matching(
        loaded={name: fitting[name] for name in model if name in fitting},
        missing=tuple(name for name in model if name not in there and wanted(name)),
        unexpected=tuple(unexpected),
        mismatched=mismatched,
        cast={
            name: (stored[source].dtype, model[name].dtype)
            for name, source in fitting.items()
            if stored[source].dtype != model[name].dtype
        },
        left_out=sum(not wanted(name) for name in model),
    )


def is_chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    """Whether a name fits a pattern of `include` (or there is none) and none of `exclude`."""
    return (include is None or any(fnmatchcase(name, pattern) for pattern in include)) and not any(
        fnmatchcase(name, pattern) for pattern in exclude or ()
    )


def renamed(name: str, rename: Mapping[str, str]) -> str:
    """`name` after the first rule that fits it.

    A rule's left side is a prefix; with a `*` in it, it has to fit the whole name, and each `*` on the right side
    stands for what the one at its place on the left stood for.
    """
    for left, right in rename.items():
        if "*" not in left:
            if name.startswith(left):
                return right + name.removeprefix(left)
            continue
        found = _pattern(left).fullmatch(name)
        if found is not None:
            parts = right.split("*")
            return "".join(part + filling for part, filling in zip(parts, [*found.groups(), ""], strict=False))
    return name


def rule_problem(left: str, right: str) -> str | None:
    """What is wrong with a rule, or None."""
    if not left:
        return "has a rule for the empty name, which fits every name; write the prefix that is to be replaced"
    if right.count("*") not in (0, left.count("*")):
        return (
            f"has {left!r}: {right!r}, with {left.count('*')} * on the left and {right.count('*')} on the right; "
            "wanted as many on both sides, or none on the right"
        )
    if "*" in left and "*" not in right:
        return f"has {left!r}: {right!r}, which gives many tensors one name; keep the * on the right side"
    return None


def suggestion(stored: Collection[str], model: Collection[str]) -> dict[str, str] | None:
    """The one rule about a prefix that makes most names of a file those of the model, if it makes at least half."""
    counts: dict[tuple[str, str], int] = {}
    by_end: dict[str, list[str]] = {}
    for name in model:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    for name in stored:
        for other in by_end.get(name.rpartition(".")[2], ())[:200]:
            end = _common_end(name, other)
            pair = (name.removesuffix(end), other.removesuffix(end))
            if pair != ("", ""):
                counts[pair] = counts.get(pair, 0) + 1
    if not counts:
        return None
    (left, right), _ = max(counts.items(), key=lambda item: (item[1], -len(item[0][0])))
    rule = {left: right} if left else {"*": f"{right}*"}
    fitting = sum(renamed(name, rule) in model for name in stored)
    before = sum(name in model for name in stored)
    return rule if fitting > before and 2 * fitting >= len(model) else None


def unwrapped(name: str) -> str:
    """`name` without `module.` at its start and without `_orig_mod` anywhere."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def _places(stored: Iterable[str], model: Collection[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Where each tensor of the file would go; a name that the model has is taken as it is."""
    bare: dict[str, list[str]] = {}
    for name in model:
        bare.setdefault(unwrapped(name), []).append(name)

    def place(name: str) -> str:
        if name in model:
            return name
        without = unwrapped(name)
        return bare[without][0] if len(bare.get(without, ())) == 1 else without

    places = {}
    for name in stored:
        new = renamed(name, rename)
        if new == name:
            # A rule is written for the name without what was wrapped around the model.
            new = renamed(unwrapped(name), rename)
            new = name if new == unwrapped(name) else new
        places[name] = place(new)
    return places


def _collisions(places: Mapping[str, str]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for source, target in places.items():
        sources.setdefault(target, []).append(source)
    return [
        f"{' and '.join(map(repr, several[:3]))} both go to {target!r}; mend init.rename, or leave one out"
        for target, several in sources.items()
        if len(several) > 1
    ][:5]


def _idle(
    stored: Collection[str],
    model: Collection[str],
    places: Mapping[str, str],
    rename: Mapping[str, str],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> list[str]:
    """Rules and patterns that fit nothing: most likely written wrongly."""
    names = [*stored, *map(unwrapped, stored)]
    problems = [
        f"init.rename has {left!r}, which fits no name; the weights have {_listed(stored)}"
        for left, right in rename.items()
        if not any(renamed(name, {left: right}) != name for name in names)
    ]
    every = {*model, *places.values()}
    for key, patterns in (("include", include), ("exclude", exclude)):
        problems += [
            f"init.{key} has {pattern!r}, which fits no name; the model has {_listed(model)}"
            for pattern in patterns or ()
            if not any(fnmatchcase(name, pattern) for name in every)
        ]
    return problems


def _fits(stored: Spec, wanted: Spec) -> bool:
    return stored.shape == wanted.shape and kind_of_dtype(stored.dtype) == kind_of_dtype(wanted.dtype)


def kind_of_dtype(dtype: str) -> str:
    """What its values are. Between kinds nothing is cast: it would lose what they mean."""
    if dtype.startswith(("float", "bfloat")):
        return "real"
    return "complex" if dtype.startswith("complex") else "bool" if dtype == "bool" else "whole"


def _pattern(left: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part) for part in left.split("*")), re.DOTALL)


def _common_end(one: str, other: str) -> str:
    """The longest common end of two names that begins with a part of both."""
    first, second = one.split("."), other.split(".")
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return ".".join(first[len(first) - count :])


def _listed(names: Collection[str]) -> str:
    first = list(names)[:4]
    return ", ".join(map(repr, first)) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
