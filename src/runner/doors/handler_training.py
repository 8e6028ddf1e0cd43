"""A handler's training: its settings made into the engine's parts, and the engine's own loop run over them."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner.config.build import Training
from runner.config.decoding import why_missing
from runner.data.batches import AnyBatches, Batches
from runner.data.data import Data
from runner.data.position import converted, cut_of
from runner.doors.handler_autosave import AutoSaves
from runner.doors.handler_display import EpochLines, where
from runner.doors.handler_objective import PairObjective
from runner.doors.handler_schedule import forget_rates, keep_rates, schedule_of
from runner.doors.handler_settings import Loss, Parts, as_arguments
from runner.doors.handler_world import begin_alike, from_all, none_left_behind
from runner.errors import ConfigError, DataError, ResumeError, TrainingError
from runner.records import Ended, Epoch, Evaluation, Monitor, Record, Started
from runner.runs.loop import Loop, Stop
from runner.runs.terminal import terminal
from runner.training import generators
from runner.training.plan import Trainer, horizon
from runner.training.signals import Signals, caught
from runner.training.state import Stateful, TrainState

log = logging.getLogger(__name__)

MONITOR = Monitor("val_loss", "min")
"""What the best is judged by, early stopping, and a scheduler that waits for scores."""


def train(
    parts: Parts,
    plan: Trainer,
    *,
    seed: int | None,
    progress_bar: bool,
    save_on_last_epoch: bool,
) -> None:
    """Train until the plan's end, and leave everything in `parts` as the next training, or a file, goes on from it.

    Raises what a signal asks for, once all is left so: KeyboardInterrupt, with how to go on, or SystemExit.
    """
    state, loss, split = _ready(parts, plan)
    world, device = parts.world, parts.device
    seed = _begin_seed(parts, seed)
    _fit_state(parts, state, plan)
    begin_alike(parts.model, world)
    objective = PairObjective(loss, parts.metrics)
    if isinstance(loss.function, nn.Module):
        loss.function.to(device)
    with none_left_behind(world), ExitStack() as ending:
        batches = split.batches(seed=seed, world=world, device=device, resumable=True)
        ending.callback(batches.close)
        validation = None
        if parts.validation is not None:
            validation = parts.validation.batches(seed=seed, world=world, device=device, resumable=False)
            ending.callback(validation.close)
        ends = horizon(plan, batches.num_batches)
        data = Data(split.dataset, None if parts.validation is None else parts.validation.dataset)
        training = Training(state, objective, data, batches, validation, None, ends, ())
        shown = EpochLines(terminal(), parts, max_epochs=plan.max_epochs) if progress_bar and world.rank == 0 else None
        observe = ending.enter_context(_watched(parts, objective, shown))
        # Several processes would not hear of a signal at the same step.
        signals = ending.enter_context(caught()) if world.size == 1 else Signals()
        saver = AutoSaves(parts, observe)
        left = ends.total_steps
        observe(Started(state.progress, 1, type(parts.model).__name__, left, ends.steps_per_epoch, Path(), {}))
        _take_up(parts, state, objective, batches)
        before = state.progress
        try:
            if parts.generators is not None:
                generators.restore(parts.generators)
                parts.generators = None
            stop = Loop(
                training,
                plan,
                saver.policy(at_end=save_on_last_epoch),
                observe=observe,
                saver=saver,
                scores={} if not parts.history or before.batch else _scores(parts.history[-1]),
                signals=signals,
                began=0.0,
                world=world,
                evaluates_end=False,
            ).run()
            state.check_finite()
            observe(Ended(state.progress, stop.outcome, stop.reason))
        except TrainingError as error:
            # The engine's advice names keys of a config.
            what, _, _ = str(error).partition(". Lower ")
            raise TrainingError(f"{what}. Lower lr in set_optimizer, or train(gradient_clipping_norm=...)") from error
        finally:
            _leave(parts, state)
    if stop.reason == "early_stopping" and state.progress.step == before.step:
        warnings.warn(
            f"train: nothing was trained, because {state.waited} evaluations in a row were no better than "
            f"{state.stopping_best:.6g}; set_early_stopping(None), or a longer patience, lets it go on",
            stacklevel=3,
        )
    if stop.outcome == "stopped":
        _leave_as_asked(stop, state, saver.written)


def _leave_as_asked(stop: Stop, state: TrainState, written: Path | None) -> None:
    """End as the signal wants it, with how to go on."""
    how = (
        f'go on with NNHandler.load("{written}")'
        if written is not None
        else "nothing of that is in a file: handler.save(path) saves it as it stands, and train goes on from there"
    )
    told = f"stopped {where(state.progress)}; {how}"
    if stop.reason == "SIGINT":
        raise KeyboardInterrupt(told)
    log.warning("%s", told)
    raise SystemExit(stop.exit_code)


def _ready(parts: Parts, plan: Trainer) -> tuple[TrainState, Loss, Any]:
    """What a training cannot do without. ConfigError with everything that is not there."""
    problems = []
    if parts.state is None:
        problems.append("set_optimizer")
    if parts.loss is None:
        why = None if parts.loss_node is None else why_missing(parts.loss_node)
        lost = "could not be made anew" if why is None else f"{why}: no file can hold that"
        problems.append("set_loss_fn" if parts.loss_node is None else f"set_loss_fn (what the file had {lost})")
    if parts.train is None:
        problems.append("set_train_loader")
    if parts.scheduler_state is not None:
        problems.append("set_scheduler (that of the file could not be made anew)")
    waits = parts.state is not None and schedule_of(parts.state.scheduler) == "evaluation"
    if parts.validation is None and (waits or parts.early_stopping.patience is not None):
        problems.append("set_val_loader (early stopping and ReduceLROnPlateau judge by the validation loss)")
    problems = [f"train: first call {problem}" for problem in problems]
    if waits and not plan.evaluate.wanted:
        problems.append("train(validate_every=0): ReduceLROnPlateau waits for the validation loss; wanted 1 or more")
    if problems:
        raise ConfigError(problems)
    assert parts.state is not None and parts.loss is not None and parts.train is not None
    return parts.state, parts.loss, parts.train


def _begin_seed(parts: Parts, seed: int | None) -> int:
    """The seed of the training. A new one seeds the generators; the one it has been trained with goes on from them."""
    if seed is not None and seed != parts.seed:
        generators.seed_all((seed + parts.world.rank) % 2**32)
        parts.seed, parts.generators = seed, None
    elif parts.seed is None:
        parts.seed = int(torch.randint(2**31, ()))
    if parts.world.size > 1:
        parts.seed = from_all(parts.world, parts.seed)[0]
    return parts.seed


def _fit_state(parts: Parts, state: TrainState, plan: Trainer) -> None:
    """Averaged weights, gradient scaler and what is judged by, as this training asks."""
    state.network = parts.network
    if parts.scheduler_node is None:
        keep_rates(state.optimizer)
    state.monitor = None if parts.validation is None else MONITOR
    state.min_delta = plan.early_stopping.min_delta
    if plan.precision != "fp16":
        state.scaler = None
    elif state.scaler is None:
        state.scaler = GradScaler(state.device.type)
    if plan.ema_decay is None and state.averaged is not None:
        warnings.warn(
            "train(ema_decay=0.0): the averaged weights of the training before are dropped; "
            f"give ema_decay={parts.ema_decay} to go on with them",
            stacklevel=4,
        )
    average(parts, state, plan.ema_decay)


def average(parts: Parts, state: TrainState, decay: float | None) -> None:
    """Let there be averaged weights with this decay, those that there are or new ones; None: let there be none."""
    parts.ema_decay = decay
    if decay is None:
        state.averaged = None
        return
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    if state.averaged is None:
        state.averaged = AveragedModel(state.model, multi_avg_fn=rule, use_buffers=True)
    state.averaged.multi_avg_fn = rule


def _take_up(parts: Parts, state: TrainState, objective: PairObjective, batches: AnyBatches) -> None:
    """Attach the parts that have state of their own, and bring back what they had."""
    cut, at = batches.cut if isinstance(batches, Batches) else None, state.progress
    then = cut_of(parts.cut)
    position = parts.own.get("batches")
    own: dict[str, Stateful] = {"objective": objective}
    if batches.state_dict():
        own["batches"] = batches
    if ("batches" in own) != (position is not None) and at.batch:
        raise ResumeError(
            "train: the unfinished epoch was read by a loader of another kind than the one that is set now; "
            "set the one that it was trained with"
        )
    if "objective" in parts.own:
        objective.load_state_dict(parts.own["objective"])
    if position is not None and "batches" in own:
        try:
            batches.load_state_dict(position)
        except DataError as error:
            raise ResumeError(f"train: {as_arguments(str(error))}") from error
    if at.batch and cut is not None and then is not None:
        batch, notes = converted(at.batch, then, cut)
        state.progress = replace(at, batch=batch)
        for note in notes:
            warnings.warn(f"train: {as_arguments(note)}", stacklevel=4)
    parts.cut = None if cut is None else asdict(cut)
    state.own = own


def _leave(parts: Parts, state: TrainState) -> None:
    """Keep what the next training, or a file, needs of the parts that end now."""
    own = {name: part.state_dict() for name, part in state.own.items()}
    parts.own = own | ({} if state.batches_state is None else {"batches": state.batches_state})
    parts.generators = generators.capture()
    state.own, state.batches_state = {}, None
    if parts.scheduler_node is None:
        forget_rates(state.optimizer)


@contextmanager
def _watched(parts: Parts, objective: PairObjective, display: EpochLines | None) -> Iterator[Callable[[Record], None]]:
    """What looks on: the history, and the display of the progress."""

    def observe(record: Record) -> None:
        if isinstance(record, Epoch):
            means = objective.means(parts.world, parts.device)
            objective.clear()
            parts.history.append({"epoch": record.progress.epoch, "loss": record.loss, "lr": record.lr, **means})
        elif isinstance(record, Evaluation) and parts.history and record.progress.batch == 0:
            parts.history[-1].update(record.metrics)
        if display is not None:
            display.observe(record)

    try:
        yield observe
    finally:
        if display is not None:
            display.close()


def _scores(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("epoch", "lr")}
