"""What a handler makes from the classes that it is given."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runner.doors.rebuilding import first_parameter
from runner.errors import ConfigError

Made = TypeVar("Made")
_FIRST = {Optimizer: "the model's parameters", LRScheduler: "the optimizer"}
_WANTED = {
    nn.Module: "a torch.nn.Module",
    Optimizer: "a torch.optim.Optimizer",
    LRScheduler: "one of torch's schedulers",
}


def made_by(where: str, maker: Any, kind: type[Made], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Made:
    """What a class or function makes. ConfigError, naming `where`, if it is none, or makes what is not of this kind."""
    if isinstance(maker, kind) or not callable(maker):
        name, call = type(maker).__name__, where.partition("(")[0]
        raise ConfigError(
            f"{where}: is an object, {name}(...); wanted its class, with its arguments by name, so that a file can say "
            f"how it is made: {call}({name}, ...)"
        )
    if args:
        _check_first(where, maker, _FIRST[kind], kwargs)
    made = maker(*args, **kwargs)
    if not isinstance(made, kind):
        raise ConfigError(f"{where}: made a {type(made).__name__}; wanted {_WANTED[kind]}")
    return made


def _check_first(where: str, maker: Any, what: str, kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for a maker that has no place for what it is given first."""
    name = getattr(maker, "__qualname__", repr(maker))
    try:
        ahead = first_parameter(maker)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {name} {error}; wanted what takes {what} first") from error
    if ahead in kwargs:
        raise ConfigError(
            f"{where}: {name} takes {ahead!r} first, where the handler gives {what}; leave it out, or give a function "
            f"that takes {what} and makes a {name}"
        )
