"""What was changed since wins over what was saved, each part that is reset begins anew, and nothing else does."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.store import CheckpointStore
from runner.errors import ResumeError
from runner.records import Evaluation, Monitor
from runner.training.loading import load
from runner.training.parts import RESETTABLE
from runner.training.plan import Past, Trainer, horizon
from runner.training.schedule import Cosine, CurveScheduler, OneCycle, Scheduler, StepDecay, TorchScheduler

Train = Callable[..., Any]
Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
MakeOptimizer = Callable[[nn.Module], Optimizer]
MakeScheduler = Callable[[Optimizer], Scheduler]
BEFORE, AFTER = 4, 5
"""Steps before and after the resume; an epoch has 3."""


def groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], **settings}, {"params": parameters[2:]}]


def sgd(**settings: Any) -> MakeOptimizer:
    return lambda model: torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **settings})


def adamw(**settings: Any) -> MakeOptimizer:
    return lambda model: torch.optim.AdamW(model.parameters(), **{"lr": 0.01, **settings})


def rmsprop(**settings: Any) -> MakeOptimizer:
    return lambda model: torch.optim.RMSprop(model.parameters(), **{"lr": 0.01, **settings})


def lbfgs(**settings: Any) -> MakeOptimizer:
    return lambda model: torch.optim.LBFGS(model.parameters(), **{"lr": 0.1, "max_iter": 3, **settings})


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


SETTINGS: dict[str, tuple[MakeOptimizer, MakeOptimizer, str]] = {
    "lr": (sgd(), sgd(lr=0.3), "optimizer.lr"),
    "momentum": (sgd(), sgd(momentum=0.5), "optimizer.momentum"),
    "momentum_begins": (sgd(momentum=0), sgd(momentum=0.5), "optimizer.momentum"),
    "momentum_ends": (sgd(), sgd(momentum=0), "optimizer.momentum"),
    "nesterov": (sgd(), sgd(nesterov=True), "optimizer.nesterov"),
    "weight_decay": (adamw(), adamw(weight_decay=0.3), "optimizer.weight_decay"),
    "betas": (adamw(), adamw(betas=(0.8, 0.9)), "optimizer.betas"),
    "eps": (adamw(), adamw(eps=1e-4), "optimizer.eps"),
    "amsgrad_begins": (adamw(), adamw(amsgrad=True), "optimizer.amsgrad"),
    "amsgrad_ends": (adamw(amsgrad=True), adamw(), "optimizer.amsgrad"),
    "fused": (adamw(fused=False), adamw(fused=True), "optimizer.fused"),
    "centered_begins": (rmsprop(), rmsprop(centered=True), "optimizer.centered"),
    "rmsprop_momentum_begins": (rmsprop(), rmsprop(momentum=0.5), "optimizer.momentum"),
    "of_a_group": (
        lambda model: torch.optim.SGD(groups(model, weight_decay=0.1), lr=0.1),
        lambda model: torch.optim.SGD(groups(model, weight_decay=0.2, lr=0.01), lr=0.1),
        "optimizer.groups",
    ),
    "of_all_but_a_group": (
        lambda model: torch.optim.SGD(groups(model, lr=0.05), lr=0.1),
        lambda model: torch.optim.SGD(groups(model, lr=0.05), lr=0.2),
        "optimizer.lr",
    ),
    "longer_memory": (lbfgs(history_size=2), lbfgs(history_size=5), "optimizer.history_size"),
    "shorter_memory": (lbfgs(history_size=5), lbfgs(history_size=1), "optimizer.history_size"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_of_the_optimizer_that_was_changed_is_the_one_it_steps_with(case: str, train: Train) -> None:
    first, then, key = SETTINGS[case]
    stopped, again, whole = train(optimizer=first), train(optimizer=then), train(optimizer=then)
    stopped.advance(BEFORE)
    again.state.load_state_dict(stopped.saved(), changed=[key])
    whole.advance(BEFORE)
    assert settings_of(again.state.optimizer) == settings_of(whole.state.optimizer)
    kept = stopped.state.optimizer.state_dict()["state"]
    live = again.state.optimizer.state_dict()["state"]
    for number, values in kept.items():
        for name in set(values) - {"al", "old_dirs", "old_stps", "ro"}:
            is_equal = torch.equal if isinstance(values[name], Tensor) else lambda a, b: a == b
            assert is_equal(live[number][name], values[name]), f"the state of {name} is not what was saved"
    again.advance(AFTER)
    whole.advance(AFTER)
    assert settings_of(again.state.optimizer) == settings_of(whole.state.optimizer)


def test_what_an_optimizer_keeps_because_of_a_new_setting_starts_from_zero_and_that_is_said(train: Train) -> None:
    stopped, again = train(optimizer=adamw()), train(optimizer=adamw(amsgrad=True))
    stopped.advance(BEFORE)
    assert again.state.load_state_dict(stopped.saved(), changed=["optimizer.amsgrad"]).notes == [
        "the optimizer's max_exp_avg_sq: the checkpoint has none; with amsgrad it starts from zero"
    ]


def test_how_an_optimizer_computes_is_as_it_was_built_here(train: Train) -> None:
    # An unfused kernel, where another machine had a fused one: the config is the same.
    stopped, again = train(optimizer=adamw(fused=True)), train(optimizer=adamw(fused=False))
    stopped.advance(BEFORE)
    assert again.state.load_state_dict(stopped.saved()).notes == []
    assert [group["fused"] for group in again.state.optimizer.param_groups] == [False]


def torchs(make: Callable[..., lr_scheduler.LRScheduler], **settings: Any) -> MakeScheduler:
    return lambda optimizer: TorchScheduler(make(optimizer, **settings))


def warmed_up(steps: int, gamma: float) -> MakeScheduler:
    def make(optimizer: Optimizer) -> TorchScheduler:
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=steps)
        decay = lr_scheduler.ExponentialLR(optimizer, gamma=gamma)
        return TorchScheduler(lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[steps]))

    return make


def chained(gamma: float) -> MakeScheduler:
    def make(optimizer: Optimizer) -> TorchScheduler:
        constant = lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=6)
        return TorchScheduler(
            lr_scheduler.ChainedScheduler([constant, lr_scheduler.ExponentialLR(optimizer, gamma=gamma)])
        )

    return make


def inverse(power: float) -> MakeScheduler:
    return torchs(lr_scheduler.LambdaLR, lr_lambda=lambda step: (1 + step) ** -power)


def curve(make: Callable[..., Any], **settings: Any) -> MakeScheduler:
    return lambda optimizer: CurveScheduler(optimizer, make(**settings))


RESTARTS, CYCLE = lr_scheduler.CosineAnnealingWarmRestarts, lr_scheduler.OneCycleLR
COURSES: dict[str, tuple[MakeScheduler, MakeScheduler]] = {
    "cosine": (curve(Cosine, warmup=0, final=0, total_steps=9), curve(Cosine, warmup=0.1, final=0.2, total_steps=20)),
    "step_decay": (
        curve(StepDecay, every_epochs=1, gamma=0.5, steps_per_epoch=3),
        curve(StepDecay, every_epochs=2, gamma=0.1, steps_per_epoch=3),
    ),
    "one_cycle": (
        curve(OneCycle, rise=0.3, start_divisor=25, end_divisor=100, total_steps=9),
        curve(OneCycle, rise=0.5, start_divisor=5, end_divisor=10, total_steps=18),
    ),
    "lambda": (inverse(0.5), inverse(0.9)),
    "linear": (
        torchs(lr_scheduler.LinearLR, start_factor=0.1, total_iters=3),
        torchs(lr_scheduler.LinearLR, start_factor=0.5, total_iters=8),
    ),
    "exponential": (torchs(lr_scheduler.ExponentialLR, gamma=0.9), torchs(lr_scheduler.ExponentialLR, gamma=0.5)),
    "step": (
        torchs(lr_scheduler.StepLR, step_size=2, gamma=0.5),
        torchs(lr_scheduler.StepLR, step_size=3, gamma=0.1),
    ),
    "multi_step": (
        torchs(lr_scheduler.MultiStepLR, milestones=[2, 3], gamma=0.5),
        torchs(lr_scheduler.MultiStepLR, milestones=[3, 6], gamma=0.5),
    ),
    "cosine_annealing": (
        torchs(lr_scheduler.CosineAnnealingLR, T_max=4),
        torchs(lr_scheduler.CosineAnnealingLR, T_max=12, eta_min=0.01),
    ),
    "sequential": (warmed_up(3, 0.9), warmed_up(5, 0.7)),
    "chained": (chained(0.9), chained(0.5)),
    "torchs_one_cycle": (
        torchs(CYCLE, max_lr=0.2, total_steps=9, pct_start=0.3),
        torchs(CYCLE, max_lr=0.5, total_steps=20, pct_start=0.6, base_momentum=0.5),
    ),
    "warm_restarts": (torchs(RESTARTS, T_0=2), torchs(RESTARTS, T_0=3, T_mult=2)),
}


@pytest.mark.parametrize("two_groups", [False, True])
@pytest.mark.parametrize("case", COURSES)
def test_a_schedule_with_other_settings_goes_on_as_if_it_had_had_them_all_along(
    case: str, two_groups: bool, train: Train
) -> None:
    def optimizer(model: nn.Module) -> Optimizer:
        return torch.optim.SGD(groups(model, lr=0.3) if two_groups else model.parameters(), lr=0.1, momentum=0.9)

    first, then = COURSES[case]
    stopped, again, whole = (train(optimizer=optimizer, scheduler=scheduler) for scheduler in (first, then, then))
    stopped.advance(BEFORE)
    whole.advance(BEFORE)
    assert again.state.load_state_dict(stopped.saved(), changed=["scheduler.gamma"]).notes == []
    for _ in range(AFTER):
        assert settings_of(again.state.optimizer) == settings_of(whole.state.optimizer)
        again.advance(1)
        whole.advance(1)
    assert again.saved()["scheduler"] == whole.saved()["scheduler"]


@pytest.mark.parametrize("case", COURSES)
def test_another_learning_rate_is_as_far_down_its_schedule(case: str, train: Train) -> None:
    scheduler = COURSES[case][0]
    stopped, again, whole = (train(optimizer=sgd(lr=lr), scheduler=scheduler) for lr in (0.1, 0.7, 0.7))
    stopped.advance(BEFORE)
    whole.advance(BEFORE)
    again.state.load_state_dict(stopped.saved(), changed=["optimizer.lr"])
    assert settings_of(again.state.optimizer) == settings_of(whole.state.optimizer)
    assert [step.lr for step in again.advance(AFTER)] == [step.lr for step in whole.advance(AFTER)]


@pytest.mark.parametrize("case", COURSES)
def test_another_optimizer_keeps_the_schedule(case: str, train: Train) -> None:
    scheduler = COURSES[case][0]
    if case == "torchs_one_cycle":
        scheduler = torchs(CYCLE, max_lr=0.2, total_steps=9, cycle_momentum=False)
    stopped, again, whole = (train(optimizer=make, scheduler=scheduler) for make in (sgd(), adamw(), adamw()))
    stopped.advance(BEFORE)
    whole.advance(BEFORE)
    assert again.state.load_state_dict(stopped.saved(), changed=["optimizer._target_"]).notes == [
        "the optimizer's state: torch.optim.sgd.SGD was saved, torch.optim.adamw.AdamW starts anew"
    ]
    assert not again.state.optimizer.state
    assert settings_of(again.state.optimizer) == settings_of(whole.state.optimizer)


def plateau(**settings: Any) -> MakeScheduler:
    return lambda optimizer: TorchScheduler(lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, **settings))


def scored(training: Any, *values: float) -> None:
    for value in values:
        at = training.state.progress
        training.state.take(Evaluation(at, "validation", {"val_loss": value}, "raw", False, 0.0), schedule=True)


def test_a_plateau_keeps_what_it_has_seen_and_made_of_the_learning_rate(train: Train) -> None:
    stopped = train(scheduler=plateau(patience=0))
    scored(stopped, 1.0, 2.0, 3.0)
    again = train(scheduler=plateau(patience=1, min_lr=0.02))
    again.state.load_state_dict(stopped.saved(), changed=["scheduler.patience", "scheduler.min_lr"])
    live = again.state.scheduler.scheduler
    assert (again.state.lr, live.best, live.patience, live.min_lrs) == (0.025, 1.0, 1, [0.02])
    scored(again, 3.0, 3.0)
    assert again.state.lr == 0.02


def test_a_learning_rate_that_is_asked_for_wins_over_what_a_plateau_has_made_of_it(train: Train) -> None:
    stopped = train(scheduler=plateau(patience=0))
    scored(stopped, 1.0, 2.0)
    again = train(optimizer=sgd(lr=0.4), scheduler=plateau(patience=0))
    again.state.load_state_dict(stopped.saved(), changed=["optimizer.lr"])
    assert (again.state.lr, again.state.scheduler.scheduler.best) == (0.4, 1.0)


def test_a_plateau_that_looks_for_the_greatest_forgets_the_smallest(train: Train) -> None:
    stopped = train(scheduler=plateau(patience=1))
    scored(stopped, 1.0, 2.0)
    again = train(scheduler=plateau(patience=1, mode="max"))
    notes = again.state.load_state_dict(stopped.saved(), changed=["scheduler.mode", "monitor.mode"]).notes
    live = again.state.scheduler.scheduler
    assert (live.best, live.num_bad_epochs) == (-float("inf"), 0)
    assert notes == ["the best val_loss so far: monitor.mode is another now"]


def by_epochs(make: Callable[..., Any], steps: int, ahead: int, **settings: Any) -> MakeScheduler:
    def made(optimizer: Optimizer) -> CurveScheduler:
        return CurveScheduler(optimizer, make(**settings), steps_per_epoch=steps, ahead=ahead)

    return made


def filled_cycle(total: int, steps_per_epoch: int) -> MakeScheduler:
    def made(optimizer: Optimizer) -> TorchScheduler:
        scheduler = CYCLE(optimizer, max_lr=0.2, total_steps=total)
        return TorchScheduler(scheduler, filled_in={"total_steps": total, "steps_per_epoch": steps_per_epoch})

    return made


SIX_EPOCHS: dict[str, Callable[[int, int], MakeScheduler]] = {
    "cosine": lambda n, ahead: by_epochs(Cosine, n, ahead, warmup=0, final=0, total_steps=6 * n),
    "step_decay": lambda n, ahead: by_epochs(StepDecay, n, ahead, every_epochs=2, gamma=0.1, steps_per_epoch=n),
    "one_cycle": lambda n, ahead: by_epochs(
        OneCycle, n, ahead, rise=0.5, start_divisor=5, end_divisor=10, total_steps=6 * n
    ),
    "torchs_one_cycle": lambda n, ahead: filled_cycle(6 * n, n),
}


@pytest.mark.parametrize("case", SIX_EPOCHS)
def test_a_schedule_by_epochs_goes_on_at_the_same_share_of_them(
    case: str, train: Train, plan: Callable[..., Trainer], differences: Differences
) -> None:
    make = SIX_EPOCHS[case]
    stopped = train(scheduler=make(3, 0))
    stopped.advance(6)
    # Batches of 2 instead of 4: 5 steps an epoch instead of 3. Then it is resumed once more, as it is now.
    ahead = horizon(plan(max_epochs=6), 5, Past(step=6, steps_per_epoch=3, ahead=0)).ahead
    assert ahead == -4
    finer = train(scheduler=make(5, ahead), batch_size=2)
    assert finer.state.load_state_dict(stopped.saved(), changed=["data.batch_size"]).notes == []
    # The cycle of torch has one step less than its length, so that its shares are not quite the same.
    assert finer.state.lr == pytest.approx(stopped.state.lr, rel=0.05 if "torch" in case else 1e-12)
    taken = finer.advance(13)
    again = train(scheduler=make(5, ahead), batch_size=2)
    assert again.state.load_state_dict(finer.saved()).notes == []
    assert differences(again.saved(), finer.saved()) == []
    taken += again.advance(7)
    # From the third epoch on, the curve of a training that has had 5 steps an epoch all along.
    whole = train(scheduler=make(5, 0), batch_size=2)
    whole.advance(10)
    assert [step.lr for step in taken] == pytest.approx([step.lr for step in whole.advance(20)], rel=1e-12)
    assert taken[-1].progress.epoch == 6


def test_a_cycle_that_would_be_over_is_refused(train: Train) -> None:
    stopped = train(scheduler=torchs(CYCLE, max_lr=0.2, total_steps=9))
    stopped.advance(BEFORE)
    again = train(scheduler=torchs(CYCLE, max_lr=0.2, total_steps=3))
    with pytest.raises(ResumeError, match=r"OneCycleLR cannot go on after 4 steps with these settings \(Tried to step"):
        again.state.load_state_dict(stopped.saved(), changed=["scheduler.total_steps"])


class Silent(lr_scheduler.ExponentialLR):
    """Tells of its state only what nobody asks for."""

    def state_dict(self) -> dict[str, Any]:
        return {"gamma": self.gamma}


def test_a_scheduler_that_does_not_tell_how_far_it_is_cannot_go_on_with_other_settings(train: Train) -> None:
    stopped = train(scheduler=torchs(Silent, gamma=0.9))
    stopped.advance(2)
    again = train(scheduler=torchs(Silent, gamma=0.5))
    with pytest.raises(ResumeError, match=r"does not say after how many steps it was .*\+reset=\[scheduler\]"):
        again.state.load_state_dict(stopped.saved(), changed=["scheduler.gamma"])


def test_the_decay_of_averaged_weights_is_the_new_one(train: Train) -> None:
    stopped = train(ema_decay=0.9)
    stopped.advance(2)
    again = train(ema_decay=0.5)
    assert again.state.load_state_dict(stopped.saved(), changed=["trainer.ema_decay"]).notes == []
    before = {name: value.clone() for name, value in again.state.averaged.module.state_dict().items()}
    again.advance(1)
    raw, averaged = again.state.model.state_dict(), again.state.averaged.module.state_dict()
    for name, value in averaged.items():
        # In the order in which torch computes it.
        assert torch.allclose(value, before[name] * 0.5 + raw[name] * 0.5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("trainer", [{"accumulate": 2}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_other_settings_of_the_trainer_hold_from_the_next_step_on(trainer: dict[str, Any], train: Train) -> None:
    stopped = train()
    stopped.advance(3)
    again = train(**trainer)
    notes = again.state.load_state_dict(stopped.saved(), changed=[f"trainer.{key}" for key in trainer]).notes
    fp16 = trainer.get("precision") == "fp16"
    assert notes == (["the gradient scaler: trainer.precision is another than was saved"] if fp16 else [])
    (step,) = again.advance(1)
    assert step.progress.batch == trainer.get("accumulate", 1)
    assert (again.saved()["scaler"] is not None) == fp16


def test_gradients_are_clipped_to_the_new_norm_from_the_next_step_on(train: Train) -> None:
    plain = sgd(momentum=0)
    stopped, again = train(optimizer=plain), train(optimizer=plain, clip_norm=1e-3)
    stopped.advance(3)
    again.state.load_state_dict(stopped.saved(), changed=["trainer.clip_norm"])
    before = [value.clone() for value in again.state.model.parameters()]
    (step,) = again.advance(1)
    change = torch.stack([(old - new).norm() for old, new in zip(before, again.state.model.parameters(), strict=True)])
    assert step.grad_norm > 0.1
    # By the learning rate, 0.1, times the norm; rounded.
    assert change.norm().item() == pytest.approx(1e-4, rel=1e-2)


class Remembering(nn.PReLU):
    """An objective's own state."""


