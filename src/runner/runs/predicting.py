"""The outputs of a trained model for the samples in a file, written to another file."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runner.checkpoint.durable import write_all
from runner.checkpoint.fresh import new_file, replaced_file, reported
from runner.checkpoint.handle import Checkpoint
from runner.config.build_evaluation import section, settings_of_today
from runner.config.nodes import device_of
from runner.config.schema import Runtime
from runner.config.words import split_words
from runner.errors import ConfigError, DataError
from runner.runs.arrays import Array, check_name, read_array, write_rows
from runner.runs.environment import process_settings
from runner.runs.evaluating import Watch
from runner.runs.saved import build, fit, is_call, of_checkpoint, read_saved
from runner.training.generators import untouched
from runner.training.module_state import load_transient, transient
from runner.training.plan import Trainer
from runner.training.precision import autocast

KEYS = ("model", "trainer", "runtime")
"""What of a config a prediction depends on."""

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
"""What the samples can be made."""


@dataclass(frozen=True)
class Form:
    """In which form samples are handed to a model."""

    batch_size: int
    shape: tuple[int, ...] | None
    """Of one sample; None as in the file."""
    dtype: str | None
    """None: real numbers as the model's parameters are, whole numbers as int64."""

    def __post_init__(self) -> None:
        problems = []
        if self.batch_size < 1:
            problems.append(f"the batch size is {self.batch_size}; wanted at least 1")
        if self.shape is not None and (not self.shape or any(size < 1 for size in self.shape)):
            problems.append(f"the shape is {self.shape}; wanted sizes of at least 1, such as 1,8,8")
        if self.dtype is not None and self.dtype not in DTYPES:
            problems.append(f"the dtype is {self.dtype!r}; wanted one of {', '.join(DTYPES)}")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Predicted:
    """What was written."""

    shape: tuple[int, ...]
    dtype: str
    columns: tuple[str, ...]
    """The names of the columns that were in the first line of the input."""


def predict(
    of: Checkpoint | Path,
    overrides: Sequence[str],
    source: Path,
    target: Path,
    *,
    form: Form,
    weights: str = "raw",
    overwrite: bool = False,
    trust: Sequence[str] = (),
    watch: Watch = lambda _: lambda: None,
) -> Predicted:
    """Write the outputs of a model, in eval mode, for every sample in `source` into `target`, in order.

    `of` is a checkpoint, or a file that is none and tells how its model is made. What the model remembers between its
    calls begins anew with each batch. `target` is whole and durable afterwards, or as it was before. Raises
    ConfigError, DataError for an input that cannot be read or that the model cannot take, CheckpointError, TrustError,
    SaveError.
    """
    check_name(target)
    if not overwrite and os.path.lexists(target):
        raise ConfigError(f"{target}: stands there already; choose another name, or add --force to replace it")
    samples, columns = read_array(source)
    if form.shape is not None and math.prod(form.shape) != math.prod(samples.shape[1:]):
        raise ConfigError(
            f"{source}: a sample has shape {samples.shape[1:]}, which is {math.prod(samples.shape[1:])} numbers; "
            f"the shape {form.shape} has {math.prod(form.shape)}; give one with as many"
        )
    saved = read_saved(of, weights=weights) if isinstance(of, Path) else of_checkpoint(of, weights)
    if is_call(saved):
        words, settings = split_words(overrides)
        model, _ = build(saved, ("model",), trust=(*trust, *words.trust))
        config, overrides = settings_of_today(settings, ("trainer", "runtime"), where=saved.where), ()
    else:
        model, config = build(saved, KEYS, overrides=overrides, trust=trust)
    fit(model, saved.tensors, where=saved.where, checkpoint=saved.checkpoint, overrides=overrides)
    trainer, runtime = section(Trainer, "trainer", config), section(Runtime, "runtime", config)
    with process_settings(runtime, deterministic=trainer.deterministic), untouched(), torch.inference_mode():
        device = device_of(runtime.device)
        model = model.to(device).eval()
        batches = _Batches(source, samples, form, device)
        outputs = _Outputs(model, batches, trainer.precision, watch(len(batches)))
        opened = replaced_file(target) if overwrite else new_file(target)
        with reported(target, 0), opened as descriptor:
            shape = write_rows(
                target.suffix.lower(), iter(outputs), len(samples), lambda data: write_all(descriptor, data)
            )
    return Predicted(shape, outputs.dtype, columns)


