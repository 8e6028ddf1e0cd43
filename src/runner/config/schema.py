"""The typed parts of a config: `trainer`, `checkpoint`, `runtime`, and what the runner reads of `data`. No values."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.checkpoint.naming import check_template
from runner.checkpoint.policies import KeepPolicy, SavePolicy
from runner.config.initial import Init
from runner.config.names import did_you_mean, shown
from runner.training.plan import Trainer

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass
class Checkpointing:
    """`checkpoint`: when and how to save, and what to keep."""

    name: str
    """The template for a checkpoint's directory; any counter and metric is a field."""
    asynchronous: bool
    """Whether a thread writes while the training goes on. Takes memory for one copy of the state, either way."""
    when_busy: str
    """What becomes of a save that is due while another is under way: `wait`, or `skip` until that one is done."""
    on_failure: str
    """Whether the training stops when a checkpoint could not be written: `stop`, or `continue`."""
    read_back: bool
    """Whether every byte is read again from the disk, and compared, before a checkpoint counts as saved."""
    save: SavePolicy
    keep: KeepPolicy

    def __post_init__(self) -> None:
        problems = [
            f"checkpoint.{key} is {value!r}; wanted {' or '.join(words)}"
            for key, value, words in (
                ("when_busy", self.when_busy, ("wait", "skip")),
                ("on_failure", self.on_failure, ("stop", "continue")),
            )
            if value not in words
        ]
        try:
            check_template(self.name)
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))


@dataclass
class Batching:
    """The keys of `data` that the runner takes off before the rest is handed to its target."""

    batch_size: int
    evaluation_batch_size: int
    shuffle: bool
    drop_last: bool

    def __post_init__(self) -> None:
        problems = [
            f"data.{key} is {size}; wanted at least 1"
            for key, size in (("batch_size", self.batch_size), ("evaluation_batch_size", self.evaluation_batch_size))
            if size < 1
        ]
        if problems:
            raise ValueError("\n".join(problems))


@dataclass
class Runtime:
    """`runtime`: where and how to compute. None of it belongs to what a run is."""

    device: str
    workers: int
    threads: int | None
    compile: bool
    progress: bool

    def __post_init__(self) -> None:
        problems = []
        kind, colon, index = self.device.partition(":")
        if kind not in DEVICES or (colon and not (kind == "cuda" and index.isdigit())):
            problems.append(f"runtime.device is {self.device!r}; wanted one of {', '.join(DEVICES)}, or cuda:N")
        if self.workers < 0:
            problems.append(f"runtime.workers is {self.workers!r}; wanted 0 or more processes")
        if self.threads is not None and self.threads < 1:
            problems.append(f"runtime.threads is {self.threads!r}; wanted a whole number from 1, or null")
        if problems:
            raise ValueError("\n".join(problems))


SCHEMAS: Mapping[str, type] = {"trainer": Trainer, "checkpoint": Checkpointing, "runtime": Runtime, "init": Init}


def typed(schema: type[T], section: str, value: Any) -> tuple[T | None, list[str]]:
    """`value` as an instance of `schema`, or None and everything that is wrong with it, one line each."""
    if not isinstance(value, Mapping):
        return None, [f"{section} is {shown(value)}; wanted a section with {', '.join(names_of(schema))}"]
    problems = [
        f"{section}.{key}: no such key{did_you_mean(str(key), names_of(schema), prefix=section + '.')}"
        for key in value
        if key not in names_of(schema)
    ]
    hints = typing.get_type_hints(schema)
    made: dict[str, Any] = {}
    for name in names_of(schema):
        where, hint = f"{section}.{name}", hints[name]
        if name not in value:
            problems.append(f"{where}: not there; type ++{where}=VALUE")
        elif value[name] == "???":
            problems.append(f"{where}: no value yet; type {where}=VALUE")
        elif is_dataclass(hint) and isinstance(hint, type):
            made[name], wrong = typed(hint, where, value[name])
            problems += wrong
        else:
            made[name], wrong = _leaf(schema, name, hint, where, value[name])
            problems += wrong
    if problems:
        return None, problems
    try:
        return schema(**made), []
    except ValueError as error:
        return None, str(error).splitlines()


@cache
def _structured(schema: type) -> Any:
    """`schema` as OmegaConf sees it: made once, though each of its keys is checked against it."""
    return OmegaConf.structured(schema)


def _leaf(schema: type, name: str, hint: Any, where: str, value: Any) -> tuple[Any, list[str]]:
    """One value after OmegaConf's own conversion ("3" to 3) and check."""
    try:
        merged = OmegaConf.merge(_structured(schema), {name: value})
        return OmegaConf.to_container(merged)[name], []  # type: ignore[call-overload, index]
    except OmegaConfBaseException:
        return None, [f"{where} is {shown(value)}; wanted {_wanted(hint)}"]


def names_of(schema: type) -> tuple[str, ...]:
    """The keys of a section."""
    return tuple(one.name for one in fields(schema))


def _wanted(hint: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        list[int]: "a list of whole numbers",
        type(None): "null",
    }
    options = typing.get_args(hint) or (hint,)
    return " or ".join(words[option] for option in options if option in words)