def worn(train: Train) -> Any:
    """A training in the middle of an epoch, of which every part is other than it was built."""
    parts: dict[str, Any] = {
        "precision": "fp16",
        "initial_scale": 2.0**10,
        "ema_decay": 0.5,
        "scheduler": torchs(lr_scheduler.ExponentialLR, gamma=0.5),
    }
    training = train(**parts)
    training.state.own["objective"] = Remembering()
    return training


ONLY = {
    "optimizer": "optimizer",
    "scheduler": "scheduler",
    "scaler": "scaler",
    "averaged": "averaged",
    "position": "progress",
    "best": "best",
    "early_stopping": "early_stopping",
    "generators": "generators",
    "objective": "own",
}


def stopped_in_an_epoch(train: Train) -> dict[str, Any]:
    training = worn(train)
    training.advance(5)
    training.state.best, training.state.waited = None, 0
    for value in (0.5, 0.7):
        at = training.state.progress
        training.state.take(Evaluation(at, "validation", {"val_loss": value}, "raw", False, 0.0), schedule=False)
    training.state.scaler.load_state_dict(training.state.scaler.state_dict() | {"scale": 64.0})
    training.state.own["objective"].weight.data.fill_(0.75)
    torch.rand(1)
    saved: dict[str, Any] = training.saved()
    return saved


