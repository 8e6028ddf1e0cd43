"""A trained model, rebuilt from what its file says of how it was made."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from runner.config.nodes import device_of
from runner.runs.saved import read_saved, rebuild
from runner.runs.versions import compare_versions

if TYPE_CHECKING:
    import torch
    from torch import nn


def load(
    path: str | PathLike[str],
    which: str | int = "latest",
    *,
    overrides: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    moved: Mapping[str, Any] | None = None,
    weights: str = "raw",
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    trust: Sequence[str] = (),
) -> "nn.Module":
    """The model of a run, a checkpoint or a door's file, rebuilt from the config in it, with its weights, in eval mode.

    `which` is "latest", "best", a step or a tag, and may stand in the path, too: "RUN@best". `overrides` change the
    saved config before the model is built, as in `["model.dropout=0"]`; `arguments` are given to the model's class in
    the place of stored ones; `moved` says where a class is now, as in `{"old.nets.Net": "new.nets.Net"}`. `weights` is
    "raw" or "averaged" (with trainer.ema_decay); with `dtype` the real numbers in it are cast to that; `trust` names
    modules whose classes the config may name, beside those that this user has used before. Reads nothing but the
    checkpoint; draws no random number that would show outside. Another version of a @save_load class is warned of.
    Raises CheckpointError, naming tensors and shapes if they do not fit; MissingError; ConfigError; TrustError.
    """
    from runner.checkpoint.interop import check_kind
    from runner.checkpoint.tensors import check_dtype

    check_kind(weights)
    if dtype is not None:
        check_dtype(dtype)
    to = device_of(str(device), key="device")
    saved = read_saved(path, which, weights=weights)
    model = rebuild(saved, overrides=overrides, arguments=arguments, moved=moved, trust=trust)
    compare_versions(saved, type(model), stacklevel=2)
    return model.to(device=to, dtype=dtype).eval()
