"""Taking a stretch of a run again, as a resume would, and comparing it with what was recorded, bit for bit.

The same attempt does it that a resume makes, in a temporary run directory. Nothing of the run is touched.
"""

import signal
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from runner import jsonl
from runner.checkpoint.comparing import Comparison, compare
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy, SavePolicy
from runner.config.check import Settings
from runner.config.composing import Config
from runner.config.diff import NOT_THERE, differences
from runner.config.documents import BUILT, COMPOSED, saved_config, written
from runner.config.finding import Found
from runner.config.prepare import judged
from runner.config.resume import Resumption, replayed
from runner.config.schema import Checkpointing
from runner.config.sources import Sources
from runner.config.words import Words
from runner.records import Evaluation, Record, Started, Step
from runner.rundir import RunDir
from runner.runs import provenance
from runner.runs.attempt import Attempt
from runner.runs.causes import likely_cause
from runner.runs.environment import process_settings
from runner.runs.observers.observers import Observer
from runner.runs.records_file import line_of
from runner.runs.source_code import changed_source
from runner.runs.stretches import COMPARED, Stretch
from runner.training.signals import Signals
from runner.trust_memory import TrustMemory

_LONG_ENOUGH = 10.0**9
"""Seconds: no limit on time ends what is taken again."""
_NOT_COMPARED = ("event", "attempt", "seconds", "digests")
_IN_ORDER = ("batches", "generators", "lr", "loss", "grad_norm")
"""What differs first says most about the cause: from the data over the draws to the arithmetic."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The first thing that was not as recorded."""

    step: int
    event: str
    """`step`, `epoch`, `evaluation`, or `state`: that of the checkpoint at the end."""
    what: str
    """The name of the value; of a step also `batches` and `generators`."""
    recorded: Any
    now: Any
    equal_until: int
    """The last step at which everything that was recorded was equal."""
    comparison: Comparison | None = None
    """Of two states."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of taking a stretch again."""

    stretch: Stretch
    gathers: int
    """How many steps were compared whose loss was recorded."""
    evaluations: int
    tensors: int | None
    """How many tensors of the state at the end; None where no checkpoint is there, or something differed before."""
    deviation: Deviation | None = None
    """None where everything is identical."""
    repeatable: bool | None = None
    """Where something differs: whether it comes out the same when it is taken again here once more."""
    changed: tuple[str, ...] = ()
    """Where something differs: what of machine, software, data and source is not what it was, a line each."""
    cause: str = ""


def verify(stretch: Stretch, *, trust: Sequence[str] = (), look: Observer | None = None) -> Verdict:
    """Take a stretch again; the verdict. `look` is shown how it goes on.

    Raises CheckpointError where a checkpoint of it is damaged, and whatever refuses a resume.
    """
    launch = _launch(stretch, trust)
    with TemporaryDirectory(prefix="runner-verify-") as place:
        one = _take(launch, stretch.recorded, Path(place, "1"), look)
        deviation, tensors = one.deviation, None
        if deviation is None and stretch.last is not None:
            comparison = compare(stretch.last.state(), one.checkpoint.state())
            tensors, deviation = comparison.num_tensors, one.of_states(comparison)
        if deviation is None:
            return Verdict(stretch, one.gathers, one.evaluations, tensors)
        # What differs from itself too depends on something that no checkpoint holds.
        other = _take(launch, one.lines, Path(place, "2"), look)
        repeatable = (
            other.deviation is None
            and other.of_states(compare(one.checkpoint.state(), other.checkpoint.state())) is None
        )
        then = (stretch.last or stretch.first).manifest.facts
        changed = provenance.not_exact(then, one.checkpoint.manifest.facts)
        changed += changed_source(stretch.run.path / str(then.get("code")))
    cause = likely_cause(
        deviation.what if deviation.event == "step" else deviation.event,
        repeatable=repeatable,
        changed=bool(changed),
        deterministic=launch.settings.trainer.deterministic,
    )
    return Verdict(stretch, one.gathers, one.evaluations, tensors, deviation, repeatable, tuple(changed), cause)


@dataclass(frozen=True)
class _Launch:
    """A resume as it was, but for what only looks on or only saves."""

    stretch: Stretch
    config: Config
    settings: Settings
    words: Words
    resumption: Resumption


def _launch(stretch: Stretch, trust: Sequence[str]) -> _Launch:
    # With another config the run may have gone on from `first`; the checkpoint at the end says with which.
    of = stretch.last or stretch.first
    words = Words(resume=str(of.path), reset=stretch.reset, trust=tuple(trust))
    replay = replayed(Found(stretch.run, of), words, (), sources=Sources(), memory=TrustMemory())
    config, settings, _, _ = judged(replay, words)
    first = stretch.first
    saved = saved_config(first.document(COMPOSED), first.document(BUILT), where=first.path)
    changed = tuple(differences(saved.written, written(config)))
    return _Launch(
        stretch,
        replace(config, resolved={**config.resolved, "observers": {}}),
        replace(
            settings,
            trainer=replace(settings.trainer, max_time=_LONG_ENOUGH),
            checkpoint=_only_when_asked(),
        ),
        words,
        Resumption(first, replay.argv, (), replay.notes, changed),
    )


