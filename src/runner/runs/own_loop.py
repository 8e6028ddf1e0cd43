"""A checkpoint into the objects of a training loop of one's own. All are looked at before any is changed.

model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
restored = runner.restore("outputs/...", model=model, optimizer=optimizer)
print(restored)
first = restored.progress.step
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.matching import match
from runner.errors import CheckpointError, ConfigError
from runner.records import Progress
from runner.runs.foreign_state import optimizer_as_ours, prefix_of, scheduler_problem
from runner.runs.initial import differences, specs_of, tied
from runner.runs.restorable import Restorable, read_restorable
from runner.training import generators as all_generators
from runner.training import optimizer_state
from runner.training.module_state import bare, load_transient, transient
from runner.training.schedule import CurveScheduler, TorchScheduler


@dataclass(frozen=True)
class Restored:
    """What `restore` has done. As text, a line for each part."""

    where: Path
    """The checkpoint, or the file."""
    position: str
    """Where the training stood, as far as that is told: `step 40, epoch 1`."""
    progress: Progress
    """How far the training had come. Of a file of another program, the counts that stand in it."""
    metrics: Mapping[str, float]
    """The scores of that step. Of a file of another program, the other numbers beside its weights."""
    loaded: tuple[str, ...]
    """What is now as it was saved, a line each."""
    left_out: tuple[str, ...]
    """What the checkpoint has or was asked for, and is not, a line each."""
    checkpoint: Checkpoint | None
    """None for a file of another program."""

    def __str__(self) -> str:
        return "\n".join(
            [
                ", ".join([f"restored from {self.where}", *([self.position] if self.position else [])]),
                *(f"  {line}" for line in self.loaded),
                *(f"  left out: {line}" for line in self.left_out),
            ]
        )


def restore(
    path: str | PathLike[str],
    which: str | int = "latest",
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | CurveScheduler | TorchScheduler | None = None,
    scaler: GradScaler | None = None,
    averaged: AveragedModel | None = None,
    generators: bool = False,
    strict: bool = True,
) -> Restored:
    """Load parts of a checkpoint into live objects, in place, and say what came of each.

    `which` and `path` choose as in `runner.load`. State of the optimizer goes to the parameters of the same names in
    `model`, which it needs; its groups get the saved settings, the learning rate too. `generators` are those of the
    process, of python, numpy and torch; restored last. Data parallelism and compilation around a model make no
    difference.

    `path` may be a file of another program, say the tutorial's dict or Lightning's .ckpt. Nothing in it is run. State
    of its optimizer has no names, and goes by the order of the parameters, once groups and shapes are the same.

    With `strict`, what does not fit is refused, naming tensors and shapes, and nothing is changed; without, what fits
    is loaded, and the rest is said. Raises CheckpointError, ConfigError.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "averaged": averaged}
    _check_kinds(parts)
    if optimizer is not None and model is None:
        raise ConfigError("restore(optimizer=...): give model=..., too; its names tell whose state is whose")
    given = [name for name, value in parts.items() if value is not None] + (["generators"] if generators else [])
    if not given:
        raise ConfigError(f"restore({str(path)!r}): nothing to restore into; give model=..., optimizer=..., or others")
    content = read_restorable(path, which, given)
    plan = _Plan(content)
    if model is not None:
        plan.model(bare(model))
    if optimizer is not None and model is not None:
        plan.optimizer(optimizer, bare(model))
    if scheduler is not None:
        plan.scheduler(scheduler)
    if scaler is not None:
        plan.scaler(scaler)
    if averaged is not None:
        plan.averaged(averaged)
    if generators:
        plan.generators()
    if plan.problems and strict:
        more = "give objects like those that were saved, or strict=False to load what fits"
        raise CheckpointError("\n".join([f"{content.where}: {line}" for line in plan.problems] + [more]))
    for step in plan.steps:
        step()
    unasked = [name for name in content.parts if name not in given]
    asked = [f"{', '.join(unasked)}: not asked for"] if unasked else []
    return Restored(
        content.where,
        content.position,
        content.progress,
        content.metrics,
        tuple(plan.loaded),
        (*plan.problems, *plan.notes, *asked, *content.notes),
        content.checkpoint,
    )