@pytest.mark.parametrize("part", RESETTABLE)
def test_a_reset_is_exactly_that_part_and_is_said(part: str, train: Train, differences: Differences) -> None:
    saved = stopped_in_an_epoch(train)
    again, fresh = worn(train), worn(train).saved()
    (note,) = again.state.load_state_dict(saved, reset={part}).notes
    assert f"as +reset=[{part}] asks" in note
    live = again.saved()
    changed = {name for name in saved if differences({"": live[name]}, {"": saved[name]})}
    expected = {ONLY[part]} | ({"epoch_loss"} if part == "position" else set())
    # A scheduler begins at the learning rate that the groups were built with.
    assert changed == expected | ({"optimizer"} if part == "scheduler" else set())
    if part == "position":
        assert (live["progress"]["batch"], live["progress"]["step"]) == (0, saved["progress"]["step"])
    elif part == "optimizer":
        assert live["optimizer"]["state"] == {}
        assert live["optimizer"]["groups"] == saved["optimizer"]["groups"]
    elif part == "averaged":
        assert differences(live["averaged"]["model"], saved["model"]) == []
        assert live["averaged"]["count"] == 0
    elif part == "generators":
        assert differences(live["generators"], saved["generators"])
    else:
        assert differences({"": live[ONLY[part]]}, {"": fresh[ONLY[part]]}) == []


