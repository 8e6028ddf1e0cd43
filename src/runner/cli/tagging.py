"""`runs tag`: give a checkpoint a name, which protects it, or take the name away."""

from typing import Annotated

import typer

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.listing import list_checkpoints
from runner.checkpoint.tags import check_tag, tag, untag
from runner.cli.choosing import found, found_checkpoint
from runner.errors import CheckpointError


def tag_checkpoint(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint, RUN@best, RUN@step=N, or a run's newest.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '_', '.' and '-'.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
) -> None:
    """Tag a checkpoint, so that it is never removed by itself.

    It is then also found as RUN@NAME. With --remove a run is enough: the tag says which checkpoint is meant.
    """
    check_tag(name)
    if remove:
        place = found(path)
        checkpoint = place if isinstance(place, Checkpoint) else found_checkpoint(f"{place.path}@{name}")
        untag(checkpoint.path, name)
        print(f"no longer tagged {name}: {checkpoint.path}")
        return
    checkpoint = found_checkpoint(path)
    _refuse_if_taken(checkpoint, name)
    tag(checkpoint.path, name)
    print(f"tagged {name}: {checkpoint.path}")


def _refuse_if_taken(checkpoint: Checkpoint, name: str) -> None:
    """A tag stands for one checkpoint of a run."""
    # What was named as `.` has no parent by that name.
    path = checkpoint.path if checkpoint.path.name not in ("", "..") else checkpoint.path.resolve()
    for other in list_checkpoints(path.parent)[0]:
        if other.path != path and name in other.tags:
            raise CheckpointError(
                f"{other.path}: is tagged {name!r} already; take it away by `runs tag {other.path} {name} --remove` "
                f"to tag {path.name} instead"
            )
