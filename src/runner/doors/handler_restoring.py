"""A file's parts made anew, from how they were made, and put where they stood."""

import secrets
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from runner.checkpoint.matching import unwrapped
from runner.config.calls import unavailable
from runner.config.decoding import is_missing
from runner.doors.handler_autosave import restore_settings
from runner.doors.handler_files import DOOR
from runner.doors.handler_schedule import driven, forget_rates, keep_rates, set_rates, unscheduled
from runner.doors.handler_settings import Loss, Parts
from runner.doors.handler_split import Content
from runner.doors.handler_training import MONITOR, average
from runner.doors.handler_world import placed
from runner.doors.rebuilding import Rebuilding, Wishes, under_names_of
from runner.errors import CheckpointError, TrustError
from runner.records import Progress
from runner.runs.fitting import fit
from runner.runs.saved import SavedModel
from runner.training import generators, optimizer_state
from runner.training.module_state import load_transient
from runner.training.plan import EarlyStopping
from runner.training.state import TrainState

_PARTS = ("model", "optimizer", "scheduler")


@dataclass(frozen=True)
class Asked:
    """What the caller of `load` says beside the path."""

    strict: bool
    skip: Collection[str]
    """Parts that begin anew: optimizer, scheduler, history, ema."""
    arguments: Mapping[str, Any]
    moved: Mapping[str, Any]
    trust: Sequence[str]


class Restoring:
    """One pass over a file's parts."""

    def __init__(self, content: Content, device: torch.device, asked: Asked) -> None:
        self.content, self.device, self.asked = content, device, asked
        self.saved = dict(content.state)
        saved = SavedModel(content.where, content.config, {}, content.file, {})
        nodes = {name: content.config[name] for name in _PARTS if name in content.config}
        arguments = _shared_out(asked.arguments, nodes)
        self.file = Rebuilding(saved, nodes, Wishes(arguments, {}, asked.moved, asked.trust))
        if "optimizer" in nodes:
            self.file.check_passed("optimizer", "the optimizer's")
        if "scheduler" in nodes and "scheduler" not in asked.skip:
            self.file.check_passed("scheduler", "the scheduler's")

    def parts(self) -> Parts:
        """A handler's parts, as they were when they were saved."""
        if lost := self.file.lost("model"):
            called = self.file.nodes["model"]["_target_"].rpartition(".")[2]
            lines = (
                f"{called}({name}=...) {why}; pass it: NNHandler.load(path, {name}=...)" for name, why in lost.items()
            )
            raise CheckpointError("\n".join(f"{self.content.where}: {line}" for line in lines))
        model, _ = self.file.model()
        fitted(model, self.saved["model"], self.content.where, strict=self.asked.strict, as_saved=True)
        _, world = placed(self.device)
        model = model.to(self.device).eval()
        self.saved = under_names_of(model, self.saved)
        load_transient(model, self.saved.get("transient") or {}, self.device)
        run = str(self.content.facts.get(DOOR) or secrets.token_hex(8))
        parts = Parts(model, self.file.node("model"), self.device, world, model, run=run)
        if self.content.config["door"] != "NNHandler":
            tell_other(self.content.where)
        self._own(parts)
        if "optimizer" in self.file.nodes and "optimizer" in self.saved:
            with generators.untouched():
                self._training(parts)
        return parts

    def _own(self, parts: Parts) -> None:
        """What a handler keeps beside the engine's state."""
        own = self.saved.get(DOOR)
        if own is None:
            # The model's file of a split save.
            return
        parts.own = self.saved.get("own", {})
        parts.seed, parts.ema_decay, parts.cut = own["seed"], own["ema_decay"], own["cut"]
        restore_settings(parts, own["auto_save"], self.content.where)
        parts.auto_saved = list(own["auto_saved"])
        if parts.auto_saved and Path(parts.auto_saved[-1]).name == self.content.where.name:
            parts.came_from = self.content.where.absolute()
        parts.early_stopping = EarlyStopping(**own["early_stopping"])
        by_rank = own["generators"]
        parts.generators = self.saved.get("generators")
        if by_rank is not None and len(by_rank) == parts.world.size:
            parts.generators = by_rank[parts.world.rank]
        if "history" not in self.asked.skip:
            parts.history = list(own["history"])
        if "loss" in self.content.config:
            parts.loss_node = self.content.config["loss"]
            parts.loss = self._loss(self.content.config["loss"])

    def _loss(self, node: Mapping[str, Any]) -> Loss | None:
        """None where it could not be stored, or its class is not to be had: `train` then asks for it."""
        forms = {"set_loss_fn": node["function"], **node["arguments"]}
        if any(is_missing(form) for form in forms.values()):
            return None
        try:
            made = self.file.value(forms, "loss")
        except (CheckpointError, TrustError) as error:
            warnings.warn(f"the loss is not restored, so call set_loss_fn: {error}", stacklevel=7)
            return None
        return Loss(made.pop("set_loss_fn"), made)

    def _training(self, parts: Parts) -> None:
        saved, skip = self.saved, self.asked.skip
        parts.optimizer_node = self.file.node("optimizer")
        optimizer = self.file.optimizer(parts.model, saved["optimizer"])
        parts.state = state = TrainState(
            model=parts.model,
            optimizer=optimizer,
            scheduler=unscheduled(optimizer),
            device=self.device,
            scaler=None if saved.get("scaler") is None else GradScaler(self.device.type),
            ema_decay=None,
            monitor=MONITOR,
            min_delta=parts.early_stopping.min_delta,
        )
        rates_alone = "scheduler" not in saved and "optimizer" not in skip
        # Of another door's file: what it does not have begins.
        saved = self.saved = {**state.state_dict(), **saved}
        if "ema" in skip:
            saved["averaged"] = None
        average(parts, state, None if saved["averaged"] is None else parts.ema_decay)
        waits = self._scheduler(parts, state)
        if parts.scheduler_node is None or waits:
            keep_rates(optimizer)
        self._restore(parts, state)
        if waits or rates_alone:
            # The learning rates are those of the file, though who makes them is not there.
            set_rates(optimizer, optimizer_state.rates(saved["optimizer"]))
        if parts.scheduler_node is None:
            forget_rates(optimizer)

    def _scheduler(self, parts: Parts, state: TrainState) -> bool:
        """Make the scheduler. True if it cannot be made: what is missing is said, and it waits for `set_scheduler`."""
        if "scheduler" not in self.file.nodes:
            return False
        if lost := self.file.lost("scheduler"):
            node, called = self.file.nodes["scheduler"], ", ".join(f"{name}=..." for name in lost)
            warnings.warn(
                f"{self.content.where}: {node['_target_']}: no file can hold its {', '.join(lost)} "
                f"({next(iter(lost.values()))}), so it does not go on yet; pass it, NNHandler.load(path, {called}), or "
                f"call set_scheduler with it before train",
                stacklevel=7,
            )
            if "scheduler" not in self.asked.skip:
                parts.scheduler_node, parts.scheduler_state = node, self.saved["scheduler"]
                parts.waiting_rates = optimizer_state.rates(self.saved["optimizer"])
            return True
        parts.scheduler_node = self.file.node("scheduler")
        state.scheduler = driven(self.file.scheduler(state.optimizer))
        return False

    def _restore(self, parts: Parts, state: TrainState) -> None:
        saved, skip = self.saved, self.asked.skip
        if state.averaged is not None:
            fitted(state.averaged.module, saved["averaged"]["model"], self.content.where, strict=self.asked.strict)
            saved["averaged"] = {**saved["averaged"], "model": state.averaged.module.state_dict()}
        # What fits is in the model by now, and the optimizer's state of the rest has no place.
        live = parts.model.state_dict()
        stored = {name: value.shape for name, value in saved["model"].items() if isinstance(value, Tensor)}
        fitting = {name for name, value in live.items() if name in stored and stored[name] == value.shape}
        if "state" in saved["optimizer"]:
            kept = {name: values for name, values in saved["optimizer"]["state"].items() if name in fitting}
            saved["optimizer"] = {**saved["optimizer"], "state": kept}
        saved |= {"model": live, "own": {}, "generators": generators.capture()}
        reset = {part for part in ("optimizer", "scheduler") if part in skip}
        if "history" in skip:
            saved |= {
                "progress": asdict(Progress()),
                "epoch_loss": {"total": 0.0, "count": 0.0},
                "best": None,
                "early_stopping": {"best": None, "waited": 0},
            }
            parts.own, parts.cut = {}, None
        for note in state.load_state_dict(saved, reset=reset).notes:
            if "as +reset=" not in note and not (parts.scheduler_state is not None and "scheduler" in note):
                warnings.warn(f"{self.content.where}: {note}", stacklevel=7)


