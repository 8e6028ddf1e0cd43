"""A state taken apart into what the files of a checkpoint hold, and put together again. Which files: see `contents`.

Two equal states give equal bytes: no clock, path or address enters.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.checkpoint.contents import EXTRA, FROZEN, MODEL, OPTIMIZER, STATE_FORMAT, TAG, TENSOR_FILES, parse_state
from runner.checkpoint.tree import flatten, unflatten
from runner.errors import DamagedError

FROZEN_FROM_BYTES = 1024 * 1024
"""Less than this is not worth a file of its own."""


_FILES_OF = {"model": (MODEL, FROZEN), "optimizer": (OPTIMIZER,)}
"""Which files hold the tensors under a key of a state; under every other key it is EXTRA."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A state taken apart. The tensors are references to the live ones until they are copied; the tree is a copy."""

    tree: Mapping[str, Any]
    """What state.json will hold."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file, then by name."""

    def text(self) -> bytes:
        """The text of state.json."""
        return json.dumps(self.tree, separators=(",", ":"), allow_nan=False).encode("ascii")


def take_apart(state: Mapping[str, Any], frozen: Collection[str]) -> Parts:
    """A state as the parts of a checkpoint. `frozen` names tensors of the model; other names in it are passed over.

    Raises TypeError naming the place of a value that a checkpoint cannot hold.
    """
    strange = [key for key in state if not isinstance(key, str) or key == TAG]
    if strange:
        raise TypeError(f"the state has the key {strange[0]!r}; wanted a word, such as 'model'")
    trees: dict[str, Any] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    for group, file in (("model", MODEL), ("optimizer", OPTIMIZER)):
        if group in state:
            trees[group], tensors[file] = flatten(state[group])
    rest, tensors[EXTRA] = flatten({key: value for key, value in state.items() if key not in trees})
    still = set(frozen)
    unchanging = {name: tensor for name, tensor in tensors.get(MODEL, {}).items() if name in still}
    if sum(tensor.nbytes for tensor in unchanging.values()) >= FROZEN_FROM_BYTES:
        tensors[FROZEN] = unchanging
        tensors[MODEL] = {name: tensor for name, tensor in tensors[MODEL].items() if name not in unchanging}
    tree = {"format": STATE_FORMAT, "state": {key: trees.get(key, rest.get(key)) for key in state}}
    written = [file for file in TENSOR_FILES if file in tensors and (tensors[file] or file == MODEL)]
    return Parts(tree, {file: tensors[file] for file in written})


def put_together(
    tree: bytes, tensors: Mapping[str, Mapping[str, Tensor]], where: Path, keys: Collection[str] | None = None
) -> dict[str, Any]:
    """The state, or some of its keys, from the text of state.json (at `where`) and the tensors of the files.

    Raises DamagedError.
    """
    state = parse_state(tree, where)
    try:
        return {
            key: unflatten(value, _of_group(key, tensors))
            for key, value in state.items()
            if keys is None or key in keys
        }
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}; use another checkpoint") from error


def files_of(keys: Collection[str]) -> list[str]:
    """The files that hold the tensors under some keys of a state."""
    wanted = {file for key in keys for file in _FILES_OF.get(key, (EXTRA,))}
    return [file for file in TENSOR_FILES if file in wanted]


def _of_group(key: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    held: dict[str, Tensor] = {}
    for file in _FILES_OF.get(key, (EXTRA,)):
        held |= tensors.get(file, {})
    return held
