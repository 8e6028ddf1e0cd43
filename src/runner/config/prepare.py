"""From a command line to a claimed run directory: all that comes before anything is built. One way for every door.

A new run:    compose, check, make its directory, lock it
+resume=      find the run, lock it, choose its checkpoint, compose it again, check
+resume=auto  under a lock of its own: one of the two
-m            sweeping.py
"""

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.config.auto import alone, no_seed, run_of, why_none
from runner.config.check import Settings, check
from runner.config.claiming import begin_run, claimed_directory, identity_of
from runner.config.composing import Composition, Config, compose
from runner.config.finding import Found, Named, is_auto, locate, look
from runner.config.fitting import fitted
from runner.config.initial import not_there
from runner.config.recomposing import Replay, compose_again
from runner.config.replay import in_directory
from runner.config.resume import Resumption, check_again, prepare_resume, replayed, resumed
from runner.config.sources import Sources
from runner.config.targets import target_nodes
from runner.config.words import Words, read_line, split_flags
from runner.errors import ConfigError
from runner.lock import RunLock
from runner.rundir import RunDir
from runner.training.plan import limit_reached
from runner.trust_memory import TrustMemory


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: its config is good, its directory is claimed, and its lock is held."""

    config: Config
    settings: Settings
    run: RunDir
    words: Words
    resumption: Resumption | None
    notes: tuple[str, ...]
    """What the user should know: arguments left out, overrides not repeated, where conf/ has changed."""
    node: DictConfig
    """The whole config as Hydra's `run_job` takes it."""
    loader: ConfigLoader
    lock: RunLock = field(repr=False)
    """Of the run. Whoever carries it out releases it; it was taken before anything of the run was read."""


@dataclass(frozen=True)
class Launch:
    """A command line, taken apart."""

    words: Words
    overrides: tuple[str, ...]
    sources: Sources
    memory: TrustMemory


def prepare(argv: Sequence[str], *, memory: TrustMemory | None = None) -> Prepared:
    """Compose, check, and claim the run directory (or open the one to go on in). Refused, it leaves nothing behind.

    `memory` is the user's own, where none is given. ConfigError with every problem at once; ResumeError; TrustError.
    """
    check_alone(os.environ)
    words, flags, overrides = read_line(argv)
    memory = memory if memory is not None else TrustMemory()
    launch = Launch(words, tuple(overrides), Sources.of_flags(flags), memory)
    if words.resume is None:
        return _begun(launch, compose(overrides, sources=launch.sources, draw_seed=draw_seed))
    if is_auto(words.resume):
        return _auto(launch)
    named = locate(words.resume)
    return _begun_from(launch, look(named)) if named.run is None else _gone_on_with(launch, named, named.run)


def _begun(launch: Launch, composition: Composition) -> Prepared:
    """A new run."""
    if composition.node.hydra.mode == RunMode.MULTIRUN:
        raise ConfigError("hydra.mode is MULTIRUN in the config; type -m to sweep")
    config, settings, notes = checked(composition, launch.memory)
    path = claimed_directory(composition)
    if path != composition.run_dir.absolute():
        composition, config = _composed_in(path, launch, settings)
    run, lock = begin_run(path, config, settings.name)
    return Prepared(config, settings, run, launch.words, None, tuple(notes), composition.node, composition.loader, lock)


def _composed_in(path: Path, launch: Launch, settings: Settings) -> tuple[Composition, Config]:
    """Composed for another run directory: what is interpolated from it has to say the one that was claimed."""
    elsewhere = [*launch.overrides, in_directory(str(path))]
    composition = compose(elsewhere, sources=launch.sources, draw_seed=lambda: settings.seed)
    return composition, fitted(composition)[0]


def _auto(launch: Launch) -> Prepared:
    """The run of this very config, or a new one. Of several such launches one looks at a time."""
    composition = compose(launch.overrides, sources=launch.sources, draw_seed=no_seed)
    config, _ = fitted(composition)
    # The launch has to be good as it stands, because it may be the first one.
    settings = check(config, known_problems=composition.problems)
    identity = identity_of(config)
    with alone(identity, composition):
        named = run_of(identity, composition)
        if named is not None and named.run is not None:
            return _gone_on_with(launch, named, named.run, anew=True)
        note = why_none(config, settings.name, composition)
        begun = _begun(launch, composition)
        return replace(begun, notes=(note, *begun.notes))


def _gone_on_with(launch: Launch, named: Named, run: RunDir, *, anew: bool = False) -> Prepared:
    """A run gone on with in its own directory.

    With `anew` one without a checkpoint begins with the config of this launch, which is known to compute the same.
    """
    with ExitStack() as held:
        # Before anything is read: whoever is at work on the run may save, or remove what is looked at.
        lock = held.enter_context(RunLock(run.lock))
        found = look(named)
        if found.checkpoint is None and anew:
            prepared = _begun_again(launch, found, run, lock)
        else:
            replay = replayed(found, launch.words, launch.overrides, sources=launch.sources, memory=launch.memory)
            config, settings, resumption, notes = judged(replay, launch.words)
            again = replay.composition
            prepared = Prepared(config, settings, run, launch.words, resumption, notes, again.node, again.loader, lock)
        held.pop_all()
        return prepared


