"""The weights of a checkpoint for other programs. An export is no checkpoint: no run resumes it.

.safetensors     the model's tensors; the config, without secrets, in the header
.pt, .pth        the dict of torch's tutorial: epoch, model_state_dict, optimizer_state_dict, loss. Of what holds no
                 optimizer, without its state.

What another program wrote is exported, too.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from runner.checkpoint.durable import write_all
from runner.checkpoint.fresh import in_the_way, new_file, reported
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import check_kind, model_tensors
from runner.checkpoint.tensors import TensorFile
from runner.config.secrets import redact
from runner.errors import CheckpointError, ConfigError
from runner.runs.restorable import Restorable, of_checkpoint
from runner.training import optimizer_state

log = logging.getLogger(__name__)

TENSORS = ".safetensors"
TORCH = (".pt", ".pth")


def export(source: Checkpoint | Restorable, file: Path, *, weights: str = "raw") -> int:
    """Write the weights of a checkpoint, `raw` or `averaged`, into a new file, durably; its size.

    What the name ends in decides the format. What a file in it would have and the source has not, is logged. Raises
    ConfigError for a name that cannot be, CheckpointError for weights that are not there or damaged, SaveError when it
    cannot be written; then nothing is left.
    """
    suffix = file.suffix.lower()
    if suffix not in (TENSORS, *TORCH):
        raise ConfigError(f"{file}: exports end in {TENSORS}, {' or '.join(TORCH)}; choose one of these")
    if os.path.lexists(file):
        raise in_the_way(file)
    tensors = _tensors(source, weights)
    if isinstance(source, Checkpoint):
        source = of_checkpoint(source, ["optimizer"] if suffix in TORCH else [])
    if "model" not in source.parts:
        held = ", ".join(source.parts) or "nothing of a training"
        raise CheckpointError(f"{source.where}: holds no weights, but {held}; export the file that has the weights")
    values = None if suffix == TENSORS else _tutorial(source, tensors)
    with reported(file, sum(tensor.nbytes for tensor in tensors.values())), new_file(file) as descriptor:
        if values is None:
            for chunk in TensorFile(tensors, _metadata(source, weights)).chunks():
                write_all(descriptor, chunk)
        else:
            _save(values, descriptor)
        size = os.fstat(descriptor).st_size
    if values is not None and "optimizer_state_dict" not in values:
        log.warning(
            "%s: has no optimizer_state_dict: %s: optimizer: %s", file, source.where, source.why_not("optimizer")
        )
    return size


def _tensors(source: Checkpoint | Restorable, weights: str) -> Mapping[str, Tensor]:
    if isinstance(source, Checkpoint):
        return model_tensors(source, weights)
    check_kind(weights)
    if weights != "raw":
        raise CheckpointError(f"{source.where}: has no averaged weights that are known as such; use the raw ones")
    tensors: Mapping[str, Tensor] = source.saved["model"]
    return tensors


def _metadata(source: Restorable, weights: str) -> dict[str, str]:
    made = {} if source.checkpoint is None else {"runner.config": source.checkpoint.config}
    return {
        **{key: json.dumps(redact(config), ensure_ascii=False) for key, config in made.items()},
        "runner.weights": weights,
        "runner.step": str(source.progress.step),
        "runner.epoch": str(source.progress.epoch),
        "runner.metrics": json.dumps({name: repr(value) for name, value in source.metrics.items()}),
    }


def _tutorial(source: Restorable, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    optimizer = source.saved.get("optimizer")
    if optimizer is not None and "param_groups" not in optimizer:
        optimizer = optimizer_state.by_index(optimizer)
    return {
        "epoch": source.progress.epoch,
        "model_state_dict": dict(tensors),
        **({} if optimizer is None else {"optimizer_state_dict": _plain(optimizer)}),
        "loss": source.metrics.get("loss"),
    }


def _plain(value: Any) -> Any:
    """What torch reads with `weights_only`: an optimizer of one's own may keep numpy's numbers and arrays."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


def _save(values: Mapping[str, Any], descriptor: int) -> None:
    file = _Through(descriptor)
    try:
        torch.save(values, cast("IO[bytes]", file))
    except RuntimeError:
        # What torch raises when it cannot end its file hides why: a write has failed before.
        if file.error is not None:
            raise file.error from None
        raise


class _Through:
    """A descriptor as torch.save wants a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""
