"""A trained model, rebuilt from a checkpoint's own config."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from runner.checkpoint.handle import Checkpoint
from runner.config.documents import resolved
from runner.config.nodes import build_model, device_of
from runner.errors import CheckpointError
from runner.trust import TrustMemory, check_targets

if TYPE_CHECKING:
    from torch import nn


def load(
    path: str | PathLike[str],
    which: str | int = "latest",
    *,
    weights: str = "raw",
    device: str = "cpu",
    trust: Sequence[str] = (),
) -> "nn.Module":
    """The model of a run or checkpoint, rebuilt from the config inside it, with its weights, in eval mode.

    `which` is "latest", "best" or a step; `weights` is "raw" or "averaged" (with trainer.ema_decay); `trust` names
    modules whose classes the config may name, beside those that this user has used before. Reads nothing but the
    checkpoint; draws no random number that would show outside. Raises CheckpointError, TrustError.
    """
    if weights not in ("raw", "averaged"):
        raise CheckpointError(f"weights is {weights!r}; wanted 'raw' or 'averaged'")
    checkpoint = Checkpoint.open(path, which)
    # Nothing but this node is looked at from here on, so that no reference can bring in another.
    config = {"model": checkpoint.config["model"]}
    check_targets(config, trusted=trust, memory=TrustMemory(), where=str(checkpoint.path))
    from runner.training.generators import untouched
    from runner.training.state import load_weights

    with untouched():
        model = build_model(resolved(config))
    if weights == "raw":
        tensors = checkpoint.tensors()
    else:
        averaged = checkpoint.state()["averaged"]
        if averaged is None:
            raise CheckpointError(f"{checkpoint.path}: has no averaged weights; use weights='raw'")
        tensors = averaged["model"]
    load_weights(model, tensors)
    return model.to(device_of(device)).eval()
