"""Putting a checkpoint's state into a training that was built anew, and saying what came of it.

What was changed in the config since wins over what was saved; how, for each part, is in training/loading.py. Here is
what more than the state itself has to be known for: how the data were cut into batches, and how long the training is.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch.utils.data import IterableDataset

from runner.checkpoint.handle import Checkpoint
from runner.config.build import Training
from runner.data.batches import Batches
from runner.data.position import Cut, converted
from runner.records import Progress
from runner.training import optimizer_state
from runner.training.plan import Past
from runner.training.schedule import TorchScheduler

_OWN_LENGTHS = ("T_max", "total_iters")
"""What torch's schedulers call a length that the runner does not fill in."""
_LIMITS = ("trainer.max_epochs", "trainer.max_steps")
_CUT = ("data.batch_size", "data.drop_last")
"""What is the loader's own affair where the data are iterable."""


@dataclass(frozen=True)
class Restored:
    """What came of restoring a state."""

    parts: tuple[str, ...]
    """What is as it was, in a word or two each."""
    notes: tuple[str, ...]
    """What is not, and why, in a line each."""


def past_of(checkpoint: Checkpoint) -> Past | None:
    """Where a training stands, and how many steps its epochs have had; None where the checkpoint does not say."""
    ends = checkpoint.manifest.facts.get("horizon")
    if not isinstance(ends, Mapping) or ends.keys() != {"steps_per_epoch", "ahead"}:
        return None
    return Past(checkpoint.step, ends["steps_per_epoch"], ends["ahead"])


def restore(
    training: Training,
    saved: Mapping[str, Any],
    *,
    changed: Collection[str] = (),
    reset: Collection[str] = (),
    cut: Cut | None = None,
) -> Restored:
    """Load `saved` into the training, but for the parts in `reset`, which begin anew.

    `changed` names the config's keys whose value is another than the saved one, `cut` how the data were cut into
    batches when it was saved. Raises what `load` does.
    """
    state = training.state
    at = Progress(**saved["progress"])
    batch, notes = (at.batch, []) if "position" in reset else _position(training, at.batch, cut, changed)
    saved = {**saved, "progress": asdict(replace(at, batch=batch))}
    loaded = state.load_state_dict(saved, reset=reset, changed=changed)
    notes = [*notes, *loaded.notes]
    if isinstance(state.scheduler, TorchScheduler):
        notes += _own_counts(state.scheduler, changed)
    before = optimizer_state.rates(saved["optimizer"])
    now = [float(group["lr"]) for group in state.optimizer.param_groups]
    notes += _other_rates(before, now, asked=bool(changed or reset or notes))
    return Restored((*loaded.parts, *(["learning rate"] if before == now else [])), tuple(notes))


def _position(training: Training, done: int, then: Cut | None, changed: Collection[str]) -> tuple[int, list[str]]:
    """After how many batches the unfinished epoch goes on, and what there is to say of it."""
    batches = training.train
    if done and isinstance(batches, Batches) and then is not None:
        return converted(done, then, batches.cut)
    asked = [key for key in _CUT if key in changed]
    if done and asked and (isinstance(batches, Batches) or isinstance(training.data.train, IterableDataset)):
        whose = "is not known" if isinstance(batches, Batches) else "is the loader's own"
        return done, [
            f"the position: how many samples {done} batches were {whose}, and {' and '.join(asked)} changed, so that "
            "it cannot be converted; +reset=[position] begins the epoch again"
        ]
    return done, []


def _own_counts(scheduler: TorchScheduler, changed: Collection[str]) -> list[str]:
    """What one of torch's schedulers keeps although the training has become another."""
    notes = [
        f"trainer's length: {scheduler.kind} keeps its own, {name}={getattr(scheduler.scheduler, name)}; "
        f"set scheduler.{name} to change it"
        for name in _OWN_LENGTHS
        if hasattr(scheduler.scheduler, name) and set(_LIMITS) & set(changed)
    ]
    if "trainer.schedule" in changed:
        notes.append(f"trainer.schedule: {scheduler.kind} goes on from what it has counted so far")
    return notes


def _other_rates(before: list[float], now: list[float], *, asked: bool) -> list[str]:
    """A line for each group whose learning rate is not the saved one. Of other groups nothing can be said."""
    why = "as the config asks" if asked else "though nothing in the config is; the scheduler does not restore it"
    if len(before) != len(now):
        return []
    return [
        f"the learning rate{f' of group {i}' if len(now) > 1 else ''}: {was:.6g} when it was saved, {lr:.6g} now, {why}"
        for i, (was, lr) in enumerate(zip(before, now, strict=True))
        if was != lr
    ]
