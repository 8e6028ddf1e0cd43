"""Putting a checkpoint's state into a training that was built anew, and saying what came of it."""

from collections.abc import Collection, Mapping
from typing import Any

from runner.config.build import Training
from runner.training.schedule import CurveScheduler, TorchScheduler


def restore(
    training: Training, saved: Mapping[str, Any], *, changed: Collection[str], reset: frozenset[str]
) -> list[str]:
    """Load `saved` into the training; returns a line for everything that is not as it was.

    `changed` names the config's keys whose value is another than the saved one. Loading the state of an optimizer or a
    scheduler silently puts the old values back, so what the config asks for now is applied again.
    """
    state = training.state
    options = _below("optimizer", changed)
    if "groups" in options:
        options |= {option for group in state.optimizer.param_groups for option in group}
    asked = [dict(group) for group in state.optimizer.param_groups]
    built = dict(vars(state.scheduler.scheduler)) if isinstance(state.scheduler, TorchScheduler) else {}
    lr_before = _saved_lr(saved)
    notes = state.load_state_dict(saved, reset=reset)
    for group, wanted in zip(state.optimizer.param_groups, asked, strict=True):
        for option in (options & set(wanted)) - {"params", "lr", "initial_lr"}:
            group[option] = wanted[option]
        if "lr" in options:
            _ask_lr(group, wanted)
    if isinstance(state.scheduler, CurveScheduler):
        state.scheduler.set(state.scheduler.at)
    else:
        _ask_scheduler(state.scheduler, built, _below("scheduler", changed), with_lr="lr" in options)
    if lr_before is not None and state.lr != lr_before:
        notes.append(f"the learning rate: {lr_before:.6g} when it was saved, {state.lr:.6g} now, as the config asks")
    return notes


def _below(section: str, keys: Collection[str]) -> set[str]:
    """The names right below `section` in dotted `keys`."""
    return {key.split(".")[1] for key in keys if key.startswith(f"{section}.")}


def _saved_lr(saved: Mapping[str, Any]) -> float | None:
    optimizer = saved["optimizer"]
    groups = optimizer["groups"] if "groups" in optimizer else optimizer["own"].get("param_groups")
    return float(groups[0]["lr"]) if groups else None


def _ask_lr(group: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """The learning rate that was asked for, as far down the schedule as the saved one was."""
    if group.get("initial_lr"):
        group["lr"] = group["lr"] * (wanted["initial_lr"] / group["initial_lr"])
        group["initial_lr"] = wanted["initial_lr"]
    else:
        group["lr"] = wanted["lr"]


def _ask_scheduler(scheduler: TorchScheduler, built: Mapping[str, Any], changed: set[str], *, with_lr: bool) -> None:
    """Settings of torch's schedulers are attributes of the same name, except that plateau keeps a list of `min_lr`."""
    for name in {"min_lrs" if name == "min_lr" else name for name in changed} & set(built):
        setattr(scheduler.scheduler, name, built[name])
    if with_lr and "base_lrs" in built:
        scheduler.scheduler.base_lrs = built["base_lrs"]
