"""Killed anywhere and resumed from what is on disk, a training ends in the bytes of the uninterrupted one.

Every optimizer with every scheduler is stopped between steps and built anew. Everything else is combined in pairs: in
few trainings, every two settings come together at least once. Those are killed, in this process, where a record is
made, a model called or a file synced, and go on from their newest checkpoint through the real loop and the real store.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from runner.checkpoint.policies import KeepPolicy, SavePolicy
from runner.checkpoint.store import CheckpointStore
from runner.config.build import Training
from runner.config.schema import Checkpointing
from runner.data.batches import make_batches
from runner.data.data import Data
from runner.data.tensors import Tensors
from runner.metrics_file import MetricsFile, read_metrics
from runner.records import Monitor, Record
from runner.runs.loop import Loop
from runner.runs.records_file import RecordsFile
from runner.runs.restoring import restore
from runner.runs.saver import Saver
from runner.training.objective import Accuracy, Supervised
from runner.training.plan import EarlyStopping, horizon
from runner.training.schedule import Constant, Cosine, CurveScheduler, OneCycle, Scheduler, StepDecay, TorchScheduler
from runner.training.signals import Signals

SAMPLES, FEATURES, CLASSES = 10, 6, 3
"""With batches of 4, an epoch has the batches 4, 4, 2."""
Train = Callable[..., Any]
Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "lr": 0.05}, {"params": parameters[2:], "weight_decay": 0.1}]


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=False),
    "adamw_fused": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
    "adamw_amsgrad": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True),
    "adamw_groups": lambda model: torch.optim.AdamW(groups(model), lr=0.01),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=0.1, lr_decay=0.01),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5, centered=True),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
}


class Halving:
    """A factor with state of its own, as a user may give to LambdaLR."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return float(0.5 ** (self.calls / 4))


def warmed_up(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=2)
    restarts = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
    return lr_scheduler.SequentialLR(optimizer, [warmup, restarts], milestones=[2])


def chained(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


def cycled(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    momentum = bool({"momentum", "betas"} & optimizer.defaults.keys())
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=40, cycle_momentum=momentum)


def cyclic(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    momentum = "momentum" in optimizer.defaults
    return lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, step_size_up=3, mode="exp_range", cycle_momentum=momentum)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "constant": lambda optimizer: Constant(warmup_steps=3),
    "cosine": lambda optimizer: Cosine(warmup=0.2, final=0.1, total_steps=12),
    "step": lambda optimizer: StepDecay(every_epochs=1, gamma=0.5, steps_per_epoch=2),
    "one_cycle": lambda optimizer: OneCycle(rise=0.3, start_divisor=25.0, end_divisor=1e4, total_steps=12),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.9),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "LambdaLR_with_state": lambda optimizer: lr_scheduler.LambdaLR(optimizer, Halving()),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=5),
    "SequentialLR": warmed_up,
    "ChainedScheduler": chained,
    "OneCycleLR": cycled,
    "CyclicLR": cyclic,
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3, 5]),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=9, power=2.0),
}


def scheduler(name: str) -> Callable[[Optimizer], Scheduler]:
    def build(optimizer: Optimizer) -> Scheduler:
        built = SCHEDULERS[name](optimizer)
        if isinstance(built, lr_scheduler.LRScheduler):
            return TorchScheduler(built)
        return CurveScheduler(optimizer, built)

    return build


def when(name: str) -> str:
    return "evaluation" if name == "plateau" else "step"


STEPS = 7
"""Over two epochs of three steps each."""


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_exactly_with_every_scheduler(
    train: Train, differences: Differences, optimizer: str, name: str
) -> None:
    parts = {"optimizer": OPTIMIZERS[optimizer], "scheduler": scheduler(name), "schedule": when(name)}
    whole = train(**parts)
    states, taken = [whole.saved()], []
    for _ in range(STEPS):
        taken += whole.advance(1)
        states.append(whole.saved())
    assert len({step.lr for step in taken}) > 1, "a learning rate that never moves would show nothing"
    for stop in (1, 3, 5):
        again = train(**parts)
        assert again.state.load_state_dict(states[stop]).notes == []
        assert differences(again.saved(), states[stop]) == [], f"right after loading step {stop}"
        assert again.advance(STEPS - stop) == taken[stop:]
        assert differences(again.saved(), states[STEPS]) == [], f"stopped after step {stop}"