def test_all_parts_can_be_reset_at_once(train: Train) -> None:
    again = worn(train)
    notes = again.state.load_state_dict(stopped_in_an_epoch(train), reset=set(RESETTABLE)).notes
    assert len(notes) == len(RESETTABLE)
    assert len(again.advance(4)) == 4


def test_a_reset_of_what_there_is_not_is_said(train: Train) -> None:
    stopped, again = train(), train()
    stopped.advance(3)
    notes = again.state.load_state_dict(stopped.saved(), reset={"scaler", "averaged", "position", "objective"}).notes
    assert notes == [
        "+reset=[scaler]: there is no gradient scaler, so that nothing was reset",
        "+reset=[averaged]: there are no averaged weights, so that nothing was reset",
        "+reset=[position]: no epoch was unfinished, so that nothing was reset",
        "+reset=[objective]: the objective keeps no state, so that nothing was reset",
    ]


def test_a_closed_form_that_is_reset_says_where_it_stands(train: Train) -> None:
    stopped, again = train(), train()
    stopped.advance(4)
    assert again.state.load_state_dict(stopped.saved(), reset={"scheduler"}).notes == [
        "the scheduler Constant stands at step 4 of its curve, as +reset=[scheduler] asks"
    ]


def test_what_was_restored_is_told(train: Train) -> None:
    again = worn(train)
    loaded = load(again.state, stopped_in_an_epoch(train))
    assert loaded.notes == []
    assert loaded.parts == [
        "model",
        "optimizer SGD",
        "scheduler ExponentialLR",
        "gradient scaler",
        "averaged weights",
        "position",
        "best val_loss 0.5 of step 5",
        "objective",
        "random generators",
    ]


