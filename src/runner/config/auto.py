"""`+resume=auto`: the command that a requeued job repeats. It goes on with the run of its own config, or begins it."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.config.claiming import is_typed
from runner.config.composing import Composition, Config, hydra_config
from runner.config.diff import HARMLESS, differences
from runner.config.documents import BUILT, COMPOSED, saved_config, written
from runner.config.finding import OUTPUTS, Named, newest
from runner.config.internals import directory_before_time
from runner.errors import CheckpointError, ConfigError, LockedError, ResumeError
from runner.lock import RunLock
from runner.rundir import RunDir, single_runs


def no_seed() -> int:
    """In the place of drawing one."""
    raise ConfigError(
        "+resume=auto: seed is null, so that every launch is another run, and none can be found again; type seed=NUMBER"
    )


def run_of(identity: str, composition: Composition) -> Named | None:
    """The run of this identity that is meant: the newest that began training. None if there is none.

    ResumeError where that cannot be told, because a run that has checkpoints cannot be read.
    """
    runs = sorted((run for run in _runs(composition) if run.identity == identity), key=lambda run: run.created)
    if not runs:
        _check_all_read(composition)
    return newest(runs)


def _check_all_read(composition: Composition) -> None:
    """What was torn when it was claimed is no hindrance; no new run begins beside one that has saved something."""
    for place in _places(composition):
        for file in [*place.glob("run.json"), *place.glob("*/run.json"), *place.glob("*/*/run.json")]:
            try:
                RunDir.open(file.parent)
            except ResumeError as error:
                if any(file.parent.glob("checkpoints/*")):
                    raise ResumeError(
                        f"+resume=auto: {error}\n{file.parent}: may be the run of this config, which is not begun anew "
                        "beside it; mend it, or move it elsewhere"
                    ) from error


def why_none(config: Config, name: str, composition: Composition) -> str:
    """That a new run begins, and how the newest one of this name differs: conf/ may have been edited since."""
    note = "+resume=auto: there is no run of this config yet; a new one begins"
    runs = sorted((run for run in _runs(composition) if run.name == name), key=lambda run: run.created)
    if not runs:
        return note
    hydra = runs[-1].hydra
    try:
        saved = saved_config((hydra / COMPOSED).read_bytes(), (hydra / BUILT).read_bytes(), where=hydra)
    except (OSError, CheckpointError):
        return note
    changed = [one for one in differences(saved.written, written(config)) if one.kind != HARMLESS]
    listed = ", ".join(map(str, changed[:3]))
    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{note}; of {runs[-1].path}, the newest of this name, it differs: {listed}{more}" if changed else note


@contextmanager
def alone(identity: str, composition: Composition) -> Iterator[None]:
    """Inside, no other launch looks for the run of this identity. LockedError if one does so now.

    The lock is that of a run, and not one of the system's: it holds between the hosts of a cluster on every file
    system that they share, and a holder that has died does not block.
    """
    directory = (_parent_of_runs(composition) or composition.run_dir.parent).absolute()
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = RunLock(directory / f".auto-{identity}.lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except LockedError as error:
        told = "+resume=auto: another launch of this config is just looking for its run; try again in a minute"
        raise LockedError(f"{told}\n{error}") from error
    except OSError as error:
        raise ResumeError(f"{directory}: cannot be made ({error.strerror}); go to where you can write") from error
    try:
        yield
    finally:
        lock.release()
        for path in made:
            # Those in which a run has been made since are not empty.
            with suppress(OSError):
                path.rmdir()


def _parent_of_runs(composition: Composition) -> Path | None:
    """The directory in which every launch makes one of its own; None if all of them would use the same."""
    with hydra_config(composition.node):
        return directory_before_time(composition.node)


def _runs(composition: Composition) -> Collection[RunDir]:
    return {run.path: run for place in _places(composition) for run in single_runs(place)}.values()


def _places(composition: Composition) -> list[Path]:
    """Where runs of this launch can be."""
    parent = _parent_of_runs(composition)
    if parent is not None:
        return [OUTPUTS.absolute(), parent.absolute()]
    wanted = composition.run_dir.absolute()
    if is_typed(composition) or not wanted.parent.is_dir():
        return [wanted]
    # What is not typed gets a number where it is taken.
    numbered = re.compile(rf"{re.escape(wanted.name)}(-\d+)?")
    return [path for path in wanted.parent.iterdir() if numbered.fullmatch(path.name)]
