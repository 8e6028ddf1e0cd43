"""What is set on a handler, checked where it is set, and as the engine wants it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from runner.checkpoint.naming import check_format, parsed
from runner.checkpoint.policies import SavePolicy
from runner.config.names import did_you_mean
from runner.data.batches import AnyBatches, make_batches
from runner.errors import ConfigError, DataError
from runner.quantities import position, score
from runner.records import Progress, World
from runner.training.plan import EarlyStopping, Evaluate, Limits, Trainer
from runner.training.state import TrainState

_PLAIN = frozenset({"batch_size", "shuffle", "drop_last", "num_workers", "collate_fn", "pin_memory"})
"""What the engine's own batches know; any other argument makes a torch DataLoader, of which the parts are used."""
_LOADER = tuple(inspect.signature(DataLoader).parameters)[1:]


_ARGUMENTS = {
    "data.drop_last=false": "drop_last=False",
    "data.drop_last=true": "drop_last=True",
    "drop_last is true": "drop_last is True",
    "data.shuffle=false": "shuffle=False",
    "data.shuffle": "shuffle",
    "data.batch_size": "batch_size",
    "data.train is": "the loader is",
    "runtime.workers": "num_workers",
}
"""The engine's advice names keys of a config."""


def as_arguments(text: str) -> str:
    """A message of the engine with the arguments of a loader in place of the keys of a config."""
    for key, argument in _ARGUMENTS.items():
        text = text.replace(key, argument)
    return text


@dataclass(frozen=True)
class Split:
    """A data set, or a loader, and how it is cut into batches."""

    dataset: Any
    arguments: Mapping[str, Any]

    def batches(self, *, seed: int, world: World, device: torch.device, resumable: bool) -> AnyBatches:
        """Its batches. Under several processes `batch_size` counts the samples of all of them together."""
        given, split = self.arguments, self.dataset
        if not given.keys() <= _PLAIN or isinstance(split, DataLoader):
            if world.size > 1:
                raise ConfigError(
                    f"a loader or sampler of one's own gives whole batches, which cannot be shared out to {world.size} "
                    "processes; give the data set with batch_size, shuffle, drop_last, num_workers, collate_fn"
                )
            # Whether memory is pinned follows from the device.
            parts = {name: value for name, value in given.items() if name != "pin_memory"}
            split = split if isinstance(split, DataLoader) else DataLoader(split, **parts)
        try:
            return make_batches(
                split,
                batch_size=given.get("batch_size", 1),
                shuffle=bool(given.get("shuffle", False)),
                drop_last=given.get("drop_last", False),
                seed=seed,
                workers=given.get("num_workers", 0),
                collate=given.get("collate_fn"),
                world=world,
                pin_memory=device.type == "cuda",
                resumable=resumable,
            )
        except (ConfigError, DataError) as error:
            raise type(error)(as_arguments(str(error))) from error