class _Batches:
    """The samples of a file as tensors, in batches."""

    def __init__(self, source: Path, samples: Array, form: Form, device: torch.device) -> None:
        self.source, self.samples, self.form, self.device = source, samples, form, device

    def __len__(self) -> int:
        return -(-len(self.samples) // self.form.batch_size)

    def read(self, real: torch.dtype) -> Iterator[Tensor]:
        """`real`: what real numbers are made, where nothing else is asked for."""
        for begin in range(0, len(self.samples), self.form.batch_size):
            rows = self.samples[begin : begin + self.form.batch_size]
            # A copy in this machine's byte order: torch takes no other, and may write into what it is given.
            batch = torch.from_numpy(np.array(rows, dtype=_known(rows.dtype), order="C"))
            if self.form.shape is not None:
                batch = batch.reshape(len(batch), *self.form.shape)
            yield self._converted(batch, real).to(self.device)

    def _converted(self, batch: Tensor, real: torch.dtype) -> Tensor:
        if self.form.dtype is None:
            return batch.to(real) if batch.is_floating_point() else batch
        wanted = getattr(torch, self.form.dtype)
        converted = batch.to(wanted)
        if not wanted.is_floating_point and not torch.equal(converted.to(batch.dtype), batch):
            raise DataError(
                f"{self.source}: not every number in it is one of {self.form.dtype}; choose another --dtype"
            )
        return converted


def _known(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype of numpy that torch knows: real numbers of at most 64 bits, truths, whole numbers of 64."""
    if dtype.kind == "f":
        return np.dtype(f"f{min(dtype.itemsize, 8)}")
    return np.dtype("bool" if dtype.kind == "b" else "int64")


class _Outputs:
    """What a model gives for each batch, as arrays."""

    def __init__(self, model: nn.Module, batches: _Batches, precision: str, after_each: Callable[[], None]) -> None:
        self.model, self.batches, self.precision, self.after_each = model, batches, precision, after_each
        self.dtype = ""
        self._transient = transient(model)

    def __iter__(self) -> Iterator[Array]:
        tensors = (value for value in self.model.state_dict().values() if isinstance(value, Tensor))
        reals = (value.dtype for value in tensors if value.is_floating_point())
        for batch in self.batches.read(next(reals, torch.float32)):
            output = self._of(batch)
            if output.dtype == torch.bfloat16:
                # numpy has none.
                output = output.float()
            array = output.cpu().numpy()
            self.dtype = str(array.dtype)
            yield array
            self.after_each()

    def _of(self, batch: Tensor) -> Tensor:
        name = type(self.model).__name__
        given = f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
        # Copies, because the model may write into them.
        fresh = {name: None if value is None else value.clone() for name, value in self._transient.items()}
        load_transient(self.model, fresh, batch.device)
        try:
            with autocast(self.precision, batch.device):
                outputs = self.model(batch)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            # Whatever a model says about what it was given is the user's to see.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"{self.batches.source}: {name} cannot take a batch of {given}: {reason}; --shape gives a sample "
                "another shape, --dtype other numbers"
            ) from error
        output = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
        if not isinstance(output, Tensor):
            there = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
            raise DataError(
                f"{name} returned {type(outputs).__name__}{there}; wanted a tensor, or something with one as `logits`; "
                "use runner.load in Python"
            )
        if not output.dim() or len(output) != len(batch):
            raise DataError(
                f"{name} returned a tensor of shape {tuple(output.shape)} for {len(batch)} samples; wanted a row for "
                "each; use runner.load in Python"
            )
        return output
