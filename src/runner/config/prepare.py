"""From a command line to a claimed run directory: all that comes before anything is built. One way for every door."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.config.check import Settings, check
from runner.config.composing import FORCED, Composition, Config, compose, composed_by_hydra
from runner.config.documents import written
from runner.config.fitting import fitted
from runner.config.identity import identity
from runner.config.initial import not_there
from runner.config.recomposing import compose_again
from runner.config.replay import as_text
from runner.config.resume import Resumption, prepare_resume, resumed
from runner.config.secrets import redact
from runner.config.sources import Sources
from runner.config.sweep import check_sweep
from runner.config.targets import target_nodes
from runner.config.words import Words, read_line, split_flags
from runner.errors import ConfigError
from runner.rundir import RunDir
from runner.trust_memory import TrustMemory


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: its config is good and its directory is claimed."""

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


def prepare(argv: Sequence[str], *, memory: TrustMemory | None = None) -> Prepared:
    """Compose, check, and claim the run directory (or open the one to go on in). Refused, it leaves nothing behind.

    `memory` is the user's own, where none is given. ConfigError with every problem at once; ResumeError; TrustError.
    """
    check_alone(os.environ)
    memory = memory if memory is not None else TrustMemory()
    words, flags, overrides = read_line(argv)
    sources = Sources.of_flags(flags)
    if words.resume is not None:
        replay = prepare_resume(words, overrides, sources=sources, memory=memory)
        config, notes = fitted(replay.composition)
        settings = check(config, known_problems=replay.composition.problems)
        resumption = resumed(replay, config, words)
        run = replay.found.run
        if run is None:
            # Claimed last, when nothing can be refused any more; what is interpolated from it has to say this one.
            run = _run_in(_claimed(replay.composition), config, settings)
            replay = compose_again(replace(replay.found, run=run), replay.saved, overrides, sources=sources)
            config, _ = fitted(replay.composition)
            resumption = resumed(replay, config, words)
        again = replay.composition
        told = (*replay.notes, *notes)
        return Prepared(config, settings, run, words, resumption, told, again.node, again.loader)
    composition = compose(overrides, sources=sources, draw_seed=draw_seed)
    if composition.node.hydra.mode == RunMode.MULTIRUN:
        raise ConfigError("hydra.mode is MULTIRUN in the config; type -m to sweep")
    config, settings, notes = checked(composition, memory)
    path = _claimed(composition)
    if path != composition.run_dir.absolute():
        # What is interpolated from the run directory has to say the one that was claimed.
        elsewhere = [*overrides, f"hydra.run.dir={as_text(str(path))}"]
        composition = compose(elsewhere, sources=sources, draw_seed=lambda: settings.seed)
        config, _ = fitted(composition)
    run = _run_in(path, config, settings)
    return Prepared(config, settings, run, words, None, tuple(notes), composition.node, composition.loader)


def hydra_line(argv: Sequence[str]) -> list[str]:
    """The line that Hydra gets for a launch: without launch words, and as a resume rewrites it. Makes nothing."""
    words, flags, overrides = read_line(argv)
    if words.resume is None:
        return [*flags, *overrides]
    replay = prepare_resume(words, overrides, sources=Sources.of_flags(flags), memory=TrustMemory())
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


def prepare_job(task_config: DictConfig, words: Words) -> Prepared:
    """A job of a sweep, in the directory that Hydra made for it. HydraConfig has to be set."""
    composition = composed_by_hydra(task_config, draw_seed=draw_seed)
    directory = Path(str(composition.node.hydra.runtime.output_dir))
    config, settings, notes = checked(composition, TrustMemory())
    run = _run_in(directory, config, settings)
    return Prepared(config, settings, run, words, None, tuple(notes), composition.node, composition.loader)


def prepare_sweep(argv: Sequence[str]) -> tuple[Words, list[str]]:
    """Check every job of a sweep before the first one starts; the launch words, and the line that Hydra is to get."""
    check_alone(os.environ)
    words, flags, overrides = read_line(argv)
    if words.resume is not None:
        raise ConfigError("+resume goes on with one run, and -m begins several; leave one of them out")
    memory = TrustMemory()
    check_sweep(
        overrides,
        sources=Sources.of_flags(flags),
        draw_seed=draw_seed,
        check=lambda composition: checked(composition, memory),
    )
    return words, [*flags, *FORCED, *overrides]


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


def _claimed(composition: Composition) -> Path:
    """The run directory, made now: under another name if somebody was faster, unless the name was typed."""
    typed = any(override.key_or_group == "hydra.run.dir" for override in composition.typed)
    wanted = composition.run_dir.absolute()
    return _typed_directory(wanted) if typed else _new_directory(wanted)


def _run_in(directory: Path, config: Config, settings: Settings) -> RunDir:
    try:
        return RunDir.create(
            directory,
            name=redact(settings.name),
            identity=identity(written(config), config.composed),
            created=datetime.now(UTC),
        )
    except OSError as error:
        raise _unwritable(directory, error) from error


def _typed_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _new_directory(wanted: Path) -> Path:
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise _unwritable(wanted, error) from error
    raise ConfigError(f"{wanted}: taken, and so are 998 names after it; type another hydra.run.dir")


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: the run directory cannot be made ({error.strerror}); type hydra.run.dir=DIRECTORY")
