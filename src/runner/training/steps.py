"""The optimizer steps of a training, one after the other.

A window of `trainer.accumulate` batches makes one step; a window never spans an epoch, so the last one of an epoch may
be shorter. Its loss is the mean over its samples (or tokens), not a mean of means. With a Step in your hands the state
is whole: it may be saved, evaluated, or left there.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from runner.errors import TrainingError
from runner.records import Digests, Progress, Step, World
from runner.training import digests
from runner.training.module_state import in_eval_mode, put_in_train_mode
from runner.training.objective import Objective, num_samples, to_device
from runner.training.optimizer_state import needs_closure
from runner.training.plan import Trainer
from runner.training.precision import autocast
from runner.training.state import TrainState

_MAX_SKIPPED = 100
"""Windows skipped one after the other, after which a training is given up."""


class Batches(Protocol):
    """Batches with a position: see data/batches.py."""

    @property
    def num_batches(self) -> int | None: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...


def steps(
    state: TrainState, objective: Objective, batches: Batches, plan: Trainer, world: World | None = None
) -> Iterator[Step]:
    """Take steps from where `state` stands, without end; the caller leaves when its limits are reached.

    The model is put in train mode, but submodules that are in eval mode now stay in it, as frozen batch norms must.
    Raises TrainingError if the loss is not finite and `plan.nonfinite` is `stop`, or nothing but skipped steps is left.
    """
    take = _Stepper(state, objective, plan, world or World())
    skipped = 0
    frozen = in_eval_mode(state.network)
    put_in_train_mode(state.network, frozen)
    while True:
        at = state.progress
        empty = True
        for window, ends_epoch in _windows(state, batches, plan.accumulate):
            empty = False
            step = take(window, ends_epoch)
            skipped = skipped + 1 if step.skipped else 0
            if skipped >= _MAX_SKIPPED:
                raise TrainingError(
                    f"step {step.progress.step + 1}: the last {skipped} windows were all skipped because loss or "
                    "gradients were not finite; lower optimizer.lr, or look at the data"
                )
            yield step
            if not state.network.training:
                put_in_train_mode(state.network, frozen)
        if empty and at.batch == 0:
            raise TrainingError(f"epoch {at.epoch}: the training data gave no batch")
        if empty:
            # Nothing is left of the epoch: trainer.limits or the data have become shorter since the checkpoint.
            state.progress = replace(at, epoch=at.epoch + 1, batch=0)
            state.epoch_loss.clear()
            if plan.schedule == "epoch":
                state.scheduler.step(state.progress, None)


def _windows(state: TrainState, batches: Batches, accumulate: int) -> Iterator[tuple[list[Any], bool]]:
    """Windows of the unfinished epoch, and whether each is its last."""
    done, total = state.progress.batch, batches.num_batches
    # What a checkpoint must hold is the position after the last finished step, however far the data were read since,
    # or have failed. Batches whose position is just a number have no state.
    state.batches_state = batches.state_dict() or None
    source = batches.epoch(state.progress.epoch, done)
    if total is None:
        yield from _windows_of_unknown_length(state, batches, source, accumulate)
        return
    window = []
    for batch in source:
        window.append(batch)
        done += 1
        if len(window) == accumulate or done == total:
            if state.batches_state is not None:
                state.batches_state = batches.state_dict()
            yield window, done == total
            window = []


def _windows_of_unknown_length(
    state: TrainState, batches: Batches, source: Iterator[Any], accumulate: int
) -> Iterator[tuple[list[Any], bool]]:
    """Whether an epoch of unknown length ends shows only when more is asked for."""
    window = list(islice(source, accumulate))
    while window:
        position = batches.state_dict()
        ahead = list(islice(source, accumulate))
        state.batches_state = position if ahead else batches.state_dict()
        yield window, not ahead
        window = ahead


class _Stepper:
    """What stays the same from step to step: the parameters, the contexts, where the loss is looked at."""

    def __init__(self, state: TrainState, objective: Objective, plan: Trainer, world: World) -> None:
        self.state, self.objective, self.plan, self.world = state, objective, plan, world
        self.parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self.autocast = autocast(plan.precision, state.device)
        self.alone = world.size == 1
        self.closure = needs_closure(state.optimizer)
        # On an accelerator a look at the loss waits for the device. `stop` may look later, as long as it is before
        # every save; `skip` has to know at once which steps there were.
        can_gate = getattr(state.optimizer, "_step_supports_amp_scaling", False) and state.scaler is None
        on_cpu = state.device.type == "cpu"
        self.gated = can_gate and not on_cpu and not self.closure and plan.nonfinite == "stop"

    def __call__(self, window: list[Any], ends_epoch: bool) -> Step:
        state, plan = self.state, self.plan
        before, lr = state.progress, state.lr
        state.whole = False
        gathered = (before.step + 1) % plan.log_every == 0
        # Before the batches go to a device, so that nothing waits for it.
        batches = digests.of_window(window) if gathered else ""
        if state.device.type != "cpu":
            window = [to_device(batch, state.device) for batch in window]
        counts, total, samples = self._counted(window)
        take = self._closure_step if self.closure else self._step
        loss, norm, made = take(window, counts, total)
        state.progress = progress = Progress(
            before.step + made,
            before.epoch + 1 if ends_epoch else before.epoch,
            0 if ends_epoch else before.batch + len(window),
            before.samples + samples,
            before.evaluated_step,
        )
        if made:
            state.average()
            state.epoch_loss.add(loss, total)
        if (plan.schedule == "step" and made) or (plan.schedule == "epoch" and ends_epoch):
            state.scheduler.step(progress, None)
        state.whole = True
        if self.gated:
            if not gathered:
                return Step(progress, lr)
            state.check_finite()
        told = Digests(batches, digests.of_generators()) if gathered else None
        return Step(progress, lr, float(loss), None if norm is None else float(norm), not made, told)

    def _counted(self, window: list[Any]) -> tuple[list[Any], Any, int]:
        """The loss's count of each batch, their total and the number of samples, the last two over all ranks."""
        counts = [self.objective.count(batch) for batch in window]
        total: Any = sum(counts)
        samples = sum([num_samples(batch) for batch in window])
        if not self.alone:
            both = torch.tensor([float(total), float(samples)], dtype=torch.float64, device=self.state.device)
            dist.all_reduce(both)
            total, samples = float(both[0]), int(both[1])
        return counts, total, samples

    def _backward(self, window: list[Any], counts: list[Any], total: Any) -> Tensor:
        """Fresh gradients of the mean loss over the window, summed over all ranks; returns that loss."""
        state, network, scaler = self.state, self.state.network, self.state.scaler
        # What Optimizer.zero_grad(set_to_none=True) does, without its bookkeeping for profilers.
        for parameter in self.parameters:
            parameter.grad = None
        whole: Tensor | None = None
        for batch, count in zip(window, counts, strict=True):
            with self.autocast:
                loss, _ = self.objective.loss(network, batch)
            share = loss if self.alone and len(window) == 1 else loss * _part(count, total)
            (share if scaler is None else scaler.scale(share)).backward()
            whole = share.detach() if whole is None else whole + share.detach()
        if whole is None:
            raise TrainingError(f"epoch {state.progress.epoch}: a window without a batch")
        if not self.alone:
            self._sum_gradients()
            dist.all_reduce(whole)
        return whole

    def _sum_gradients(self) -> None:
        """Sum the gradients over all ranks. One that no rank has stays None, so that its parameter is left alone."""
        has = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.int32, device=self.state.device)
        dist.all_reduce(has)
        for parameter, ranks in zip(self.parameters, has.tolist(), strict=True):
            if ranks:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)

    def _step(self, window: list[Any], counts: list[Any], total: Any) -> tuple[float | Tensor, Tensor | None, bool]:
        """Take the step; returns loss, gradient norm, and whether the parameters were updated."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        device_loss = self._backward(window, counts, total)
        if scaler is not None:
            scaler.unscale_(optimizer)
        norm = self._clip()
        if self.gated:
            self._gated_step(device_loss if norm is None else device_loss + norm)
            return device_loss, norm, True
        loss = device_loss.item()
        # A scaler expects gradients that are not finite, and leaves such a step out by itself.
        if not math.isfinite(loss) or (norm is not None and scaler is None and not math.isfinite(norm)):
            if self.plan.nonfinite == "stop":
                raise self._nonfinite(loss, norm)
            if scaler is not None:
                scaler.update()
            return loss, norm, False
        if scaler is None:
            optimizer.step()
            return loss, norm, True
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return loss, norm, scaler.get_scale() >= scale

    def _gated_step(self, watched: Tensor) -> None:
        """Step without waiting for the device: the fused kernels leave the parameters alone where `found_inf` is 1."""
        state = self.state
        finite = torch.isfinite(watched)
        state.finite = finite if state.finite is None else state.finite & finite
        optimizer: Any = state.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf

    def _closure_step(self, window: list[Any], counts: list[Any], total: Any) -> tuple[float, Tensor | None, bool]:
        """A step of an optimizer that evaluates the model itself, as often as it likes; returns the first loss."""
        losses: list[float] = []

        def closure() -> Tensor:
            loss = self._backward(window, counts, total)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise self._nonfinite(losses[-1], None)
            self._clip()
            return loss

        self.state.optimizer.step(torch.enable_grad()(closure))  # type: ignore[arg-type]
        return losses[0], None, True

    def _clip(self) -> Tensor | None:
        if self.plan.clip_norm is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip_norm)

    def _nonfinite(self, loss: float, norm: Tensor | None) -> TrainingError:
        at = self.state.progress
        what = (
            f"the loss is {loss}" if norm is None or not math.isfinite(loss) else f"the gradient norm is {norm.item()}"
        )
        advice = "Lower optimizer.lr, or set trainer.clip_norm"
        if not self.closure:
            advice = "Lower optimizer.lr, set trainer.clip_norm, or leave such steps out with trainer.nonfinite=skip"
        return TrainingError(
            f"step {at.step + 1} (epoch {at.epoch}, batch {at.batch}): {what}; no checkpoint holds this step. {advice}"
        )


def _part(count: Any, total: Any) -> Any:
    """Which part of the window's loss a batch's is; none where nothing in the window counts."""
    if isinstance(total, Tensor):
        return count / total.clamp(min=torch.finfo(torch.float32).tiny)
    return count / total if total else 0.0