def test_the_best_of_the_other_direction_is_left_out(train: Train) -> None:
    stopped, again = train(), train()
    scored(stopped, 0.5)
    again.state.monitor = Monitor("val_loss", "max")
    notes = again.state.load_state_dict(stopped.saved(), changed=["monitor.mode"]).notes
    assert notes == ["the best val_loss so far: monitor.mode is another now"]
    assert again.state.best is None and again.state.improves({"val_loss": 0.1})


class OwnBatches:
    """A loader's state, as the training has it."""

    def __init__(self) -> None:
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize(
    ("was_loader", "message"),
    [
        (True, "it was saved after 1 batches of a loader, and the data are a map-style data set now"),
        (False, "it was saved after 1 batches of a map-style data set, and the data are a loader now"),
    ],
)
def test_a_position_of_another_kind_of_data_is_refused_or_reset(was_loader: bool, message: str, train: Train) -> None:
    stopped, again = train(), train()
    (stopped if was_loader else again).state.own["batches"] = OwnBatches()
    stopped.advance(1)
    saved = stopped.saved()
    with pytest.raises(ResumeError, match=rf"{message}; .*\+reset=\[position\] to begin the epoch again"):
        again.state.load_state_dict(saved)
    other = train()
    if not was_loader:
        other.state.own["batches"] = OwnBatches()
    (note,) = other.state.load_state_dict(saved, reset={"position"}).notes
    assert note == "the unfinished epoch begins again, after 1 batch, as +reset=[position] asks"
    assert other.state.progress.batch == 0