def split_of(where: str, dataset: Any, arguments: Mapping[str, Any]) -> Split:
    """The split of these arguments, which are those of torch's DataLoader. ConfigError, naming `where`, otherwise."""
    unknown = [name for name in arguments if name not in _LOADER]
    if unknown:
        raise ConfigError([f"{where}({name}=...): a loader has no such argument{did_you_mean(name, _LOADER)}"
                           for name in unknown])  # fmt: skip
    if isinstance(dataset, DataLoader) or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        if not isinstance(dataset, DataLoader):
            raise ConfigError(f"{where}({type(dataset).__name__}): wanted a data set or a loader")
        if arguments:
            raise ConfigError(f"{where}: a DataLoader has its own {', '.join(arguments)}; give one or the other")
        return Split(dataset, {})
    if arguments.get("batch_size", 1) is None and "batch_sampler" not in arguments:
        raise ConfigError(
            f"{where}(batch_size=None): wanted a whole number; what are batches already, give as a loader"
        )
    try:
        # It knows which arguments go together.
        DataLoader(dataset, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return Split(dataset, dict(arguments))


@dataclass(frozen=True)
class AutoSave:
    """When a handler saves by itself, and under which name. `interval` None: never; -1: at the end alone."""

    interval: int | None
    folder: str
    name: str
    overwrite: bool
    save_model_code: bool

    def policy(self, *, at_end: bool) -> SavePolicy:
        return SavePolicy(
            every_steps=None,
            at_steps=None,
            every_epochs=None if self.interval in (None, -1) else self.interval,
            every_seconds=None,
            budget=None,
            on_improvement=False,
            min_delta=0.0,
            at_end=self.interval is not None and at_end,
        )


def auto_save_of(
    interval: int | None, folder: str | PathLike[str], name: str, *, overwrite: bool, save_model_code: bool
) -> AutoSave:
    """Checked settings. ConfigError with every problem."""
    problems = []
    if interval is not None and (type(interval) is not int or interval < -1):
        problems.append(f"auto_save(interval={interval!r}): wanted epochs, -1 for the last one only, None for never")
    parts = name.split("/")
    if not name or "" in parts or {".", ".."} & set(parts):
        problems.append(f"auto_save(name={name!r}): wanted the name of a file, such as 'model_epoch{{epoch:02d}}'")
    try:
        for _, field, form in parsed(name):
            if field == "":
                raise ValueError("{} names nothing; wanted a field, such as {epoch}")
            if field is not None:
                check_format(field, form)
    except ValueError as error:
        problems.append(f"auto_save(name={name!r}): {error}")
    if problems:
        raise ConfigError(problems)
    return AutoSave(interval or None, fspath(folder), name, overwrite, save_model_code)


class Loss:
    """A loss function and what it is called with, beside outputs and targets."""

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        """A class is made with the arguments; any other function is called with them."""
        if isinstance(function, type):
            function, arguments = function(**arguments), {}
        if getattr(function, "reduction", "mean") != "mean":
            raise ConfigError(
                f"set_loss_fn: the loss has reduction={function.reduction!r}; wanted 'mean', the mean over the samples"  # type: ignore[attr-defined]
            )
        self.function, self.arguments = function, dict(arguments)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        return self.function(outputs, targets, **self.arguments)


@dataclass
class Parts:
    """All that a handler has: what was set, and what has become of it."""

    model: nn.Module
    node: Mapping[str, Any]
    """The call that made the model."""
    device: torch.device
    world: World
    network: nn.Module
    """What computes: the model, or what was put around it."""
    state: TrainState | None = None
    """None until there is an optimizer."""
    optimizer_node: Mapping[str, Any] | None = None
    scheduler_node: Mapping[str, Any] | None = None
    scheduler_state: Mapping[str, Any] | None = None
    """Of a scheduler that could not be made from the file: it waits for `set_scheduler`."""
    waiting_rates: Sequence[float] = ()
    """The learning rates that it had made."""
    loss: Loss | None = None
    loss_node: Mapping[str, Any] | None = None
    metrics: dict[str, Callable[..., Any]] = field(default_factory=dict)
    train: Split | None = None
    validation: Split | None = None
    early_stopping: EarlyStopping = field(default_factory=lambda: EarlyStopping(None, 0.0))
    auto: AutoSave | None = None
    elsewhere: Path | None = None
    """Where a file would have it save by itself, though that is not where the file is."""
    auto_saved: list[str] = field(default_factory=list)
    """The files that it has saved by itself and not removed, if only the newest is kept."""
    came_from: Path | None = None
    """The file that it was loaded from, if that seems to be the last of these: they may have been moved, or copied."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row an epoch."""
    seed: int | None = None
    """None until the training has begun."""
    ema_decay: float | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    """The state of the objective and of the batches, between two trainings."""
    generators: Mapping[str, Any] | None = None
    """The random generators as the last training left them; None before the first and within one."""
    cut: Mapping[str, Any] | None = None
    """How the epoch that the training stands in was cut into batches."""
    run: str = ""
    """The same in all the files of a training."""


def described(parts: Parts) -> str:
    """What a handler has, and where it stands, in a line."""
    state = parts.state
    said = [type(parts.model).__name__, f"on {parts.device}"]
    if state is not None:
        scheduled = [] if parts.scheduler_node is None else [str(parts.scheduler_node["_target_"]).rpartition(".")[2]]
        said += ["with", " and ".join([type(state.optimizer).__name__, *scheduled])]
    at = Progress() if state is None else state.progress
    best = "" if state is None or state.best is None else f", best val_loss {score(state.best.value)}"
    return f"{' '.join(said)}, {position(at.step, at.epoch, at.batch)}{best}"


def plan_of(
    *,
    epochs: int,
    done: int,
    validate_every: int | None,
    gradient_accumulation_steps: int,
    use_amp: bool,
    gradient_clipping_norm: float | None,
    ema_decay: float,
    schedule: str,
    early_stopping: EarlyStopping,
    device: torch.device,
) -> Trainer:
    """The engine's plan of a training of `epochs` more, after `done`. ConfigError with every problem."""
    clip = gradient_clipping_norm
    checks = {
        f"epochs={epochs!r}": (_is_count(epochs, 1), "a whole number from 1"),
        f"validate_every={validate_every!r}": (
            validate_every is None or _is_count(validate_every, 0),
            "a whole number of epochs, or 0 or None for never",
        ),
        f"gradient_accumulation_steps={gradient_accumulation_steps!r}": (
            _is_count(gradient_accumulation_steps, 1),
            "a whole number of batches from 1",
        ),
        f"gradient_clipping_norm={clip!r}": (clip is None or clip > 0, "a number above 0, or None"),
        f"ema_decay={ema_decay!r}": (0 <= ema_decay < 1, "a number in [0, 1), 0 for no averaged weights"),
    }
    problems = [f"train({what}): wanted {wanted}" for what, (right, wanted) in checks.items() if not right]
    if problems:
        raise ConfigError(problems)
    reduced = "fp16" if device.type == "cuda" else "bf16"
    return Trainer(
        max_epochs=done + epochs,
        max_steps=None,
        max_time=None,
        accumulate=gradient_accumulation_steps,
        clip_norm=clip,
        precision=reduced if use_amp else "fp32",
        ema_decay=ema_decay or None,
        schedule=schedule,
        nonfinite="stop",
        deterministic=False,
        log_every=50,
        evaluate=Evaluate(every_epochs=validate_every or None, every_steps=None, weights="raw"),
        early_stopping=early_stopping,
        limits=Limits(None, None),
    )


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least
