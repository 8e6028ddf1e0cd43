"""All that the next step depends on, in one place: what a checkpoint holds, and what a resume restores."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner.errors import TrainingError
from runner.records import Epoch, Evaluation, Monitor, Progress
from runner.training import generators, optimizer_state
from runner.training.best import Best, is_better
from runner.training.loading import Loaded, load
from runner.training.mean_loss import MeanLoss
from runner.training.module_state import fit_transient, transient
from runner.training.schedule import Scheduler


@runtime_checkable
class Stateful(Protocol):
    """Anything with state of its own that a later step depends on."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


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
        return self.monitor is not None and is_better(
            metrics.get(self.monitor.metric, math.nan), best, self.monitor.mode
        )

    def take(self, evaluation: Evaluation, *, schedule: bool) -> None:
        """Note the scores: best so far, early stopping, and, if `schedule`, a scheduler that waits for scores."""
        self.progress = replace(self.progress, evaluated_step=self.progress.step)
        value = None if self.monitor is None else evaluation.metrics.get(self.monitor.metric)
        if self.monitor is not None and value is not None:
            if self.improves(evaluation.metrics):
                self.best = Best(self.monitor.metric, value, self.progress.step)
            if is_better(value, self.stopping_best, self.monitor.mode, self.min_delta):
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

    def load_state_dict(
        self, saved: Mapping[str, Any], *, reset: Collection[str] = (), changed: Collection[str] = ()
    ) -> Loaded:
        """Restore what `state_dict` gave, part by part: see loading.py."""
        return load(self, saved, reset=reset, changed=changed)
