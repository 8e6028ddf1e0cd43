"""The state in a checkpoint, looked at before anything of it is put into a training."""

from typing import Any

from runner.checkpoint.handle import Checkpoint
from runner.errors import FormatError

_PARTS = (
    "model",
    "optimizer",
    "scheduler",
    "transient",
    "progress",
    "epoch_loss",
    "early_stopping",
    "own",
    "generators",
)
_PARTS_OR_NONE = ("scaler", "averaged", "best")


def saved_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The whole state, verified while read. FormatError if it is not one that a training can go on from."""
    state = checkpoint.state()
    lost = [name for name in _PARTS if not isinstance(state.get(name), dict)]
    lost += [name for name in _PARTS_OR_NONE if name not in state or not isinstance(state[name], dict | None)]
    if lost:
        raise FormatError(
            f"{checkpoint.path}: no training can go on from it, because its state lacks {', '.join(lost)}; "
            f"use another checkpoint, or begin a new run with its weights: init_from={checkpoint.path}"
        )
    return state
