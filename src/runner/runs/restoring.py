"""Putting a checkpoint's state into a training that was built anew, and saying what came of it.

Loading the state of an optimizer or a scheduler silently puts the saved settings back. So what the config asks for now
is noted before, and applied again after, where it differs from what was saved.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.build import Training
from runner.training.schedule import CurveScheduler, TorchScheduler
from runner.training.state import TrainState

_OWN_LENGTHS = ("T_max", "total_iters")
"""What torch's schedulers call a length that the runner does not fill in."""
_FILLED_IN = ("total_steps", "_schedule_phases")
"""What OneCycleLR makes of the length that the runner fills in."""
_RATES = ("lr", "initial_lr")
_LIMITS = ("trainer.max_epochs", "trainer.max_steps")


@dataclass(frozen=True)
class _Built:
    """The settings with which optimizer and scheduler were built."""

    groups: list[dict[str, Any]]
    scheduler: dict[str, Any]
    """The attributes of one of torch's schedulers; {} for a curve, which has no state but the step."""


def restore(
    training: Training, saved: Mapping[str, Any], *, changed: Collection[str], reset: frozenset[str]
) -> list[str]:
    """Load `saved` into the training; returns a line for everything that is not as it was.

    `changed` names the config's keys whose value is another than the saved one; what is in `reset` starts anew.
    """
    state = training.state
    torch_scheduler = state.scheduler.scheduler if isinstance(state.scheduler, TorchScheduler) else None
    built = _Built(
        [dict(group) for group in state.optimizer.param_groups],
        {} if torch_scheduler is None else dict(vars(torch_scheduler)),
    )
    lr_before = _saved_lr(saved)
    notes = state.load_state_dict(saved, reset=reset)
    optimizer_options = _below("optimizer", changed)
    if "groups" in optimizer_options:
        optimizer_options |= {option for group in built.groups for option in group}
    _ask_groups(state, built, optimizer_options)
    if isinstance(state.scheduler, CurveScheduler):
        state.scheduler.set(state.scheduler.at)
    elif "scheduler" not in reset and saved["scheduler"]["class"] == state.scheduler.kind:
        notes += _ask_scheduler(state, built, _below("scheduler", changed), with_lr="lr" in optimizer_options)
        if set(_LIMITS) & set(changed):
            _follow_length(state.scheduler, built)
            notes += _own_length(state.scheduler)
    if lr_before is not None and state.lr != lr_before:
        notes.append(f"the learning rate: {lr_before:.6g} when it was saved, {state.lr:.6g} now, as the config asks")
    return notes


def _below(section: str, keys: Collection[str]) -> set[str]:
    """The names right below `section` in dotted `keys`."""
    return {key.split(".")[1] for key in keys if key.startswith(f"{section}.")} - {"_target_"}


def _saved_lr(saved: Mapping[str, Any]) -> float | None:
    optimizer = saved["optimizer"]
    groups = optimizer["groups"] if "groups" in optimizer else optimizer["own"].get("param_groups")
    return float(groups[0]["lr"]) if groups else None


def _ask_groups(state: TrainState, built: _Built, options: set[str]) -> None:
    """The settings that were asked for; a learning rate as far down its schedule as the saved one was."""
    for group, wanted in zip(state.optimizer.param_groups, built.groups, strict=True):
        for option in (options & set(wanted)) - {"params", *_RATES}:
            group[option] = wanted[option]
        if "lr" in options and group.get("initial_lr"):
            group["lr"] = group["lr"] * (wanted["initial_lr"] / group["initial_lr"])
            group["initial_lr"] = wanted["initial_lr"]
        elif "lr" in options:
            group["lr"] = wanted["lr"]


def _ask_scheduler(state: TrainState, built: _Built, changed: set[str], *, with_lr: bool) -> list[str]:
    """The settings of one of torch's schedulers that were asked for; a line for each that cannot be set any more.

    Settings are attributes of the same name, or of its plural where there is one for each group (`min_lr`, `min_lrs`),
    or stand in the groups themselves, as OneCycleLR's `max_lr` does.
    """
    assert isinstance(state.scheduler, TorchScheduler)
    attributes = vars(state.scheduler.scheduler)
    own = [set(group) - set(state.optimizer.defaults) - {"params", *_RATES} for group in built.groups]
    notes = []
    for name in sorted(changed):
        found = {name, f"{name}s"} & set(built.scheduler)
        for attribute in found:
            attributes[attribute] = built.scheduler[attribute]
        if not found and not any(own):
            notes.append(
                f"scheduler.{name}: {state.scheduler.kind} keeps what it was saved with; +reset=[scheduler] begins anew"
            )
    if changed:
        for group, wanted, names in zip(state.optimizer.param_groups, built.groups, own, strict=True):
            # Its first learning rate is of the scheduler's making then, too.
            group.update({name: wanted[name] for name in (names | {"initial_lr"} if names else names)})
    if with_lr and "base_lrs" in built.scheduler:
        attributes["base_lrs"] = built.scheduler["base_lrs"]
    return notes


def _follow_length(scheduler: TorchScheduler, built: _Built) -> None:
    """A longer training is one for a torch scheduler, too, that gets its length from the runner."""
    vars(scheduler.scheduler).update({name: built.scheduler[name] for name in _FILLED_IN if name in built.scheduler})


def _own_length(scheduler: TorchScheduler) -> list[str]:
    """That one of torch's schedulers keeps its own length when the training becomes another."""
    return [
        f"trainer's length: {scheduler.kind} keeps its own, {name}={getattr(scheduler.scheduler, name)}; "
        f"set scheduler.{name} to change it"
        for name in _OWN_LENGTHS
        if hasattr(scheduler.scheduler, name)
    ]