def test_a_loader_that_is_reset_between_two_epochs_is_said_to_begin_anew(train: Train) -> None:
    stopped, again = train(), train()
    stopped.state.own["batches"], again.state.own["batches"] = OwnBatches(), OwnBatches()
    stopped.advance(3)
    notes = again.state.load_state_dict(stopped.saved(), reset={"position"}).notes
    assert notes == ["the loader's own state begins anew, as +reset=[position] asks"]


def test_what_an_objective_remembered_is_said_when_it_does_no_more(train: Train) -> None:
    stopped, again = train(), train()
    stopped.state.own["objective"] = Remembering()
    assert again.state.load_state_dict(stopped.saved()).notes == ["the state of objective: it keeps none now"]


def test_a_save_right_after_a_resume_has_the_bytes_of_what_was_loaded(train: Train, tmp_path: Path) -> None:
    stopped = worn(train)
    stopped.advance(5)
    scored(stopped, 0.5)

    def save(training: Any, directory: Path) -> Checkpoint:
        keep = KeepPolicy(last=1, best=None, every_steps=None, every_hours=None)
        store = CheckpointStore(directory, run="r", keep=keep, monitor=None)
        at = training.state.progress
        store.save(
            training.state.state_dict(), progress=at, reasons=("end",), metrics={}, documents={}, facts={}
        ).wait()
        assert store.newest is not None
        return store.newest

    first = save(stopped, tmp_path / "first")
    again = worn(train)
    assert again.state.load_state_dict(first.state()).notes == []
    second = save(again, tmp_path / "second")
    for file in ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json"):
        assert (second.path / file).read_bytes() == (first.path / file).read_bytes(), file
