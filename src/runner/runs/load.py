"""A trained model, rebuilt from a checkpoint's own config."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from runner.checkpoint.handle import Checkpoint
from runner.config.documents import resolved
from runner.config.nodes import build_model, device_of
from runner.errors import CheckpointError
from runner.trust import TrustMemory, check_targets

if TYPE_CHECKING:
    import torch
    from torch import nn


def load(
    path: str | PathLike[str],
    which: str | int = "latest",
    *,
    weights: str = "raw",
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    trust: Sequence[str] = (),
) -> "nn.Module":
    """The model of a run or checkpoint, rebuilt from the config inside it, with its weights, in eval mode.

    `which` is "latest", "best", a step or a tag; `weights` is "raw" or "averaged" (with trainer.ema_decay); with
    `dtype` the real numbers in it are cast to that; `trust` names modules whose classes the config may name, beside
    those that this user has used before. Reads nothing but the checkpoint; draws no random number that would show
    outside.
    Raises CheckpointError, TrustError.
    """
    from runner.checkpoint.interop import check_kind, model_tensors
    from runner.checkpoint.tensors import check_dtype

    check_kind(weights)
    if dtype is not None:
        check_dtype(dtype)
    checkpoint = Checkpoint.open(path, which)
    # Nothing but this node is looked at from here on, so that no reference can bring in another.
    saved = {"model": checkpoint.config.get("model")}
    where, memory = str(checkpoint.path), TrustMemory()
    check_targets(saved, trusted=trust, memory=memory, where=where)
    config = resolved(saved)
    # What is built is this one, with what came from the environment.
    check_targets(config, trusted=trust, memory=memory, where=where)
    if not isinstance(config["model"], Mapping) or "_target_" not in config["model"]:
        raise CheckpointError(f"{where}: model: its config has {config['model']!r:.80}, wanted a node with a _target_")
    from runner.training.generators import untouched
    from runner.training.state import load_weights

    with untouched():
        model = build_model(config)
    load_weights(model, model_tensors(checkpoint, weights))
    return model.to(device=device_of(device), dtype=dtype).eval()
