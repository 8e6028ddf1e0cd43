"""Which files a checkpoint has, and which tensors its state refers to. No torch here.

model.safetensors        the tensors under "model"; their names are the keys of the model's state dict
frozen.safetensors       those of them that do not change, when there is enough of them
optimizer.safetensors    the tensors under "optimizer"
extra.safetensors        the tensors under every other key
state.json               the tree: everything that is no tensor, and references to those
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import DamagedError, FormatError

STATE = "state.json"
MODEL = "model.safetensors"
FROZEN = "frozen.safetensors"
OPTIMIZER = "optimizer.safetensors"
EXTRA = "extra.safetensors"
TENSOR_FILES = (MODEL, FROZEN, OPTIMIZER, EXTRA)

STATE_FORMAT = 1
DEPTH_LIMIT = 100
TAG = "$"
"""The key that says what an object in a tree is."""


def parse_document(text: bytes, where: Path) -> Any:
    """What stands in a JSON document of a checkpoint. Raises FormatError for none, and for what is nested too deep."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: is not JSON ({error}); use another checkpoint") from error
    pending = [(values, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > 2 * DEPTH_LIMIT:
            raise FormatError(f"{where}: is nested deeper than {2 * DEPTH_LIMIT} levels; use another checkpoint")
        if isinstance(value, dict | list):
            pending += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return values


def parse_state(text: bytes, where: Path) -> dict[str, Any]:
    """The flattened trees in the text of state.json (at `where`) by their keys.

    Raises DamagedError, and FormatError for what a newer version wrote.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: is not JSON ({error}); use another checkpoint") from error
    written = values.get("format") if isinstance(values, dict) else None
    if isinstance(written, int) and written > STATE_FORMAT:
        raise FormatError(
            f"{where}: a state of format {written}; this runner reads formats up to {STATE_FORMAT}; update runner to "
            "load it"
        )
    if not isinstance(values, dict) or written != STATE_FORMAT or not isinstance(values.get("state"), dict):
        raise DamagedError(
            f"{where}: is {values!r:.80}, wanted a state of format {STATE_FORMAT}; use another checkpoint"
        )
    state: dict[str, Any] = values["state"]
    return state


def model_names(text: bytes, where: Path) -> dict[str, str]:
    """The keys of the model's tensors, and the name under which each is stored (another one's, when tied)."""
    state = parse_state(text, where)
    try:
        return references(state.get("model", {}))
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}; use another checkpoint") from error


def references(value: object) -> dict[str, str]:
    """Where the tensors of a flattened tree stood (by readable names), and the name under which each is stored."""
    return dict(_references(value, (), 0))


def _references(value: object, path: tuple[str, ...], depth: int) -> Iterator[tuple[str, str]]:
    if depth > DEPTH_LIMIT * 2:
        raise DamagedError(f"the state is nested deeper than {DEPTH_LIMIT} levels; it was not written by this program")
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, (*path, str(index)), depth + 1)
    elif isinstance(value, dict) and TAG not in value:
        for key, item in value.items():
            yield from _references(item, (*path, key), depth + 1)
    elif isinstance(value, dict) and value[TAG] == "tensor" and isinstance(value.get("name"), str):
        yield ".".join(path), value["name"]
    elif isinstance(value, dict) and value[TAG] == "tuple":
        yield from _references(value.get("items"), path, depth + 1)
