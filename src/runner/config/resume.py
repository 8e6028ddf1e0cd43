"""stub"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.composing import Composition, Config
from runner.config.diff import Difference
from runner.config.sources import Sources
from runner.config.words import Words
from runner.errors import ResumeError
from runner.rundir import RunDir
from runner.trust import TrustMemory


@dataclass(frozen=True)
class Resumption:
    """A run to go on with, and how it will differ from what it was."""

    run: RunDir
    checkpoint: Any
    overrides: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Replay:
    run: RunDir
    composition: Composition
    notes: tuple[str, ...]


def prepare_resume(
    words: Words, overrides: Sequence[str], *, sources: Sources, memory: TrustMemory, draw_seed: Callable[[], int]
) -> Replay:
    raise ResumeError("not yet")


def resumed(replay: Replay, config: Config, words: Words) -> Resumption:
    raise ResumeError("not yet")
