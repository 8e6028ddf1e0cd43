"""Which values of a config come from somewhere else: the environment, a length of the training, the clock."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]
"""Where a value stands in a tree: keys and positions, outermost first."""

_PLAIN = re.compile(r"\$\{\s*(\.*[\w\-.\[\]]+)\s*\}")
_SELECT = re.compile(r"oc\.(?:select|dict\.keys|dict\.values)\s*:\s*['\"]?(\.*[\w\-.]+)")


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of a tree that holds no other. An empty mapping or list counts as one."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for at, inner in enumerate(value):
            yield from leaves(inner, (*path, at))
    else:
        yield path, value


def value_at(tree: Any, path: Path, otherwise: Any) -> Any:
    """What stands at a path of nested mappings and lists; `otherwise` if nothing does."""
    for part in path:
        inside = part in tree if isinstance(tree, Mapping) else isinstance(tree, list) and part in range(len(tree))
        if not inside:
            return otherwise
        tree = tree[part]
    return tree


def dotted(path: Path) -> str:
    """`optimizer.groups[0].match`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def derived(composed: Mapping[str, Any], is_origin: Callable[[str], bool]) -> dict[Path, str]:
    """The interpolations, with where they stand, whose value comes from an origin, directly or through other nodes.

    `is_origin` is asked about the text of an interpolation.
    """
    texts = {path: text for path, text in leaves(composed) if isinstance(text, str) and "${" in text}
    found = {path: text for path, text in texts.items() if is_origin(text)}
    while True:
        more = {
            path: text
            for path, text in texts.items()
            if path not in found and any(_meets(reference, found) for reference in references(text, path))
        }
        if not more:
            return found
        found |= more


def references(text: str, path: Path) -> list[Path]:
    """The nodes that an interpolation at `path` reads."""
    return [_absolute(name, path) for pattern in (_PLAIN, _SELECT) for name in pattern.findall(text)]


def _absolute(name: str, path: Path) -> Path:
    dots = len(name) - len(name.lstrip("."))
    parts = tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", name.strip(".")) if part)
    return parts if dots == 0 else (*path[: len(path) - dots], *parts)


def _meets(reference: Path, found: Mapping[Path, str]) -> bool:
    """Whether a reference leads to a found value, to a node that holds one, or through one."""
    return any(one[: len(reference)] == reference or reference[: len(one)] == one for one in found)


def replaced(tree: Any, values: Mapping[Path, Any], path: Path = ()) -> Any:
    """A copy of a tree with other values at some paths."""
    if path in values:
        return values[path]
    if isinstance(tree, Mapping):
        return {key: replaced(inner, values, (*path, key)) for key, inner in tree.items()}
    if isinstance(tree, list):
        return [replaced(inner, values, (*path, at)) for at, inner in enumerate(tree)]
    return tree