def _shared_out(arguments: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments by the part that each is meant for: where it is missing, or else stands; otherwise, the model."""
    chosen: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for name, value in arguments.items():
        holders = [part for part, node in nodes.items() if name in unavailable(node)]
        for part in holders or [part for part, node in nodes.items() if name in node] or ["model"]:
            chosen[part][name] = value
    return chosen


def tell_other(where: Path) -> None:
    """Say what a file lacks that no handler has saved."""
    warnings.warn(
        f"{where}: was not saved by a handler, so that it has no history, no position in the data and no random "
        "generators; a training begins anew with what it has",
        stacklevel=6,
    )


def fitted(model: nn.Module, values: Mapping[str, Any], where: Path, *, strict: bool, as_saved: bool = False) -> None:
    """Load tensors into a model. What does not fit is an error, or else named; nothing at all is an error, too."""
    live = {unwrapped(name): value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    fits = any(
        isinstance(value, Tensor) and (there := live.get(unwrapped(name))) is not None and value.shape == there.shape
        for name, value in values.items()
    )
    if live and not fits:
        raise CheckpointError(
            f"{where}: none of its {len(values)} tensors ({', '.join(list(values)[:4])}) fits {type(model).__name__} "
            f"({', '.join(list(live)[:4])}); load it into the model that it was saved from"
        )
    fit(model, values, where=where, strict=strict, partial=not strict, as_saved=as_saved)
