"""What a container's file says about itself: `metadata.json`, which `zipfile` and `json` alone can read.

    {"model_class": "mypackage.nets.Net", "model_kwargs": {"sizes": {"$": "tuple", "items": [8, 8]}},
     "timestamp": 1700000000, "loss": 0.55}

What JSON does not have stands there as an object with the key `$`; everything comes back exactly as it was.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from runner.checkpoint.tree import flatten, unflatten
from runner.config.secrets import redact
from runner.doors.container_calls import WORDS, Made
from runner.errors import ConfigError, DamagedError
from runner.runs.saved import METADATA, SavedModel

TIMESTAMP = "timestamp"
RESERVED = frozenset({TIMESTAMP, *(word for words in WORDS.values() for word in words)})
_DEPTH = 50
_PLAIN: Mapping[type, Callable[[Any], Any]] = {int: int.__int__, float: float.__float__, str: str.__str__}
"""How a kind of number or text, such as numpy's or an enum's, becomes what JSON has."""


def handed_over(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the user hands over, as JSON. Raises ConfigError, naming key and type, for what JSON does not have."""
    taken = sorted(RESERVED & metadata.keys())
    if taken:
        raise ConfigError(
            f"metadata {', '.join(map(repr, taken))}: the container itself notes something under this name; "
            "choose another one"
        )
    return {key: flatten(_plain(value, key, 0))[0] for key, value in metadata.items()}


def as_document(made: Made, timestamp: int, metadata: Mapping[str, Any]) -> bytes:
    """The text of metadata.json. `metadata` is what `handed_over` gave."""
    values: dict[str, Any] = {}
    for part, (class_word, kwargs_word) in WORDS.items():
        if part in made.nodes:
            node = made.nodes[part]
            values[class_word] = node["_target_"]
            values[kwargs_word] = {name: node[name] for name in made.arguments[part] if name in node}
    values |= {TIMESTAMP: timestamp, **metadata}
    return json.dumps(redact(values), indent=2, allow_nan=False).encode("ascii")


def metadata_of(saved: SavedModel, made: Made) -> dict[str, Any]:
    """The metadata of a file, for the objects that were made of it. Raises DamagedError."""
    values: dict[str, Any] = {}
    for part, (class_word, kwargs_word) in WORDS.items():
        if part in made.nodes:
            values |= {class_word: made.nodes[part]["_target_"], kwargs_word: dict(made.arguments[part])}
    values[TIMESTAMP] = saved.metadata.get(TIMESTAMP, _when(saved))
    try:
        return values | {key: unflatten(form, {}) for key, form in saved.metadata.items() if key not in RESERVED}
    except DamagedError as error:
        raise DamagedError(f"{saved.where}: {METADATA}: {error}; use another checkpoint") from error


def _when(saved: SavedModel) -> int:
    if saved.checkpoint is None:
        return int(saved.where.stat().st_mtime)
    return int(datetime.fromisoformat(saved.checkpoint.manifest.created).timestamp())


def _plain(value: Any, key: str, depth: int) -> Any:
    """A value of JSON's types and tuples alone, as `json.dumps` would take it."""
    if depth > _DEPTH:
        raise ConfigError(f"metadata {key[:40]!r}... is nested deeper than {_DEPTH} levels; wanted plain values")
    if isinstance(value, dict):
        return {_key(name, key): _plain(item, f"{key}.{name}", depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{key}[{index}]", depth + 1) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in _PLAIN.items():
        if isinstance(value, kind):
            return plain(value)
    hint = "; give its .item()" if hasattr(value, "item") else ""
    raise ConfigError(
        f"metadata {key!r} is a {_type(value)}, which JSON does not have; wanted numbers, text, lists or dicts{hint}"
    )


def _key(name: Any, key: str) -> Any:
    if name is not None and not isinstance(name, bool | int | float | str):
        raise ConfigError(f"metadata {key!r} has a key of type {_type(name)}; wanted text or numbers, as JSON has")
    return _plain(name, key, 0)


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
