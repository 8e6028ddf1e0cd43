"""The objects of a container made again from what a file says, with the state that they had."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runner.checkpoint.contents import TAG
from runner.config.calls import POSITIONAL, build_call, build_value, encoded, target_of
from runner.config.decoding import is_missing
from runner.config.secrets import REDACTED
from runner.config.targets import GROUP_LEVEL
from runner.doors.container_calls import (
    WORDS,
    Arguments,
    Classes,
    Made,
    ModelObjects,
    call_of_config,
    check_kinds,
    first_parameter,
    initialize,
)
from runner.errors import CheckpointError, ConfigError, DamagedError, FormatError
from runner.runs.fitting import fit, values_of
from runner.runs.saved import SavedModel, build, is_call
from runner.training import optimizer_state
from runner.training.generators import untouched
from runner.training.module_state import load_transient
from runner.training.schedule import TorchScheduler

log = logging.getLogger(__name__)

DOOR = "ModelContainer"
"""What a container's file says under `door`."""


@dataclass(frozen=True)
class Wishes:
    """What the caller of `load` says beside the path; it wins over what the file says."""

    classes: Classes
    arguments: Arguments
    moved: Mapping[str, Any]
    trust: Sequence[str]
    device: torch.device


def rebuilt(saved: SavedModel, wishes: Wishes) -> Made:
    """Make the objects that a file tells of, and give them the state that they had.

    Draws no random number that would show outside. Raises CheckpointError, TrustError, ConfigError.
    """
    check_kinds(wishes.classes)
    with untouched():
        reading = _Reading(saved, wishes)
        model = reading.model()
        optimizer = reading.optimizer(model) if "optimizer" in reading.nodes else None
        scheduler = reading.scheduler(optimizer) if optimizer is not None and "scheduler" in reading.nodes else None
        # The constructor of a scheduler changes learning rates: so all is built before any state is loaded.
        if optimizer is not None:
            reading.restore_optimizer(optimizer, model)
        if scheduler is not None:
            reading.restore_scheduler(scheduler)
        return Made(ModelObjects(model, optimizer, scheduler), reading.nodes_now(), reading.arguments())


