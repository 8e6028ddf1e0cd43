"""The objects of a container made again from what a file says, with the state that they had."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from runner.config.encoding import target_of
from runner.config.targets import GROUP_LEVEL
from runner.doors.container_calls import WORDS, Made, ModelObjects, check_kinds, initialize
from runner.doors.rebuilding import Rebuilding, Wishes, as_written, call_of_config, under_names_of
from runner.errors import CheckpointError, ConfigError, DamagedError
from runner.runs.fitting import fit, values_of
from runner.runs.saved import SavedModel, is_call
from runner.training import optimizer_state
from runner.training.generators import untouched
from runner.training.module_state import load_transient
from runner.training.schedule import TorchScheduler

log = logging.getLogger(__name__)

DOOR = "ModelContainer"
"""What a container's file says under `door`."""
_AS_THEN = "give the class and the arguments as they were then"


def rebuilt(saved: SavedModel, wishes: Wishes, device: torch.device) -> Made:
    """Make the objects that a file tells of on `device`, and give them the state that they had.

    Draws no random number that would show outside. Raises CheckpointError, TrustError, ConfigError.
    """
    check_kinds(wishes.classes)
    with as_written(saved.where), untouched():
        return _Reading(saved, wishes, device).made()


class _Reading:
    """One pass over the parts of a file."""

    def __init__(self, saved: SavedModel, wishes: Wishes, device: torch.device) -> None:
        self.saved, self.where, self.wishes, self.device = saved, saved.where, wishes, device
        keys = ("optimizer", "scheduler", "transient")
        self.state = {} if saved.checkpoint is None else saved.checkpoint.state(keys)
        self.model: nn.Module | None = None
        """None until it is made."""
        nodes = self._nodes()
        self._check_importable(nodes)
        self.file = Rebuilding(saved, nodes, wishes)
        self._check()

    def _nodes(self) -> dict[str, Mapping[str, Any]]:
        """The calls that make the objects."""
        config = self.saved.config
        if "model" not in config:
            if (model_class := self.wishes.classes["model"]) is None:
                raise CheckpointError(
                    f"{self.where}: holds weights, and does not tell how their model is made; say it: "
                    "load(path, Net, model_kwargs={...})"
                )
            self.model, node = initialize("model", model_class, self.wishes.arguments["model"])
            return {"model": node}
        if is_call(self.saved):
            return {part: config[part] for part in WORDS if part in config}
        self.model, config = Rebuilding(self.saved, {"model": config["model"]}, self.wishes).model("optimizer")
        # How its groups are made is for the runner to know; what they hold and how is in the state.
        optimizer = {key: value for key, value in config["optimizer"].items() if key not in GROUP_LEVEL["optimizer"]}
        log.warning("%s: of a run no scheduler is made, because the run drives it; runner.restore loads it", self.where)
        return {"model": call_of_config(config["model"]), "optimizer": call_of_config(optimizer)}

    def _check_importable(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise CheckpointError for a lambda in place of a class: what has no name has moved nowhere."""
        for part, node in nodes.items():
            target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
            passed = self.wishes.classes[part] is not None or target in self.wishes.moved
            if target.endswith("<lambda>") and not passed:
                raise CheckpointError(
                    f"{self.where}: {part}: was made by a lambda, which has no name that it can be imported by; "
                    f"pass it: load(path, {WORDS[part][0]}=...)"
                )

    def _check(self) -> None:
        """What the caller passes must have a place, and what no file can hold has to be passed."""
        problems = []
        for part, (class_word, kwargs_word) in WORDS.items():
            if part not in self.file.nodes:
                if self.wishes.classes[part] is not None or self.wishes.arguments[part]:
                    raise ConfigError(f"{self.where}: has no {part}; leave {class_word} and {kwargs_word} out")
                continue
            if part != "model":
                self.file.check_passed(part, kwargs_word)
                if isinstance(given := self.wishes.classes[part], type):
                    self._check_class(part, given)
            target = self.file.nodes[part]["_target_"].rpartition(".")[2]
            problems += [
                f"{self.where}: {target}({name}=...) was not stored: it {why}; "
                f"pass it: load(path, {kwargs_word}={{{name!r}: ...}})"
                for name, why in self.file.lost(part).items()
            ]
        if problems and self.model is None:
            raise CheckpointError("\n".join(problems))

    def made(self) -> Made:
        """All objects with their state, and how they were made."""
        parts = self.file.nodes
        model = self._fitted_model()
        optimizer, scheduler = None, None
        if "optimizer" in parts:
            optimizer = self.file.optimizer(model, self._state_of("optimizer"))
            self._check_class("optimizer", type(optimizer))
        if optimizer is not None and "scheduler" in parts:
            scheduler = self.file.scheduler(optimizer)
            self._check_class("scheduler", type(scheduler))
        # The constructor of a scheduler changes learning rates: so all is built before any state is loaded.
        if optimizer is not None and (notes := optimizer_state.restore(optimizer, model, self._state_of("optimizer"))):
            raise CheckpointError("\n".join(f"{self.where}: cannot be restored: {note}" for note in notes))
        if scheduler is not None:
            TorchScheduler(scheduler).load_state_dict(self._state_of("scheduler")["state"])
        nodes = {part: self.file.node(part) for part in parts}
        return Made(ModelObjects(model, optimizer, scheduler), nodes, self._arguments())

    def _fitted_model(self) -> nn.Module:
        """The model with its weights and its transient state, on the device."""
        model = self.file.model()[0] if self.model is None else self.model
        values = values_of(model, self.saved.tensors, self.saved.checkpoint)
        fit(model, values, where=self.where, as_saved=True, hint=_AS_THEN)
        model.to(self.device)
        self.state = under_names_of(model, self.state)
        load_transient(model, self.state.get("transient") or {}, self.device)
        return model

    def _state_of(self, part: str) -> Mapping[str, Any]:
        state = self.state.get(part)
        if not isinstance(state, Mapping) or not isinstance(state.get("class"), str):
            raise DamagedError(f"{self.where}: has no state of the {part} that it tells of; use another checkpoint")
        return state

    def _check_class(self, part: str, made: type) -> None:
        """Raise CheckpointError if it is another class than the one whose state was saved."""
        there, here = self._state_of(part)["class"], target_of(made)
        if there.rpartition(".")[2] == here.rpartition(".")[2]:
            return
        if self.file.nodes[part]["_target_"] not in self.wishes.moved:
            raise CheckpointError(
                f"{self.where}: the {part} was a {there}, and this is a {here}, which its state does not fit; give "
                "the class as it was"
            )

    def _arguments(self) -> dict[str, Mapping[str, Any]]:
        """What the objects were made with: as a container notes it, what was given to it; else, all that is known."""
        arguments: dict[str, Mapping[str, Any]] = {}
        for part, node in self.file.nodes.items():
            noted = self.saved.metadata.get(WORDS[part][1]) if self.saved.config.get("door") == DOOR else None
            if part not in self.saved.config:
                noted = {}
            names: Iterable[str] = noted if isinstance(noted, Mapping) else node
            left_out = {*self.file.left_out(part)}
            forms = {name: node[name] for name in names if name in node and name not in left_out}
            arguments[part] = {**self.file.value(forms, part), **self.wishes.arguments[part]}
        return arguments