@dataclass
class _Plan:
    """What is to be loaded, found out part by part before anything is changed."""

    content: Restorable
    steps: list[Callable[[], object]] = field(default_factory=list)
    """What to call, in this order: the generators last, because building optimizer state may draw random numbers."""
    loaded: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What does not fit."""
    notes: list[str] = field(default_factory=list)
    """What cannot be restored on this machine, known once it has been tried."""
    fitting: frozenset[str] = frozenset()
    """The names of the model's tensors that are loaded, or all if there are no weights in the file."""

    @property
    def saved(self) -> Mapping[str, Any]:
        return self.content.saved

    def _has(self, part: str) -> bool:
        """Whether the part is in the file; it is a problem if not."""
        # A scaler that is not enabled has an empty state.
        if self.saved.get(part) not in (None, {}) or (part == "model" and "model" in self.saved):
            return True
        self.problems.append(f"{part}: {self.content.why_not(part)}")
        return False

    def model(self, model: nn.Module) -> None:
        if not self._has("model"):
            self.fitting = frozenset(model.state_dict())
            return
        tensors = self._fitting_tensors(f"model {type(model).__name__}", self.saved["model"], model)
        self.fitting = frozenset(tensors)
        self._load_module(model, self.saved, tensors)

    def averaged(self, averaged: AveragedModel) -> None:
        if not self._has("averaged"):
            return
        saved = self.saved["averaged"]
        module = bare(averaged.module)
        self._load_module(module, saved, self._fitting_tensors("averaged weights", saved["model"], module))
        self.steps.append(lambda: averaged.n_averaged.copy_(saved["count"]))

    def _fitting_tensors(self, what: str, saved: Mapping[str, Any], module: nn.Module) -> dict[str, str]:
        """The module's name of each tensor that can be loaded, and its saved name."""
        live = module.state_dict()
        try:
            prefix = prefix_of(saved, live)
            rename = {prefix: ""} if prefix else {}
            matching = match(specs_of(saved), specs_of(live), rename=rename, tied=tied(live))
        except ValueError as error:
            self.problems += [f"{what}: {line}" for line in str(error).splitlines()]
            return {}
        self.problems += [f"{what}: {line}" for line in differences(matching)]
        casts = sorted({f"{there} to {here}" for there, here in matching.cast.values()})
        total = len(matching.loaded) + len(matching.missing) + len(matching.mismatched)
        count = f"{total}" if len(matching.loaded) == total else f"{len(matching.loaded)} of {total}"
        cast = f", {len(matching.cast)} of them cast from {', '.join(casts)}" if casts else ""
        without = f", by their names without {prefix!r}" if prefix else ""
        self.loaded.append(f"{what}: {count} tensors{without}{cast}")
        # What a module keeps beside its tensors has its place in a state dict, too.
        extra = {name: name for name, value in saved.items() if not isinstance(value, Tensor) and name in live}
        return {**matching.loaded, **extra}

    def _load_module(self, module: nn.Module, saved: Mapping[str, Any], tensors: Mapping[str, str]) -> None:
        values = {name: saved["model"][source] for name, source in tensors.items()}
        self.steps.append(lambda: module.load_state_dict(values, strict=False))
        if transient(module) and saved.get("transient") is None:
            self.notes.append(f"the transient buffers of {type(module).__name__}: the {self.content.kind} has none")
        elif transient(module):
            device = next((value.device for value in module.state_dict().values() if isinstance(value, Tensor)), None)
            self.steps.append(lambda: load_transient(module, saved["transient"], device or torch.device("cpu")))

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> None:
        live = optimizer_state.qualified_name(optimizer)
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        foreign = sum(parameter not in names for parameter in trained)
        if foreign:
            raise ConfigError(
                f"restore(optimizer=...): {foreign} of its {len(trained)} parameters are not in the model, and have no "
                "names; give the model that it trains"
            )
        if not self._has("optimizer"):
            return
        saved = self.saved["optimizer"]
        if "param_groups" in saved:
            saved, problems = optimizer_as_ours(saved, optimizer, model)
            self.problems += [f"optimizer: {line}" for line in problems]
            if not saved:
                return
        if saved["class"] != live:
            self.problems.append(f"optimizer: {saved['class']} was saved, and this is a {live}")
            return
        with_settings = False
        if "own" not in saved:
            saved = self._fitting_optimizer(saved, {names[parameter] for parameter in trained})
            with_settings = optimizer_state.same_groups(optimizer, model, saved)
            if not with_settings:
                groups = f"{len(saved['groups'])} groups were saved, and there are {len(optimizer.param_groups)}"
                self.problems.append(f"optimizer: its groups hold other parameters ({groups}), and keep their settings")
        self.steps.append(lambda: self.notes.extend(optimizer_state.restore(optimizer, model, saved)))
        count = len(trained) if "own" in saved else len(saved["state"])
        # Some optimizers find a rate for themselves, and have none.
        rate = saved["groups"][0].get("lr") if with_settings else None
        told = f", learning rate {float(rate):.6g}" if rate is not None else ""
        self.loaded.append(f"optimizer {type(optimizer).__name__}: the state of {count} parameters{told}")

    def _fitting_optimizer(self, saved: Mapping[str, Any], trained: set[str]) -> Mapping[str, Any]:
        """The saved optimizer without the state of what is not trained now, or has another shape."""
        before = {name for group in saved["groups"] for name in group["params"]}
        for what, only in (("does not train", before - trained), ("trains, unlike the saved one,", trained - before)):
            if only:
                self.problems.append(f"optimizer: {what} {_listed(sorted(only))}")
        kept = {name: values for name, values in saved["state"].items() if name in trained & self.fitting}
        return {**saved, "state": kept}

    def scheduler(self, scheduler: LRScheduler | CurveScheduler | TorchScheduler) -> None:
        if not self._has("scheduler"):
            return
        driven = scheduler if isinstance(scheduler, CurveScheduler | TorchScheduler) else TorchScheduler(scheduler)
        saved = self.saved["scheduler"]
        if "class" not in saved:
            problem = scheduler_problem(saved, driven.state_dict(), type(scheduler).__name__)
            if problem is not None:
                self.problems.append(f"scheduler: {problem}")
                return
            saved = {"class": driven.kind, "state": saved}
        if saved["class"] != driven.kind:
            self.problems.append(f"scheduler: {saved['class']} was saved, and this is a {driven.kind}")
            return
        self.steps.append(lambda: driven.load_state_dict(saved["state"]))
        self.loaded.append(f"scheduler {type(scheduler).__name__}")

    def scaler(self, scaler: GradScaler) -> None:
        if not self._has("scaler"):
            return
        if not scaler.is_enabled():
            self.problems.append("scaler: the scaler is not enabled")
            return
        saved = self.saved["scaler"]
        self.steps.append(lambda: scaler.load_state_dict(saved))
        self.loaded.append("gradient scaler")

    def generators(self) -> None:
        if not self._has("generators"):
            return
        self.steps.append(lambda: self.notes.extend(all_generators.restore(self.saved["generators"])))
        self.loaded.append("random generators")


def _check_kinds(parts: Mapping[str, object]) -> None:
    kinds: Mapping[str, tuple[type, ...]] = {
        "model": (nn.Module,),
        "optimizer": (Optimizer,),
        "scheduler": (LRScheduler, CurveScheduler, TorchScheduler),
        "scaler": (GradScaler,),
        "averaged": (AveragedModel,),
    }
    problems = [
        f"restore({name}=...): got a {type(value).__name__}; wanted a {kinds[name][0].__name__}"
        for name, value in parts.items()
        if value is not None and not isinstance(value, kinds[name])
    ]
    if problems:
        raise ConfigError(problems)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