class Killed(BaseException):
    """The end of a process, without its end: nobody catches this."""


class Events:
    """Counts what happens in an attempt, and ends it at the event number `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.seen: list[str] = []

    def happened(self, what: str) -> None:
        self.seen.append(what)
        if self.last is not None and len(self.seen) > self.last:
            raise Killed(what)


class Watching(Supervised):
    """Tells when the model is about to be called, in a step or in an evaluation."""

    def __init__(self, events: Events) -> None:
        super().__init__(loss=nn.CrossEntropyLoss(), metrics={"accuracy": Accuracy()})
        self.events = events

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.events.happened("training" if torch.is_grad_enabled() else "evaluating")
        return super().loss(model, batch)


def name_of(record: Record) -> str:
    name = type(record).__name__.lower()
    return f"{name} at the end of an epoch" if record.progress.batch == 0 else name


KILLS = {
    "in the first step": lambda events: events.index("training"),
    "inside a step": lambda events: middle(events, "training"),
    "between two steps": lambda events: middle(events, "step"),
    "at the last batch of an epoch": lambda events: middle(events, "step at the end of an epoch"),
    "during an evaluation": lambda events: middle(events, "evaluating"),
    "after an evaluation": lambda events: middle(events, "evaluation at the end of an epoch"),
    "during a save": lambda events: middle(events, "sync"),
    "between two epochs": lambda events: middle(events, "saved at the end of an epoch"),
}


def middle(events: list[str], wanted: str) -> int:
    found = [number for number, event in enumerate(events) if event == wanted]
    return found[len(found) // 2]


def with_dropout_and_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


class Remembering(nn.Module):
    """Keeps something of the last batch in a buffer that no state dict has, and shares one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.down.weight = self.up.weight
        self.register_buffer("memory", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.down(self.up(x).tanh())[:, :CLASSES]
        if self.memory is not None:
            scores = scores + self.memory.mean(dim=0)
        if self.training:
            self.memory = scores.detach() * 0.5
        return scores


class Augmented(Dataset[tuple[Tensor, int]]):
    """Draws from each of the three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + float(np.random.standard_normal())
        return torch.rand(FEATURES) + noise + index, index % CLASSES


class Stream(IterableDataset[Any]):
    """Each pass goes on in numbers of its own. It draws, too."""

    def __init__(self) -> None:
        self.passes = self.at = 0

    def __iter__(self) -> Iterator[Any]:
        while self.at < SAMPLES:
            self.at += 1
            yield torch.rand(FEATURES) + random.random() + self.at / (1 + self.passes), self.at % CLASSES
        self.passes, self.at = self.passes + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.passes, self.at = state["passes"], state["at"]


def tensors(samples: int = SAMPLES) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, FEATURES, generator=generator)
    return Tensors(x, torch.randint(CLASSES, (samples,), generator=generator))


def poisoned() -> Tensors:
    """One sample makes the loss NaN: its step is left out."""
    data = tensors()
    data.tensors[0][3, 0] = float("nan")
    return data


class Buckets:
    """Batches of neighbours in an order of their own generator."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __iter__(self) -> Iterator[list[int]]:
        starts = [0, 4, 8]
        self.random.shuffle(starts)
        yield from ([*range(start, min(start + 4, SAMPLES))] for start in starts)

    def __len__(self) -> int:
        return 3

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.setstate(state["random"])


def bucketed() -> DataLoader[Any]:
    return DataLoader(Augmented(), batch_sampler=Buckets())


def weighted() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    sampler = WeightedRandomSampler(range(1, SAMPLES + 1), SAMPLES, generator=generator)
    return DataLoader(Augmented(), batch_size=4, sampler=sampler)


FACTORS: dict[str, Sequence[Any]] = {
    "kill": tuple(KILLS),
    "scheduler": tuple(SCHEDULERS),
    "optimizer": tuple(OPTIMIZERS),
    "model": ("plain", with_dropout_and_norm, Remembering),
    "dataset": (tensors, Augmented, poisoned, Stream, weighted, bucketed),
    "workers": ((0, 0), (0, 4), (1, 0), (4, 1)),
    "precision": ("fp32", "bf16", "fp16"),
    "accumulate": (1, 2),
    "clip_norm": (None, 0.1),
    "ema_decay": (None, 0.9),
    "patience": (None, 1),
    "times": (1, 2),
}
"""`workers`: of the first attempt, and of all later ones. `times`: how often it is killed so."""


def allowed(row: Mapping[str, Any]) -> bool:
    """Whether these settings, as many as there are yet, can go together."""
    lbfgs = row.get("optimizer") == "lbfgs" and (row.get("precision") == "fp16" or row.get("dataset") is poisoned)
    # Iterable data are another stream with other workers: see tests/data/test_loader_batches.py.
    stream = row.get("dataset") is Stream and row.get("workers", (0, 0)) != (0, 0)
    return not lbfgs and not stream


def in_pairs(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Few rows in which every two values of two factors come together at least once, if that is allowed."""
    order = list(factors)
    missing = {
        (one, i, other, j)
        for one, other in combinations(order, 2)
        for i, a in enumerate(factors[one])
        for j, b in enumerate(factors[other])
        if allowed({one: a, other: b})
    }

    def gain(chosen: Mapping[str, int], factor: str, value: int) -> int:
        pairs = ((a, i, factor, value) if order.index(a) < order.index(factor) else (factor, value, a, i)
                 for a, i in chosen.items())  # fmt: skip
        return sum(pair in missing for pair in pairs)

    rows = []
    while missing:
        one, i, other, j = min(missing, key=lambda pair: (order.index(pair[0]), pair[1], order.index(pair[2]), pair[3]))
        chosen = {one: i, other: j}
        for factor in order:
            if factor not in chosen:
                known = {name: factors[name][number] for name, number in chosen.items()}
                fitting = [n for n, value in enumerate(factors[factor]) if allowed({**known, factor: value})]
                chosen[factor] = max(fitting, key=lambda n: gain(chosen, factor, n))
        missing -= {(a, chosen[a], b, chosen[b]) for a, b in combinations(order, 2)}
        rows.append({name: factors[name][chosen[name]] for name in order})
    return rows


ROWS = in_pairs(FACTORS)


@dataclass(frozen=True)
class Trial:
    """A training on disk, carried out by as many attempts as it takes."""

    train: Train
    directory: Path
    parts: Mapping[str, Any]

    def attempt(self, workers: int, last: int | None = None) -> list[str]:
        """Begin, or go on from the newest checkpoint, until the end or the event number `last`; returns all events."""
        events = Events(last)
        built = self.train(**self.parts, workers=workers, objective=lambda: Watching(events))
        validation = make_batches(tensors(7), batch_size=4, shuffle=False, drop_last=False, seed=5, resumable=False)
        ends = horizon(built.plan, built.batches.num_batches)
        training = Training(built.state, built.objective, Data(None), built.batches, validation, None, ends, ())
        with ExitStack() as ending:
            ending.callback(training.close)
            store = CheckpointStore(self.directory, run="r", keep=ALL, monitor=MONITOR)
            ending.callback(store.close)
            number = 1 + len(list(self.directory.glob("attempt-*")))
            (self.directory / f"attempt-{number}").touch()
            records = RecordsFile(
                ending.enter_context(MetricsFile(self.directory / "metrics.jsonl", number)), log_every=1
            )
            newest = store.newest
            if newest is not None:
                assert restore(training, newest.state()).notes == ()
            records.start(built.state.progress)

            def observe(record: Record) -> None:
                records.observe(record)
                events.happened(name_of(record))

            saver = Saver(
                store,
                built.state,
                SAVING,
                saved=None if newest is None else newest.progress,
                documents={},
                facts={},
                before=records.sync,
                observe=observe,
                began=0.0,
                clock=lambda: 0.0,
            )
            ending.callback(saver.close)
            loop = Loop(
                training,
                built.plan,
                SAVING.save,
                observe=observe,
                saver=saver,
                scores={} if newest is None else newest.metrics,
                signals=Signals(),
                began=0.0,
                clock=lambda: 0.0,
            )
            with pytest.MonkeyPatch.context() as patch:
                # What has to reach the disk for sure need not do so here: the process lives on.
                for name in ("fsync", "fdatasync"):
                    patch.setattr(os, name, lambda fd: events.happened("sync"))
                with suppress(Killed):
                    loop.run()
        return events.seen

    def left(self) -> dict[str, Any]:
        """All that a training leaves: every byte of every state, its scores and reasons, and the records."""
        store = CheckpointStore(self.directory, run="r", keep=ALL, monitor=MONITOR)
        made: dict[str, Any] = {}
        for checkpoint in store.checkpoints:
            files = ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json")
            found = [checkpoint.path / file for file in files if (checkpoint.path / file).exists()]
            made |= {f"{checkpoint.path.name}/{file.name}": file.read_bytes() for file in found}
            made[checkpoint.path.name] = (checkpoint.progress, checkpoint.reasons, str(checkpoint.metrics))
        timed = ("attempt", "seconds", "stall", "share")
        lines = read_metrics(self.directory / "metrics.jsonl")
        # By their text, because a loss that is NaN does not equal itself.
        made["records"] = [str({key: value for key, value in line.items() if key not in timed}) for line in lines]
        return made


MONITOR = Monitor("val_loss", "min")
ALL = KeepPolicy(last=None, best=None, every_steps=None, every_hours=None)
SAVING = Checkpointing(
    name="step-{step:09d}",
    asynchronous=False,
    when_busy="wait",
    on_failure="stop",
    read_back=False,
    save=SavePolicy(
        every_steps=2,
        at_steps=None,
        every_epochs=1,
        every_seconds=None,
        budget=None,
        on_improvement=True,
        min_delta=0.0,
        at_end=True,
    ),
    keep=ALL,
)


def parts_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `train` is given for a row of the table."""
    fp16 = row["precision"] == "fp16"
    return {
        "dataset": row["dataset"],
        "shuffle": row["dataset"] is not Stream,
        "optimizer": OPTIMIZERS[row["optimizer"]],
        "scheduler": scheduler(row["scheduler"]),
        "schedule": when(row["scheduler"]),
        "precision": row["precision"],
        "accumulate": row["accumulate"],
        "clip_norm": row["clip_norm"],
        "ema_decay": row["ema_decay"],
        "early_stopping": EarlyStopping(patience=row["patience"], min_delta=0.0),
        "nonfinite": "skip" if fp16 or row["dataset"] is poisoned else "stop",
        # So large that the first steps are left out.
        **({"initial_scale": 2.0**20} if fp16 else {}),
        **({} if row["model"] == "plain" else {"model": row["model"]}),
        "max_epochs": 4,
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_training_that_is_killed_goes_on_from_disk_exactly(train: Train, tmp_path: Path, number: int) -> None:
    row = ROWS[number]
    first, later = row["workers"]
    whole = Trial(train, tmp_path / "whole", parts_of(row))
    broken = Trial(train, tmp_path / "broken", parts_of(row))
    for trial in (whole, broken):
        trial.directory.mkdir()
    events = whole.attempt(first)
    last = KILLS[row["kill"]](events)
    assert broken.attempt(first, last) == events[: last + 1]
    if row["times"] == 2:
        broken.attempt(later, 0)
    broken.attempt(later)
    assert differing(whole, broken) == [], row


def differing(whole: Trial, broken: Trial) -> list[str]:
    expected, left = whole.left(), broken.left()
    return [name for name in expected | left if expected.get(name) != left.get(name)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("dataset", [Augmented, bucketed])
def test_a_training_that_is_killed_ten_times_goes_on_exactly(train: Train, tmp_path: Path, dataset: Any) -> None:
    row = {
        "scheduler": "SequentialLR",
        "optimizer": "adamw_groups",
        "model": with_dropout_and_norm,
        "dataset": dataset,
        "precision": "bf16",
        "accumulate": 2,
        "clip_norm": 0.5,
        "ema_decay": 0.9,
        "patience": None,
    }
    parts = parts_of(row) | {"max_epochs": 14}
    whole, broken = Trial(train, tmp_path / "whole", parts), Trial(train, tmp_path / "broken", parts)
    for trial in (whole, broken):
        trial.directory.mkdir()
    whole.attempt(0)
    kills = 0
    # Enough to come to the next save and past it, in another place each time.
    while len(broken.attempt((0, 1, 4)[kills % 3], last := 25 + kills)) > last:
        kills += 1
    assert kills >= 10
    assert differing(whole, broken) == []


def test_the_table_has_every_pair_and_is_short() -> None:
    for one, other in combinations(FACTORS, 2):
        wanted = {(str(a), str(b)) for a in FACTORS[one] for b in FACTORS[other] if allowed({one: a, other: b})}
        assert wanted <= {(str(row[one]), str(row[other])) for row in ROWS}
    assert len(ROWS) < 1.5 * len(KILLS) * len(SCHEDULERS)
