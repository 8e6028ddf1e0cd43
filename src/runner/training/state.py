"""All that the next step depends on, in one place: what a checkpoint holds, and what a resume restores."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner.errors import CheckpointError, TrainingError
from runner.records import Epoch, Evaluation, Monitor, Progress
from runner.training import generators, optimizer_state
from runner.training.mean_loss import MeanLoss
from runner.training.module_state import fit_transient, load_transient, transient
from runner.training.schedule import Scheduler, TorchScheduler

_RATES = ("lr", "initial_lr")
"""What a scheduler makes of a parameter group when it is built."""


@runtime_checkable
class Stateful(Protocol):
    """Anything with state of its own that a later step depends on."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the monitored metric so far, and where it was measured."""

    metric: str
    value: float
    step: int


class TrainState:
    """What is trained and how far: see design, "Words". Losing any of it would change a later step.

    `whole` is false while a step is being taken: only a whole state may be saved.
    `network` is what computes: the model itself, or its compiled form. Names are always the model's own.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler,
        device: torch.device,
        scaler: GradScaler | None,
        ema_decay: float | None,
        monitor: Monitor | None,
        min_delta: float,
        network: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.network = model if network is None else network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.scaler = scaler
        self.averaged: AveragedModel | None = None
        if ema_decay is not None:
            average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self._has_transient = bool(transient(model))
        self.monitor = monitor
        self.min_delta = min_delta
        self.progress = Progress()
        self.epoch_loss = MeanLoss(device)
        self.best: Best | None = None
        self.waited = 0
        """Evaluations since the monitored metric last improved by more than `min_delta`."""
        self.stopping_best: float | None = None
        self.batches_state: dict[str, Any] | None = None
        """The state of the user's own loader at the last consumed batch; None where batches have just a position."""
        self.own: dict[str, Stateful] = {}
        """The user's own parts that have state: the objective, the loader."""
        self.whole = True
        self.finite: Tensor | None = None
        """On an accelerator: whether every loss since the last look was finite."""

    def check_finite(self) -> None:
        """Raise TrainingError if a loss was not finite since the last look. Waits for the device."""
        if self.finite is not None and not bool(self.finite):
            raise TrainingError(
                f"up to step {self.progress.step}: a loss was not finite; its update was left out and no checkpoint "
                "holds it. Lower optimizer.lr, set trainer.clip_norm, or leave such steps out with "
                "trainer.nonfinite=skip"
            )
        self.finite = None

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group, for the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Whether the monitored metric is better than ever before. NaN and missing are never better."""
        best = None if self.best is None else self.best.value
        return self.monitor is not None and _better(
            metrics.get(self.monitor.metric, math.nan), best, self.monitor.mode, 0.0
        )

    def take(self, evaluation: Evaluation, *, schedule: bool) -> None:
        """Note the scores: best so far, early stopping, and, if `schedule`, a scheduler that waits for scores."""
        self.progress = replace(self.progress, evaluated_step=self.progress.step)
        value = None if self.monitor is None else evaluation.metrics.get(self.monitor.metric)
        if self.monitor is not None and value is not None:
            if self.improves(evaluation.metrics):
                self.best = Best(self.monitor.metric, value, self.progress.step)
            if _better(value, self.stopping_best, self.monitor.mode, self.min_delta):
                self.stopping_best, self.waited = value, 0
            else:
                self.waited += 1
        if schedule:
            self.scheduler.step(self.progress, value)

    def average(self) -> None:
        """Take the weights of the step that was just made into the averaged ones, if there are any."""
        if self.averaged is None:
            return
        if self._has_transient:
            fit_transient(self.averaged.module, self.model)
        self.averaged.update_parameters(self.model)

    def end_epoch(self, *, seconds: float) -> Epoch:
        """The record of the epoch that has just ended; its mean loss starts anew."""
        record = Epoch(self.progress, self.epoch_loss.value(), self.lr, seconds)
        self.epoch_loss.clear()
        return record

    def frozen_names(self) -> frozenset[str]:
        """The parameters that the optimizer does not train."""
        named = self.model.named_parameters(remove_duplicate=False)
        return frozenset(name for name, value in named if not value.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """The state as a tree of plain values and live tensors. Only between steps: raises TrainingError inside one."""
        if not self.whole:
            raise TrainingError(f"step {self.progress.step + 1} is half done; a state can be saved between steps only")
        self.check_finite()
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state.capture(self.optimizer, self.model),
            "scheduler": {
                "class": self.scheduler.kind,
                "state": self.scheduler.state_dict(),
            },
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "averaged": None
            if self.averaged is None
            else {
                "model": self.averaged.module.state_dict(),
                "transient": transient(self.averaged.module),
                "count": self.averaged.n_averaged,
            },
            "transient": transient(self.model),
            "progress": asdict(self.progress),
            "epoch_loss": self.epoch_loss.state_dict(),
            "best": None if self.best is None else asdict(self.best),
            "early_stopping": {"best": self.stopping_best, "waited": self.waited},
            "own": {name: part.state_dict() for name, part in self.own.items()}
            | ({} if self.batches_state is None else {"batches": self.batches_state}),
            "generators": generators.capture(),
        }

    def load_state_dict(self, saved: Mapping[str, Any], *, reset: frozenset[str] = frozenset()) -> list[str]:
        """Restore what `state_dict` gave; returns a line for everything that could not be or was not to be restored.

        Model first, generators last: building optimizer state may draw random numbers.
        Raises CheckpointError if the names or shapes of the model differ.
        """
        load_weights(self.model, saved["model"])
        load_transient(self.model, saved["transient"], self.device)
        self.progress = Progress(**saved["progress"])
        notes = self._load_optimizer_and_scheduler(saved["optimizer"], saved["scheduler"], reset)
        if self.scaler is not None and saved["scaler"] is not None:
            self.scaler.load_state_dict(saved["scaler"])
        elif (self.scaler is None) != (saved["scaler"] is None):
            notes.append("the gradient scaler: trainer.precision is another than was saved")
        notes += self._load_averaged(saved["averaged"])
        self.epoch_loss.load_state_dict(saved["epoch_loss"])
        notes += self._load_best(saved)
        for name, part in self.own.items():
            if name in saved["own"]:
                part.load_state_dict(saved["own"][name])
            else:
                notes.append(f"the state of {name}: the checkpoint has none")
        notes += generators.restore(saved["generators"])
        return notes

    def _load_optimizer_and_scheduler(
        self, optimizer: Mapping[str, Any], scheduler: Mapping[str, Any], reset: frozenset[str]
    ) -> list[str]:
        as_built = [{key: group[key] for key in _RATES if key in group} for group in self.optimizer.param_groups]
        kept, notes = False, []
        live = optimizer_state.qualified_name(self.optimizer)
        if "optimizer" in reset or optimizer["class"] != live:
            notes.append(f"the optimizer's state: {optimizer['class']} was saved, {live} starts anew")
        else:
            kept = optimizer_state.same_groups(self.optimizer, self.model, optimizer)
            notes += optimizer_state.restore(self.optimizer, self.model, optimizer)
        if "scheduler" in reset or scheduler["class"] != self.scheduler.kind:
            notes.append(f"the scheduler: {scheduler['class']} was saved, {self.scheduler.kind} starts anew")
        elif isinstance(self.scheduler, TorchScheduler) and not kept:
            # It goes on from the groups' learning rates, and these are not those that it left.
            notes.append(f"the scheduler: {self.scheduler.kind} starts anew, as the optimizer's groups do")
        else:
            self.scheduler.load_state_dict(scheduler["state"])
            return notes
        for group, rates in zip(self.optimizer.param_groups, as_built, strict=True):
            group.update(rates)
        self.scheduler.begin(self.progress)
        return notes

    def _load_averaged(self, saved: Mapping[str, Any] | None) -> list[str]:
        if self.averaged is None:
            return [] if saved is None else ["the averaged weights: trainer.ema_decay is null now"]
        if saved is None:
            # They begin at the restored weights, not at the random ones the model was built with.
            self.averaged.module.load_state_dict(self.model.state_dict())
            load_transient(self.averaged.module, transient(self.model), self.device)
            return ["the averaged weights: the checkpoint has none; they start from the raw ones"]
        load_weights(self.averaged.module, saved["model"])
        load_transient(self.averaged.module, saved["transient"], self.device)
        self.averaged.n_averaged.copy_(saved["count"])
        return []

    def _load_best(self, saved: Mapping[str, Any]) -> list[str]:
        best = None if saved["best"] is None else Best(**saved["best"])
        if best is not None and (self.monitor is None or best.metric != self.monitor.metric):
            return [f"the best {best.metric} so far: another metric is monitored now"]
        self.best = best
        self.stopping_best = saved["early_stopping"]["best"]
        self.waited = saved["early_stopping"]["waited"]
        return []


def _better(value: float, than: float | None, mode: str, margin: float) -> bool:
    if math.isnan(value) or math.isinf(value):
        return False
    if than is None:
        return True
    return value < than - margin if mode == "min" else value > than + margin


def load_weights(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Load a state dict into `model`. Raises CheckpointError, listing names and shapes, if it does not fit."""
    live = model.state_dict()
    problems = [f"missing: {name}" for name in live if name not in saved]
    problems += [f"unknown: {name}" for name in saved if name not in live]
    problems += [
        f"{name}: saved {tuple(saved[name].shape)}, wanted {tuple(live[name].shape)}"
        for name in live
        if name in saved and isinstance(live[name], Tensor) and saved[name].shape != live[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(
            f"the checkpoint's weights do not fit {type(model).__name__}: {shown}; "
            "use the model config that it was saved with"
        )
    model.load_state_dict(saved)
