"""Sweeps: every job checked before the first one starts, and each prepared when it is its turn.

`-m +resume=RUN k=1,2` forks: each job is a new run that begins from a copy of the checkpoint, with the saved config and
the job's overrides on top. Hydra's sweeper gets only what is swept, in a form that it can compose on any conf/, because
all it is needed for is the jobs' values and directories; the job itself is composed as a resume is.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from runner.checkpoint.handle import Checkpoint
from runner.config.claiming import begin_run
from runner.config.composing import FORCED, Composition, compose, composed_by_hydra, parse
from runner.config.finding import Found, is_auto, locate, look
from runner.config.prepare import Launch, Prepared, begun_in, check_alone, checked, draw_seed, judged_new
from runner.config.resume import replayed
from runner.config.sources import Sources, config_loader
from runner.config.sweep import check_sweep
from runner.config.words import Words, read_line
from runner.errors import ConfigError
from runner.trust_memory import TrustMemory


@dataclass(frozen=True)
class Sweep:
    """A sweep that was found good."""

    line: tuple[str, ...]
    """What Hydra is to get."""
    words: Words
    fork: "Fork | None"
    """From what its jobs begin; None where they begin anew."""


@dataclass(frozen=True)
class Fork:
    """What the jobs of a sweep begin from. Plain values, because launchers send it to other processes."""

    checkpoint: Path
    typed: tuple[str, ...]
    """The overrides of the command line, swept ones too."""
    sources: Sources

    def overrides(self, job: Sequence[str]) -> tuple[str, ...]:
        """Those of one job, as they would be typed, by what Hydra says of it."""
        values = {_key(text): text.partition("=")[2] for text in job}
        loader = config_loader(self.sources)
        parsed = [one for one in parse(self.typed, loader, sweep=True) if not one.is_hydra_override()]
        typed = [
            f"{_before_value(one)}={values.pop(_key(one.input_line or ''))}"
            if one.is_sweep_override()
            else one.input_line or ""
            for one in parsed
        ]
        # What a sweeper adds of its own stands in its config.
        return (*typed, *(f"{key}={value}" for key, value in values.items()))


def prepare_sweep(argv: Sequence[str]) -> Sweep:
    """Check every job of a sweep before the first one starts."""
    check_alone(os.environ)
    words, flags, typed = read_line(argv)
    sources, memory = Sources.of_flags(flags), TrustMemory()
    if words.resume is None:

        def judge(overrides: Sequence[str]) -> Composition:
            composition = compose(overrides, sources=sources, draw_seed=draw_seed)
            checked(composition, memory)
            return composition

        check_sweep(typed, sources=sources, judge=judge)
        return Sweep((*flags, *FORCED, *typed), words, None)
    if is_auto(words.resume):
        raise ConfigError(
            "+resume=auto goes on with one run, and -m begins several; leave out -m, or fork a run by -m +resume=RUN"
        )
    found = look(locate(words.resume))
    checkpoint, found = found.checkpoint, replace(found, run=None)
    if checkpoint is None:
        raise ConfigError(f"+resume={words.resume}: has no checkpoint yet to begin other runs from; leave +resume out")
    loader = config_loader(sources)
    swept = _for_hydra(parse(typed, loader, sweep=True), loader)

    def judge_fork(overrides: Sequence[str]) -> Composition:
        replay = replayed(found, words, overrides, sources=sources, memory=memory)
        judged_new(replay, words)
        return replay.composition

    check_sweep(typed, sources=sources, judge=judge_fork)
    return Sweep((*flags, *FORCED, *swept), words, Fork(checkpoint.path.absolute(), tuple(typed), sources))


def prepare_job(task_config: DictConfig, sweep: Sweep) -> Prepared:
    """A job of a sweep, in the directory that Hydra made for it. HydraConfig has to be set."""
    composition = composed_by_hydra(task_config, draw_seed=draw_seed)
    runtime = composition.node.hydra.runtime
    directory, memory = Path(str(runtime.output_dir)), TrustMemory()
    if sweep.fork is None:
        config, settings, notes = checked(composition, memory)
        run, lock = begin_run(directory, config, settings.name)
        return Prepared(
            config, settings, run, sweep.words, None, tuple(notes), composition.node, composition.loader, lock
        )
    overrides = sweep.fork.overrides(composition.config.overrides)
    launch = Launch(sweep.words, overrides, sweep.fork.sources, memory)
    # conf/ is where the sweep was launched.
    with contextlib.chdir(str(runtime.cwd)):
        found = Found(None, Checkpoint.open(sweep.fork.checkpoint))
        replay = replayed(found, sweep.words, overrides, sources=launch.sources, memory=memory)
        return begun_in(directory, replay, launch)


def _for_hydra(parsed: Sequence[Override], loader: ConfigLoader) -> list[str]:
    """What is swept, and what is Hydra's own. A value is forced in, because the key may be one of the saved config."""
    line = []
    for one in parsed:
        text = one.input_line or ""
        if one.is_hydra_override() or (one.is_sweep_override() and loader.get_group_options(one.key_or_group)):
            line.append(text)
        elif one.is_sweep_override():
            line.append(f"++{text.lstrip('+')}")
    return line


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def _before_value(override: Override) -> str:
    return (override.input_line or "").partition("=")[0]
