"""Which of a run's checkpoints to go on from. What would lose something is refused, never chosen in silence."""

import shlex

from runner import jsonl
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints, newest_and_passed_over
from runner.errors import CheckpointError, DamagedError, ResumeError
from runner.rundir import RunDir


def pick(run: RunDir, which: str | int) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint that is meant, every byte of it verified, and what the user should know about that.

    None if the run has never saved one. Raises ResumeError and CheckpointError.
    """
    found, damages = list_checkpoints(run.checkpoints)
    if not found and not damages:
        _check_never_saved(run)
        if which != "latest":
            raise ResumeError(
                f"{run.path}: has no checkpoint yet, so none is {which!r}; leave @ and what follows out, and the run "
                "begins anew"
            )
        return None, (f"{run.path}: stopped before it had saved a checkpoint; it begins anew, at step 0",)
    if which != "latest":
        checkpoint = verified(Checkpoint.open(run.path, which))
        return checkpoint, _of_another_run(checkpoint, run)
    newest, passed_over = newest_and_passed_over(found, damages)
    _check_readable(run, newest, passed_over)
    if newest is None:
        raise ResumeError(
            "\n".join(
                [
                    *map(str, passed_over),
                    f"{run.path}: no checkpoint in it is whole, and it is not begun anew by itself; "
                    "put one back from a copy, or launch a new run",
                ]
            )
        )
    own = [checkpoint for checkpoint in found if checkpoint.manifest.run == run.id]
    if newest.manifest.run != run.id and own and own[-1].generation < newest.generation:
        raise ResumeError(
            f"{newest.path}: was written by another run, and {own[-1].path.name} is the newest that this one wrote; "
            f"name the one that is meant, {run.path}@step={newest.step} or {run.path}@step={own[-1].step}, or move the "
            "other run's out of the way"
        )
    return newest, (*(f"passed over: {damage}" for damage in passed_over), *_of_another_run(newest, run))


def verified(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if every byte of it is what was written. ResumeError, naming what is damaged, if not."""
    damages = checkpoint.damages()
    if damages:
        others = [error for error in damages if not isinstance(error, DamagedError)]
        advice = "cannot be read; mend that" if others else "damaged; choose another one"
        raise ResumeError("\n".join([*map(str, damages[:3]), f"{checkpoint.path}: {advice}"]))
    return checkpoint


def _check_never_saved(run: RunDir) -> None:
    """Raise ResumeError where checkpoints were saved that are not there now: on a disk that is not mounted, perhaps."""
    try:
        saved = [record for record in jsonl.read(run.metrics) if record.get("event") == "saved"]
    except OSError as error:
        raise ResumeError(f"{run.metrics}: cannot be read ({error.strerror}); make it readable") from error
    if saved:
        raise ResumeError(
            f"{run.checkpoints}: nothing is there, and {len(saved)} checkpoints were saved, the last of them "
            f"{saved[-1].get('path')}; put them back (is a disk not mounted?), or launch a new run: this one is not "
            "begun anew by itself"
        )


def _check_readable(run: RunDir, newest: Checkpoint | None, passed_over: list[CheckpointError]) -> None:
    """Raise ResumeError where a newer checkpoint is whole perhaps, and only cannot be read here or by this version."""
    unread = [error for error in passed_over if not isinstance(error, DamagedError)]
    if not unread:
        return
    older = ""
    if newest is not None:
        command = shlex.quote(f"+resume={run.path}@step={newest.step}")
        older = f", or name the older one: {command}"
    raise ResumeError(
        "\n".join(
            [
                *map(str, unread),
                f"{run.path}: what cannot be read is not passed over, for it may be whole and newer than the rest; "
                f"mend that{older}",
            ]
        )
    )


def _of_another_run(checkpoint: Checkpoint, run: RunDir) -> tuple[str, ...]:
    if checkpoint.manifest.run == run.id:
        return ()
    return (f"{checkpoint.path.name}: was written by another run, {checkpoint.manifest.run}",)
