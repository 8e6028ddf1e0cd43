"""Putting a saved state into a training that was built anew, part by part, and saying what came of each.

The order: model, optimizer and scheduler, scaler, averaged weights, position, best and early stopping, the user's own
parts, random generators. The generators are last, because building optimizer state may draw random numbers.

Loading an optimizer's groups or one of torch's schedulers would put the saved settings back. So where a setting of
theirs was changed, the settings stay those that they were built with, and only how far along they are is loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from runner.errors import CheckpointError, DataError, ResumeError
from runner.records import Progress
from runner.training import generators, optimizer_state
from runner.training.best import Best
from runner.training.module_state import load_transient, transient
from runner.training.schedule import Scheduler, TorchScheduler

if TYPE_CHECKING:
    from runner.training.state import TrainState


@dataclass(frozen=True)
class Loaded:
    """What came of loading a state."""

    parts: list[str] = field(default_factory=list)
    """What is as it was, in a word or two each."""
    notes: list[str] = field(default_factory=list)
    """What is not, and why, in a line each."""


def load(
    state: "TrainState", saved: Mapping[str, Any], *, reset: Collection[str] = (), changed: Collection[str] = ()
) -> Loaded:
    """Restore what `state_dict` gave, but for the parts in `reset` (see parts.py), which begin anew.

    `changed` are the config's keys that have another value now than they had; of `state` they hold already. Raises
    CheckpointError if the names or shapes of the model differ, ResumeError if a position or schedule does not fit.
    """
    loading = _Loading(state, saved, frozenset(reset), frozenset(changed))
    loading.model()
    loading.optimizer_and_scheduler()
    loading.scaler()
    loading.averaged()
    loading.position()
    loading.best()
    loading.own()
    loading.generators()
    return loading.loaded


class _Loading:
    """One pass over the parts; each method is one of them."""

    def __init__(
        self, state: "TrainState", saved: Mapping[str, Any], reset: frozenset[str], changed: frozenset[str]
    ) -> None:
        self.state, self.saved, self.reset, self.changed = state, saved, reset, changed
        self.loaded = Loaded()
        self.restored, self.note = self.loaded.parts.append, self.loaded.notes.append

    def _changed(self, *keys: str) -> bool:
        """Whether one of these keys, or something below it, has another value now."""
        return any(f"{one}.".startswith(f"{key}.") for one in self.changed for key in keys)

    def model(self) -> None:
        state = self.state
        load_weights(state.model, self.saved["model"])
        load_transient(state.model, self.saved["transient"], state.device)
        self.restored("model")
        # Now, because a scheduler may begin where the training stands.
        state.progress = Progress(**self.saved["progress"])

    def optimizer_and_scheduler(self) -> None:
        """They belong together: a scheduler goes on from the groups' learning rates."""
        optimizer, scheduler = self.state.optimizer, self.state.scheduler
        built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        saved, schedule = self.saved["optimizer"], self.saved["scheduler"]
        same_class = saved["class"] == optimizer_state.qualified_name(optimizer)
        same_groups = same_class and optimizer_state.same_groups(optimizer, self.state.model, saved)
        begins = "scheduler" in self.reset or schedule["class"] != scheduler.kind
        as_saved = same_groups and not begins and not self._changed("optimizer", "scheduler")
        if "own" in saved and "optimizer" in self.reset:
            as_saved = False
        if isinstance(scheduler, TorchScheduler) and as_saved:
            as_saved = scheduler.fits(schedule["state"])
        if same_class:
            self._optimizer(same_groups, as_saved)
        else:
            live = optimizer_state.qualified_name(optimizer)
            self.note(f"the optimizer's state: {saved['class']} was saved, {live} starts anew")
        if as_saved:
            scheduler.load_state_dict(schedule["state"])
            self.restored(f"scheduler {_short(scheduler.kind)}")
            return
        for group, settings in zip(optimizer.param_groups, built, strict=True):
            group.update(settings)
        if begins:
            self._begin_schedule()
            return
        if _follows_scores(scheduler) and same_groups and not self._changed("optimizer.lr", "optimizer.groups"):
            # What it has made of them is not to be had anew.
            for group, lr in zip(optimizer.param_groups, optimizer_state.rates(saved), strict=True):
                group["lr"] = lr
        scheduler.catch_up(schedule["state"])
        self.restored(f"scheduler {_short(scheduler.kind)}")

    def _optimizer(self, same_groups: bool, as_saved: bool) -> None:
        optimizer, saved = self.state.optimizer, self.saved["optimizer"]
        anew = "optimizer" in self.reset
        if anew:
            self._left("optimizer", "the optimizer's state")
        else:
            self.restored(f"optimizer {type(optimizer).__name__}")
        if "own" in saved:
            # What of it is state, and what a setting, only its class knows.
            if not anew:
                optimizer.load_state_dict(saved["own"])
            return
        if not same_groups:
            self.note("the settings of the optimizer's groups: they hold other parameters now")
        if as_saved:
            optimizer_state.restore_settings(optimizer, saved)
        if not anew:
            self.loaded.notes.extend(optimizer_state.restore_state(optimizer, self.state.model, saved))

    def _begin_schedule(self) -> None:
        state, there = self.state, self.saved["scheduler"]["class"]
        state.scheduler.begin(state.progress)
        live = state.scheduler.kind
        if there != live:
            self.note(f"the scheduler: {there} was saved, {live} starts anew")
        elif isinstance(state.scheduler, TorchScheduler):
            self._left("scheduler", f"the scheduler {_short(live)}")
        else:
            # It has no other state than the step.
            self._left(
                "scheduler", f"the scheduler {_short(live)}", f"stands at step {state.progress.step} of its curve"
            )

    def scaler(self) -> None:
        live, saved = self.state.scaler, self.saved["scaler"]
        if (live is None) != (saved is None):
            self.note("the gradient scaler: trainer.precision is another than was saved")
        elif live is None:
            self._nothing_in("scaler", "there is no gradient scaler")
        elif "scaler" in self.reset:
            self._left("scaler", "the gradient scaler")
        else:
            live.load_state_dict(saved)
            self.restored("gradient scaler")

    def averaged(self) -> None:
        state, saved = self.state, self.saved["averaged"]
        if state.averaged is None:
            self._nothing_in("averaged", "there are no averaged weights")
            if saved is not None:
                self.note("the averaged weights: trainer.ema_decay is null now")
            return
        module = state.averaged.module
        if saved is None or "averaged" in self.reset:
            # They begin at the restored weights, not at the random ones that the model was built with.
            module.load_state_dict(state.model.state_dict())
            load_transient(module, transient(state.model), state.device)
            if saved is None:
                self.note("the averaged weights: the checkpoint has none; they start from the raw ones")
            else:
                self._left("averaged", "the averaged weights", "start from the raw ones")
            return
        load_weights(module, saved["model"])
        load_transient(module, saved["transient"], state.device)
        state.averaged.n_averaged.copy_(saved["count"])
        self.restored("averaged weights")

    def position(self) -> None:
        """Where in the data: the batches of the unfinished epoch, their mean loss, and a loader's own state."""
        state, saved = self.state, self.saved["own"].get("batches")
        loader, at = state.own.get("batches"), state.progress
        if "position" in self.reset:
            state.progress = replace(at, batch=0)
            if at.batch:
                done = "1 batch" if at.batch == 1 else f"{at.batch} batches"
                self._left("position", "the unfinished epoch", f"begins again, after {done}")
            elif loader is not None and saved is not None:
                self._left("position", "the loader's own state")
            else:
                self._nothing_in("position", "no epoch was unfinished")
            return
        if at.batch and (loader is None) != (saved is None):
            kinds = ("a loader", "a map-style data set") if loader is None else ("a map-style data set", "a loader")
            raise ResumeError(
                f"the position: it was saved after {at.batch} batches of {kinds[0]}, and the data are {kinds[1]} now; "
                "resume with the data of the saved run, or type +reset=[position] to begin the epoch again"
            )
        if loader is not None and saved is not None:
            try:
                loader.load_state_dict(saved)
            except DataError as error:
                raise ResumeError(f"{error}; or type +reset=[position] to begin the epoch again") from error
        state.epoch_loss.load_state_dict(self.saved["epoch_loss"])
        self.restored("position")

    def best(self) -> None:
        state, saved = self.state, self.saved["best"]
        best = None if saved is None else Best(**saved)
        if best is not None and (state.monitor is None or best.metric != state.monitor.metric):
            self.note(f"the best {best.metric} so far: another metric is monitored now")
            return
        if self._changed("monitor.mode"):
            if best is not None:
                self.note(f"the best {best.metric} so far: monitor.mode is another now")
            return
        if "best" in self.reset:
            self._left("best", "the best score so far" if best is None else f"the best {best.metric} so far")
        else:
            state.best = best
            if best is not None:
                self.restored(f"best {best.metric} {best.value:.4g} of step {best.step}")
        if "early_stopping" in self.reset:
            self._left("early_stopping", "early stopping", "waits from now on")
        else:
            waiting = self.saved["early_stopping"]
            state.stopping_best, state.waited = waiting["best"], waiting["waited"]

    def own(self) -> None:
        """The parts that are the user's, but for the loader: the objective."""
        live, saved = self.state.own, self.saved["own"]
        for name in dict.fromkeys([*live, *saved, *(["objective"] if "objective" in self.reset else [])]):
            if name == "batches":
                continue
            if name not in live:
                if name in saved:
                    self.note(f"the state of {name}: it keeps none now")
                else:
                    self._nothing_in(name, f"the {name} keeps no state")
            elif name not in saved:
                self.note(f"the state of {name}: the checkpoint has none")
            elif name in self.reset:
                self._left(name, f"the state of {name}")
            else:
                live[name].load_state_dict(saved[name])
                self.restored(name)

    def generators(self) -> None:
        if "generators" in self.reset:
            self._left("generators", "the random generators", "begin as those of a new run do")
            return
        self.loaded.notes.extend(generators.restore(self.saved["generators"]))
        self.restored("random generators")

    def _left(self, part: str, what: str, then: str = "begins anew") -> None:
        self.note(f"{what} {then}, as +reset=[{part}] asks")

    def _nothing_in(self, part: str, why: str) -> None:
        """Say that a reset of `part` was asked for where it has none."""
        if part in self.reset:
            self.note(f"+reset=[{part}]: {why}, so that nothing was reset")


def _short(kind: str) -> str:
    return kind.rpartition(".")[2]


def _follows_scores(scheduler: Scheduler) -> bool:
    return isinstance(scheduler, TorchScheduler) and isinstance(scheduler.scheduler, ReduceLROnPlateau)


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
