"""The model, the optimizer and the scheduler of a file made again, from the calls that made them: nodes of its config.

The node of an optimizer is without what it is made for, the parameters; that of a scheduler without the optimizer.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from runner.checkpoint.contents import TAG
from runner.checkpoint.matching import unwrapped
from runner.config.calls import POSITIONAL, build_call, build_value, call_of, encoded, target_of, unavailable
from runner.errors import CheckpointError, ConfigError, FormatError, RunnerError
from runner.runs.fitting import own_names, own_state
from runner.runs.saved import SavedModel, build
from runner.training import optimizer_state
from runner.training.module_state import transient
from runner.trust import INSTRUCTIONS


def call_without_first(made: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a call without its first argument. Raises TypeError where the call would."""
    node = call_of(made, (None,), kwargs)
    del node[first_parameter(made)]
    return node


def first_parameter(made: Callable[..., Any]) -> str:
    """Under which name a node has the first argument of a class or function."""
    one = next(iter(inspect.signature(made).parameters.values()), None)
    if one is None or one.kind is one.KEYWORD_ONLY or one.kind is one.VAR_KEYWORD:
        raise TypeError("takes no argument by position")
    return POSITIONAL if one.kind is one.VAR_POSITIONAL else one.name


def call_of_config(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node of a run's config as the call that `config/calls.py` has."""
    arguments = {key: _form_of(value) for key, value in node.items() if key not in INSTRUCTIONS or key == POSITIONAL}
    return {"_target_": node["_target_"], **arguments}


def _form_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_form_of(item) for item in value]
    if not isinstance(value, Mapping):
        return encoded(value)
    if "_target_" not in value:
        return {key: _form_of(item) for key, item in value.items()}
    call = call_of_config(value)
    kind = "partial" if value.get("_partial_") else "call"
    form = {TAG: kind, "of": call.pop("_target_"), "arguments": call}
    return form if kind == "call" else {**form, "arguments": {POSITIONAL: [], **call}}


def check_parameters(optimizer: Optimizer, model: nn.Module, where: Path) -> None:
    """Raise ConfigError if an optimizer, which is to be saved at `where`, trains what is not in the model."""
    known = set(model.parameters())
    foreign = sum(one not in known for group in optimizer.param_groups for one in group["params"])
    if foreign:
        raise ConfigError(
            f"{where}: not written: the optimizer trains {foreign} parameters that are not in the model, so that "
            "they could not be found again; make them part of the model"
        )


def under_own_names(state: Mapping[str, Any], model: nn.Module, where: Path) -> dict[str, Any]:
    """A state as it is saved at `where`: a compiled part of the model has other names than one that is built again.

    Raises SaveError for tensors that have no values.
    """
    return {**_renamed(state, own_names(model)), "model": own_state(model, where)}


def under_names_of(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a file, by the names that it has in `model`."""
    names = (*model.state_dict(), *dict(model.named_parameters()), *transient(model))
    # A name that the model has is meant as it is.
    live = {**{unwrapped(name): name for name in names}, **{name: name for name in names}}
    chosen = {part: state[part] for part in ("model", "optimizer", "transient") if part in state}
    return {**state, **_renamed(chosen, lambda name: live.get(name, live.get(unwrapped(name), name)))}


def _renamed(state: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {named(name): value for name, value in values.items()}

    new = {**state, **{part: renamed(state[part]) for part in ("model", "transient") if state.get(part)}}
    if state.get("averaged") is not None:
        new["averaged"] = {**state["averaged"], "model": renamed(state["averaged"]["model"])}
    optimizer = state.get("optimizer")
    if optimizer is not None and "own" not in optimizer:
        groups = [{**group, "params": [named(name) for name in group["params"]]} for group in optimizer["groups"]]
        new["optimizer"] = {**optimizer, "groups": groups, "state": renamed(optimizer["state"])}
    return new


@contextmanager
def as_written(where: Path) -> Iterator[None]:
    """What is stumbled over in a state that no door writes is a FormatError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, RunnerError | torch.OutOfMemoryError):
            raise
        raise FormatError(f"{where}: holds no state as a door writes it ({error!r:.200}); use another file") from error


@dataclass(frozen=True)
class Wishes:
    """What the caller of `load` says beside the path, by part; it wins over what the file says."""

    arguments: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, Any]
    """None for a part whose class is that of the file."""
    moved: Mapping[str, Any]
    trust: Sequence[str]