def _begun_again(launch: Launch, found: Found, run: RunDir, lock: RunLock) -> Prepared:
    composition = compose(launch.overrides, sources=launch.sources, draw_seed=no_seed)
    _, settings, notes = checked(composition, launch.memory)
    composition, config = _composed_in(run.path, launch, settings)
    told = (*found.notes, *notes)
    return Prepared(config, settings, run, launch.words, None, told, composition.node, composition.loader, lock)


def _begun_from(launch: Launch, found: Found) -> Prepared:
    """A new run that begins from a checkpoint outside of its run."""
    replay = replayed(found, launch.words, launch.overrides, sources=launch.sources, memory=launch.memory)
    judged_new(replay, launch.words)
    return begun_in(claimed_directory(replay.composition), replay, launch)


def begun_in(directory: Path, replay: Replay, launch: Launch) -> Prepared:
    """A new run in a directory that was just made, from what was found good.

    Claimed last, when nothing can be refused any more; what is interpolated from the directory has to say this one.
    """
    config, settings, _, _ = judged(replay, launch.words)
    run, lock = begin_run(directory, config, settings.name)
    found = replace(replay.found, run=run)
    replay = compose_again(found, replay.saved, launch.overrides, sources=launch.sources)
    config, settings, resumption, notes = judged(replay, launch.words)
    again = replay.composition
    return Prepared(config, settings, run, launch.words, resumption, notes, again.node, again.loader, lock)


def judged(replay: Replay, words: Words) -> tuple[Config, Settings, Resumption | None, tuple[str, ...]]:
    """The config and settings of a run composed again, how it differs from what was saved, and what to say about it."""
    config, notes = fitted(replay.composition)
    settings = check_again(replay, config)
    resumption = resumed(replay, config, words)
    told = replay.notes if resumption is None else resumption.notes
    return config, settings, resumption, (*told, *notes)


def judged_new(replay: Replay, words: Words) -> None:
    """Raise what `judged` raises, and ConfigError where nothing would be left for a new run to do."""
    _, settings, resumption, _ = judged(replay, words)
    if resumption is None or "end" not in resumption.checkpoint.reasons:
        return
    checkpoint = resumption.checkpoint
    limit = limit_reached(settings.trainer, checkpoint.progress)
    if limit is not None:
        more = checkpoint.step + 1000 if limit == "max_steps" else checkpoint.epoch + 10
        raise ConfigError(
            f"{checkpoint.path}: its run has finished ({limit}), and nothing is left to begin a new one with; "
            f"raise the limit, e.g. trainer.{limit}={more}"
        )


def hydra_line(argv: Sequence[str]) -> list[str]:
    """The line that Hydra gets for a launch: without launch words, and as a resume rewrites it. Makes nothing."""
    words, flags, overrides = read_line(argv)
    if words.resume is None:
        return [*flags, *overrides]
    sources = Sources.of_flags(flags)
    if is_auto(words.resume):
        composition = compose(overrides, sources=sources, draw_seed=no_seed)
        named = run_of(identity_of(fitted(composition)[0]), composition)
        found = None if named is None else look(named)
        if found is None or found.checkpoint is None:
            return [*flags, *overrides]
        replay = replayed(found, words, overrides, sources=sources, memory=TrustMemory())
    else:
        replay = prepare_resume(words, overrides, sources=sources, memory=TrustMemory())
    return [*flags, *replay.argv]


def problems_of_line(line: Sequence[str]) -> list[str]:
    """What Hydra cannot compose in a line, everything at once."""
    flags, overrides = split_flags(line)
    try:
        return list(compose(overrides, sources=Sources.of_flags(flags), draw_seed=draw_seed).problems)
    except ConfigError as error:
        return list(error.problems)


def checked(composition: Composition, memory: TrustMemory) -> tuple[Config, Settings, list[str]]:
    """The config and settings of a fresh launch. Its targets are the user's own, and are remembered as such."""
    config, notes = fitted(composition)
    settings = check(config, known_problems=[*composition.problems, *not_there(config)])
    memory.remember(target.node["_target_"] for target in target_nodes(config.resolved))
    return config, settings, notes


def check_alone(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where torchrun or its like has started several processes: each would train a run of its own."""
    size = environment.get("WORLD_SIZE", "1")
    if size.strip() != "1":
        raise ConfigError(
            f"WORLD_SIZE is {size!r} in the environment, as torchrun sets it for several processes; "
            "this version trains in one process: start runner by itself, or unset WORLD_SIZE"
        )


def draw_seed() -> int:
    """A seed for a run that asked for none in particular. From the system, so that no seeded generator repeats it."""
    return random.SystemRandom().randrange(2**31)
