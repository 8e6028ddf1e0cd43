"""A trained model, rebuilt from a checkpoint's own config."""

from collections.abc import Collection, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import split_choice
from runner.config.for_use import config_for_use, sources_of
from runner.config.nodes import build_model, device_of
from runner.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def load(
    path: str | PathLike[str],
    which: str | int = "latest",
    *,
    overrides: Sequence[str] = (),
    weights: str = "raw",
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    trust: Sequence[str] = (),
) -> "nn.Module":
    """The model of a run or checkpoint, rebuilt from the config inside it, with its weights, in eval mode.

    `which` is "latest", "best", a step or a tag, and may stand in the path, too: "RUN@best". `overrides` change the
    saved config before the model is built, as in `["model.dropout=0"]`. `weights` is "raw" or "averaged" (with
    trainer.ema_decay); with `dtype` the real numbers in it are cast to that; `trust` names modules whose classes the
    config may name, beside those that this user has used before. Reads nothing but the checkpoint; draws no random
    number that would show outside.
    Raises CheckpointError, naming tensors and shapes if they do not fit; ConfigError; TrustError.
    """
    from runner.checkpoint.interop import check_kind
    from runner.checkpoint.tensors import check_dtype

    check_kind(weights)
    if dtype is not None:
        check_dtype(dtype)
    to = device_of(str(device), key="device")
    model, _ = rebuilt(opened(path, which), ("model",), overrides=overrides, weights=weights, trust=trust)
    return model.to(device=to, dtype=dtype).eval()


def opened(path: str | PathLike[str], which: str | int = "latest") -> Checkpoint:
    """The checkpoint that a path names, with `RUN@best`, `RUN@step=N` or `RUN@TAG` in it or chosen by `which`."""
    place, chosen = split_choice(fspath(path))
    if chosen != "latest" and which not in ("latest", chosen):
        raise CheckpointError(f"{path}: chooses {chosen!r} already, and which is {which!r}; leave one of them out")
    return Checkpoint.open(place, which if chosen == "latest" else chosen)


def rebuilt(
    checkpoint: Checkpoint, keys: Collection[str], *, overrides: Sequence[str], weights: str, trust: Sequence[str]
) -> "tuple[nn.Module, dict[str, Any]]":
    """The model of a checkpoint with its weights, on the CPU, and what stands under `keys` in the config it is of."""
    from runner.checkpoint.interop import model_tensors
    from runner.training.generators import untouched

    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r}: wanted a list of overrides; write [{overrides!r}]")
    config = config_for_use(checkpoint, keys, overrides, trusted=trust)
    with untouched():
        model = build_model(config)
    fit_weights(model, model_tensors(checkpoint, weights), checkpoint, overrides)
    return model, config


def fit_weights(
    model: "nn.Module", tensors: "Mapping[str, Tensor]", checkpoint: Checkpoint, overrides: Sequence[str]
) -> None:
    """Load the tensors of a checkpoint into a model that was built from its config with `overrides` on top.

    Raises CheckpointError, listing names and shapes, if they do not fit.
    """
    from runner.training.loading import load_weights

    try:
        load_weights(model, tensors)
    except CheckpointError as error:
        on_top = f" with {' '.join(overrides)}" if overrides else ""
        causes = sources_of(checkpoint, ["model"])
        raise CheckpointError("\n".join([f"{checkpoint.path}{on_top}: {error}", *causes])) from error