class Rebuilding:
    """One pass over the parts of a file. Gives them no state but the groups of the optimizer."""

    def __init__(self, saved: SavedModel, nodes: Mapping[str, Mapping[str, Any]], wishes: Wishes) -> None:
        """Looks all names up, so that a file that is not trusted is refused before anything of it is made."""
        self.saved, self.where, self.nodes, self._wishes = saved, saved.where, nodes, wishes
        for part, node in nodes.items():
            if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
                raise FormatError(f"{self.where}: {part} is {node!r:.80}; wanted a mapping with a _target_")
        classes = {part: made for part, made in wishes.classes.items() if made is not None and part in nodes}
        self._given = {nodes[part]["_target_"]: made for part, made in classes.items()}
        self._ahead = {part: self._first_of(part) for part in nodes if part != "model"}

    def _first_of(self, part: str) -> str:
        target = self.nodes[part]["_target_"]
        maker = self.value({TAG: "name", "value": target}, part)
        try:
            return first_parameter(maker)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.where}: {part}: {target} {error}, which makes no {part}") from error

    def value(self, form: Any, part: str) -> Any:
        """The value of an encoded form."""
        wishes = self._wishes
        return build_value(form, where=self.where, given=self._given, moved=wishes.moved, trust=wishes.trust, path=part)

    def model(self, *keys: str) -> tuple[nn.Module, dict[str, Any]]:
        """The model with the weights it is born with, and what stands under `keys` in the config."""
        wishes = self._wishes
        return build(
            self.saved,
            ("model", *keys),
            arguments=wishes.arguments["model"],
            given=self._given,
            moved=wishes.moved,
            trust=wishes.trust,
        )

    def optimizer(self, model: nn.Module, state: Mapping[str, Any]) -> Optimizer:
        """One with the groups that `state` has, which `optimizer_state.capture` gave."""
        optimizer = self._made("optimizer", model.parameters())
        if not isinstance(optimizer, Optimizer):
            raise CheckpointError(
                f"{self.where}: optimizer made a {type(optimizer).__name__}; wanted a torch.optim.Optimizer"
            )
        if optimizer_state.same_groups(optimizer, model, state):
            return optimizer
        parameters = dict(model.named_parameters())
        groups = [[name for name in group["params"] if name in parameters] for group in state["groups"]]
        regrouped: Optimizer = self._made("optimizer", [{"params": [parameters[n] for n in names]} for names in groups])
        return regrouped

    def scheduler(self, optimizer: Optimizer) -> Any:
        return self._made("scheduler", optimizer)

    def _made(self, part: str, first: Any) -> Any:
        ahead = self._ahead[part]
        return build_call(
            self.nodes[part],
            where=self.where,
            arguments={**self._wishes.arguments[part], ahead: [first] if ahead == POSITIONAL else first},
            given=self._given,
            moved=self._wishes.moved,
            trust=self._wishes.trust,
            path=part,
        )

    def lost(self, part: str) -> dict[str, str]:
        """The arguments of a part that are neither in the file nor passed, and why."""
        there = {*self._wishes.arguments[part], self._ahead.get(part)}
        return {name: why for name, why in unavailable(self.nodes[part]).items() if name not in there}

    def check_passed(self, part: str, word: str) -> None:
        """Raise ConfigError for passed arguments (called `word`) that the state of a part would undo."""
        absent = unavailable(self.nodes[part])
        if known := [name for name in self._wishes.arguments[part] if name in self.nodes[part] and name not in absent]:
            raise ConfigError(
                f"{self.where}: {word} {', '.join(map(repr, known))}: the file has it, and a state that "
                f"goes with it; leave it out, and change the {part} once it is loaded"
            )

    def left_out(self, part: str) -> Iterable[str | None]:
        """What is no argument of a file's call, or stands in for one."""
        return ("_target_", self._ahead.get(part), *self._wishes.arguments[part])

    def node(self, part: str) -> dict[str, Any]:
        """The call that makes a part now."""
        node = self.nodes[part]
        target = node["_target_"]
        made = self._given.get(target, self._wishes.moved.get(target, target))
        return {
            "_target_": made if isinstance(made, str) else target_of(made),
            **{name: form for name, form in node.items() if name not in self.left_out(part)},
            **{name: encoded(value) for name, value in self._wishes.arguments[part].items()},
        }
