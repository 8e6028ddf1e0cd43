"""A model, its optimizer and its scheduler, made from classes and arguments: what a container holds."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runner.config.calls import call_of
from runner.doors.rebuilding import call_without_first, first_parameter
from runner.errors import ConfigError, InitializationError

WORDS = {
    "model": ("model_class", "model_kwargs"),
    "optimizer": ("optim_class", "optim_kwargs"),
    "scheduler": ("scheduler_class", "scheduler_kwargs"),
}
"""The parts, in the order in which they are made, each with what its class and its arguments are called."""
KINDS: Mapping[str, type] = {"model": nn.Module, "optimizer": Optimizer, "scheduler": LRScheduler}


class ModelObjects(NamedTuple):
    """What a container makes."""

    model: nn.Module
    optimizer: Optimizer | None = None
    scheduler: LRScheduler | None = None


@dataclass(frozen=True)
class Made:
    """The objects, and by their parts how they were made."""

    objects: ModelObjects
    nodes: Mapping[str, Mapping[str, Any]]
    """The calls as data, without the first argument: the model's parameters, the optimizer."""
    arguments: Mapping[str, Mapping[str, Any]]
    """The arguments that were given."""

    def model_alone(self) -> "Made":
        alone = ({"model": parts["model"]} for parts in (self.nodes, self.arguments))
        return Made(ModelObjects(self.objects.model), *alone)


Classes = Mapping[str, Callable[..., Any] | None]
Arguments = Mapping[str, Mapping[str, Any] | None]


def initialized(classes: Classes, arguments: Arguments) -> Made:
    """Make the objects of these classes. Raises ConfigError, and InitializationError from what a constructor raises."""
    check_kinds(classes)
    _check_together(classes, arguments)
    given = {part: dict(arguments[part] or {}) for part, made in classes.items() if made is not None}
    nodes: dict[str, Mapping[str, Any]] = {}
    model, nodes["model"] = initialize("model", classes["model"], given["model"])
    optimizer, scheduler = None, None
    if classes["optimizer"] is not None:
        optimizer, nodes["optimizer"] = initialize(
            "optimizer", classes["optimizer"], given["optimizer"], model.parameters()
        )
    if classes["scheduler"] is not None:
        scheduler, nodes["scheduler"] = initialize("scheduler", classes["scheduler"], given["scheduler"], optimizer)
    return Made(ModelObjects(model, optimizer, scheduler), nodes, given)


def initialize(part: str, made: Any, given: Mapping[str, Any], *first: Any) -> tuple[Any, dict[str, Any]]:
    """One of the objects, and the node of the call that makes it. Raises InitializationError, ConfigError.

    `first` is what the part is made for: the parameters of an optimizer, the optimizer of a scheduler.
    """
    name, kwargs_word = getattr(made, "__qualname__", repr(made)), WORDS[part][1]
    try:
        if first and (ahead := first_parameter(made)) in given:
            what = "the model's parameters" if part == "optimizer" else "the optimizer"
            if part == "scheduler" and ahead != "optimizer" and "optimizer" in inspect.signature(made).parameters:
                raise ConfigError(
                    f"scheduler_class: {name} takes {ahead!r} first, and not the optimizer, which the container gives; "
                    f"give a function in its place that takes the optimizer and makes a {name} for it"
                )
            raise ConfigError(f"{kwargs_word} has {ahead!r}: the container itself gives {what}; leave it out")
        node = call_without_first(made, given) if first else call_of(made, (), given)
        built = made(*first, **given)
    except ConfigError:
        raise
    except Exception as error:
        # A constructor may raise anything; all of it is for the user to see.
        told = ", ".join(f"{key}={value!r:.40}" for key, value in given.items())
        raise InitializationError(
            f"{part}: {name}({told}) could not be built: {type(error).__name__}: {error}; give other {kwargs_word}"
        ) from error
    if not isinstance(built, KINDS[part]):
        raise InitializationError(
            f"{part}: {name} made a {type(built).__name__}; wanted a {KINDS[part].__module__}.{KINDS[part].__name__}"
        )
    return built, node


def check_kinds(classes: Classes) -> None:
    """Raise ConfigError for what is no class of the right kind. In place of the last two a function can stand."""
    problems = []
    for part, made in classes.items():
        if made is None:
            continue
        kind, word = KINDS[part], WORDS[part][0]
        wanted = f"wanted a class of {kind.__module__}.{kind.__name__}"
        if isinstance(made, kind):
            problems.append(f"{word} is an object, {type(made).__name__}(...); {wanted}: give {type(made).__name__}")
        elif (isinstance(made, type) or part == "model") and not (isinstance(made, type) and issubclass(made, kind)):
            problems.append(f"{word} is {made!r:.80}; {wanted}")
        elif not (callable(made) and hasattr(made, "__qualname__")):
            problems.append(f"{word} is {made!r:.80}; {wanted}, or a function that makes one")
    if problems:
        raise ConfigError(problems)


def _check_together(classes: Classes, arguments: Arguments) -> None:
    problems = []
    if classes["model"] is None:
        problems.append("model_class is None; wanted a class of torch.nn.Module")
    if classes["scheduler"] is not None and classes["optimizer"] is None:
        problems.append("scheduler_class without optim_class: a scheduler drives an optimizer; give both")
    for part, (class_word, kwargs_word) in WORDS.items():
        given = arguments[part]
        if classes[part] is None and given:
            problems.append(f"{kwargs_word} without {class_word}: there is nothing that they are for; give it, too")
        if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
            problems.append(f"{kwargs_word} is {given!r:.80}; wanted a dict of arguments by name")
    if problems:
        raise ConfigError(problems)