class _Reading:
    """One pass over the parts of a file."""

    def __init__(self, saved: SavedModel, wishes: Wishes) -> None:
        self._saved, self._where, self._wishes = saved, saved.where, wishes
        self._passed = {part: dict(wishes.arguments[part] or {}) for part in WORDS}
        keys = ("optimizer", "scheduler", "transient")
        self._state = {} if saved.checkpoint is None else saved.checkpoint.state(keys)
        self._built: nn.Module | None = None
        """The model, where no stored call makes it."""
        self.nodes = self._nodes()
        self._given = {
            node["_target_"]: wishes.classes[part]
            for part, node in self.nodes.items()
            if wishes.classes[part] is not None
        }
        # They have passed the gate.
        self._makers = {
            part: self._named({TAG: "name", "value": node["_target_"]}, part)
            for part, node in self.nodes.items()
            if part != "model"
        }
        self._ahead = {part: first_parameter(maker) for part, maker in self._makers.items()}
        self._check_passed()
        self._check_lost()

    def _nodes(self) -> dict[str, Mapping[str, Any]]:
        """The calls that make the objects."""
        config, model_class = self._saved.config, self._wishes.classes["model"]
        if "model" in config and not is_call(self._saved):
            return self._of_run()
        if "model" in config:
            nodes = {part: config[part] for part in WORDS if part in config}
            for part, node in nodes.items():
                if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
                    raise FormatError(f"{self._where}: {part} is {node!r:.80}; wanted a mapping with a _target_")
            return nodes
        if model_class is None:
            raise CheckpointError(
                f"{self._where}: holds weights, and does not tell how their model is made; say it: "
                "load(path, Net, model_kwargs={...})"
            )
        self._built, node = initialize("model", model_class, self._passed["model"])
        return {"model": node}

    def _of_run(self) -> dict[str, Mapping[str, Any]]:
        saved = self._saved
        self._built, config = self._build("model", "optimizer")
        # How its groups are made is for the runner to know; what they hold and how is in the state.
        optimizer = {key: value for key, value in config["optimizer"].items() if key not in GROUP_LEVEL["optimizer"]}
        log.warning(
            "%s: of a run no scheduler is made, because the run drives it; runner.restore loads it", saved.where
        )
        return {"model": call_of_config(config["model"]), "optimizer": call_of_config(optimizer)}

    def _build(self, *keys: str) -> tuple[nn.Module, dict[str, Any]]:
        model_class, target = self._wishes.classes["model"], self._saved.target
        return build(
            self._saved,
            keys,
            arguments=self._passed["model"],
            given={target: model_class} if target is not None and isinstance(model_class, type) else {},
            moved=self._wishes.moved,
            trust=self._wishes.trust,
        )

    def _named(self, form: Any, part: str) -> Any:
        return build_value(
            form,
            where=self._where,
            given=self._given,
            moved=self._wishes.moved,
            trust=self._wishes.trust,
            path=part,
        )

    def _check_passed(self) -> None:
        """What the caller passes must have a place. ConfigError."""
        for part, (class_word, kwargs_word) in WORDS.items():
            if part not in self.nodes and (self._wishes.classes[part] is not None or self._passed[part]):
                raise ConfigError(f"{self._where}: has no {part}; leave {class_word} and {kwargs_word} out")
            known = [name for name in self._passed[part] if _lost(self.nodes[part].get(name)) is None]
            if part != "model" and known:
                raise ConfigError(
                    f"{self._where}: {kwargs_word} {', '.join(map(repr, known))}: the file has it, and a state that "
                    f"goes with it; leave it out, and change the {part} once it is loaded"
                )

    def _check_lost(self) -> None:
        """Arguments that no file can hold have to be passed. CheckpointError, with all of them."""
        problems = []
        for part, node in self.nodes.items():
            target, word = node["_target_"].rpartition(".")[2], WORDS[part][1]
            for name, form in node.items():
                lost = _lost(form)
                if lost is not None and name not in self._passed[part] and name != self._ahead.get(part):
                    problems.append(
                        f"{self._where}: {target}({name}=...) {lost}; pass it: load(path, {word}={{{name!r}: ...}})"
                    )
        if problems and self._built is None:
            raise CheckpointError("\n".join(problems))

    def model(self) -> nn.Module:
        """The model with its weights and its transient state, on the device."""
        device, checkpoint = self._wishes.device, self._saved.checkpoint
        model = self._build("model")[0] if self._built is None else self._built
        values = values_of(model, self._saved.tensors, checkpoint)
        fit(model, values, where=self._where, as_saved=True, hint="give the class and the arguments as they were then")
        model.to(device)
        load_transient(model, self._state.get("transient") or {}, device)
        return model

    def optimizer(self, model: nn.Module) -> Optimizer:
        """One with the groups that were saved, without its state."""
        saved = self._saved_of("optimizer")
        optimizer: Optimizer = self._made("optimizer", model.parameters())
        if optimizer_state.same_groups(optimizer, model, saved):
            return optimizer
        parameters = dict(model.named_parameters())
        names = [list(group["params"]) for group in saved["groups"]]
        lost = sorted({name for group in names for name in group} - parameters.keys())
        if lost:
            raise CheckpointError(
                f"{self._where}: the optimizer trained {lost[0]!r}, which the model does not have now; give the "
                "class and the arguments as they were then"
            )
        groups = [{"params": [parameters[name] for name in group]} for group in names]
        regrouped: Optimizer = self._made("optimizer", groups)
        return regrouped

    def scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """One that drives `optimizer`, without its state."""
        scheduler: LRScheduler = self._made("scheduler", optimizer)
        return scheduler

    def _made(self, part: str, first: Any) -> Any:
        """The optimizer or the scheduler, without its state."""
        ahead, saved, maker = self._ahead[part], self._saved_of(part), self._makers[part]
        if isinstance(maker, type):
            self._check_class(part, saved, maker)
        made = build_call(
            self.nodes[part],
            where=self._where,
            arguments={**self._passed[part], ahead: [first] if ahead == POSITIONAL else first},
            given=self._given,
            moved=self._wishes.moved,
            trust=self._wishes.trust,
            path=part,
        )
        self._check_class(part, saved, type(made))
        return made

    def _saved_of(self, part: str) -> Mapping[str, Any]:
        saved = self._state.get(part)
        if not isinstance(saved, Mapping) or not isinstance(saved.get("class"), str):
            raise DamagedError(f"{self._where}: has no state of the {part} that it tells of; use another checkpoint")
        return saved

    def _check_class(self, part: str, saved: Mapping[str, Any], made: type) -> None:
        """Raise CheckpointError if it is another class than the one whose state was saved."""
        there, here = saved["class"], target_of(made)
        if there.rpartition(".")[2] == here.rpartition(".")[2] or self.nodes[part]["_target_"] in self._wishes.moved:
            return
        raise CheckpointError(
            f"{self._where}: the {part} was a {there}, and this is a {here}, which its state does not fit; give the "
            "class as it was"
        )

    def restore_optimizer(self, optimizer: Optimizer, model: nn.Module) -> None:
        notes = optimizer_state.restore(optimizer, model, self._saved_of("optimizer"))
        if notes:
            raise CheckpointError("\n".join(f"{self._where}: cannot be restored: {note}" for note in notes))

    def restore_scheduler(self, scheduler: LRScheduler) -> None:
        TorchScheduler(scheduler).load_state_dict(self._saved_of("scheduler")["state"])

    def nodes_now(self) -> dict[str, Mapping[str, Any]]:
        """The calls that made the objects."""
        return {
            part: {
                **{name: form for name, form in node.items() if name != self._ahead.get(part)},
                **{name: encoded(value) for name, value in self._passed[part].items()},
            }
            for part, node in self.nodes.items()
        }

    def arguments(self) -> dict[str, Mapping[str, Any]]:
        """What the objects were made with: as a container notes it, what was given to it; else, all that is known."""
        arguments: dict[str, Mapping[str, Any]] = {}
        for part, node in self.nodes.items():
            noted = self._saved.metadata.get(WORDS[part][1]) if self._saved.config.get("door") == DOOR else None
            if part not in self._saved.config:
                noted = {}
            names: Iterable[str] = noted if isinstance(noted, Mapping) else node
            left_out = {"_target_", self._ahead.get(part), *self._passed[part]}
            forms = {name: node[name] for name in names if name in node and name not in left_out}
            arguments[part] = {**self._named(forms, part), **self._passed[part]}
        return arguments


def _lost(form: Any) -> str | None:
    """Why an argument is not in the file, if it is not."""
    if is_missing(form):
        return f"was not stored: it {form['why']}"
    if isinstance(form, list) and any(map(is_missing, form)):
        return "was not stored: no file can hold all of it"
    if isinstance(form, str) and REDACTED in form:
        return "was not stored: it looks like a secret"
    return None