def _only_when_asked() -> Checkpointing:
    """Settings with which nothing is saved but the state at which the training is asked to end."""
    return Checkpointing(
        name="step-{step:09d}",
        asynchronous=False,
        when_busy="wait",
        on_failure="stop",
        read_back=False,
        save=SavePolicy(
            every_steps=None,
            at_steps=None,
            every_epochs=None,
            every_seconds=None,
            budget=None,
            on_improvement=False,
            min_delta=0.0,
            at_end=True,
        ),
        keep=KeepPolicy(last=None, best=None, every_steps=None, every_hours=None),
    )


def _take(launch: _Launch, recorded: Iterable[Mapping[str, Any]], place: Path, look: Observer | None) -> "_Taken":
    """Take a stretch once, up to its end or to the first thing that is not as `recorded`."""
    run = RunDir.create(place, name=launch.settings.name, identity="", created=datetime.now(UTC))
    signals = Signals()
    taken = _Taken(launch.stretch, recorded, signals, look)
    runtime, deterministic = launch.settings.runtime, launch.settings.trainer.deterministic
    attempt = Attempt(
        launch.config,
        launch.settings,
        run,
        launch.words,
        launch.resumption,
        Console(quiet=True),
        provenance.software(),
        watch=taken,
    )
    with process_settings(runtime, deterministic=deterministic):
        attempt.carry_out(signals, begin=lambda: run.begin_attempt({}))
    taken.checkpoint = Checkpoint.open(run.path)
    return taken


@dataclass
class _Taken:
    """Looks on while a stretch is taken: compares, and asks for an end where there is nothing more to compare."""

    stretch: Stretch
    recorded: Iterable[Mapping[str, Any]]
    signals: Signals
    look: Observer | None
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What was recorded now."""
    deviation: Deviation | None = None
    gathers: int = 0
    evaluations: int = 0
    equal_until: int = 0
    checkpoint: Checkpoint = field(init=False)
    """The state at which it has ended."""

    def __post_init__(self) -> None:
        self.equal_until = self.stretch.first.step
        self.expected: dict[tuple[Any, ...], deque[Mapping[str, Any]]] = defaultdict(deque)
        for line in self.recorded:
            self.expected[_key(line)].append(line)

    def observe(self, record: Record) -> None:
        if self.look is not None and isinstance(record, Step | Started):
            self.look.observe(replace(record, total_steps=self.stretch.end) if isinstance(record, Started) else record)
        if self.signals.received is not None:
            return
        line = line_of(record)
        if line is not None and line["event"] in COMPARED:
            self._compare(line)
        if self.deviation is not None or self._has_arrived(record):
            self.signals.ask(signal.SIGTERM)

    def close(self) -> None:
        if self.look is not None:
            self.look.close()

    def of_states(self, comparison: Comparison) -> Deviation | None:
        if not (comparison.tensors or comparison.values):
            return None
        end = self.stretch.end
        return Deviation(end, "state", "state", None, None, self.equal_until, comparison)

    def _compare(self, line: dict[str, Any]) -> None:
        waiting = self.expected[_key(line)]
        if not waiting:
            return
        self.lines.append(line)
        recorded = waiting.popleft()
        # As it would be read again, so that like is compared with like.
        now = _flat(jsonl.decode(jsonl.encode(line)) or {})
        before = _flat(recorded)
        for name in sorted(before, key=lambda name: _IN_ORDER.index(name) if name in _IN_ORDER else len(_IN_ORDER)):
            if name in _NOT_COMPARED or repr(before[name]) == repr(now.get(name, NOT_THERE)):
                continue
            self.deviation = Deviation(
                line["step"], line["event"], name, before[name], now.get(name, NOT_THERE), self.equal_until
            )
            return
        self.gathers += line["event"] == "step"
        self.evaluations += line["event"] == "evaluation"
        self.equal_until = line["step"]

    def _has_arrived(self, record: Record) -> bool:
        last = self.stretch.last
        if last is None:
            return isinstance(record, Step) and record.progress.step >= self.stretch.end
        if record.progress.samples != last.progress.samples:
            return record.progress.samples > last.progress.samples
        # A checkpoint that was saved while its evaluation was broken off holds a state from before that.
        evaluated = last.progress.evaluated_step == last.step
        return isinstance(record, Evaluation if evaluated else Step)


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return (line["event"], line["step"], line.get("split"), line.get("batch"))


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    return {**line, **line.get("digests", {})}
