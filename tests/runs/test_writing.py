"""That something of a run cannot be written is said in one way, and before it trains where that can be seen."""

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.errors import SaveError
from runner.rundir import RunDir
from runner.runs.writing import check_writable, reported


@pytest.mark.parametrize(
    ("filename", "named"), [(None, "run/code"), ("run/code/001/git.diff", "run/code/001/git.diff")]
)
def test_what_cannot_be_written_is_named_with_its_reason(filename: str | None, named: str) -> None:
    with pytest.raises(SaveError) as caught, reported(Path("run/code")):
        raise OSError(errno.ENOSPC, "No space left on device", filename)
    assert str(caught.value) == (
        f"{named}: cannot be written (No space left on device); free some space or make it writable, "
        "then resume the run"
    )


def test_a_run_of_which_little_is_there_can_be_written(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", name="x", identity="i", created=datetime.now(UTC))
    check_writable(run)
    run.begin_attempt({})
    run.checkpoints.mkdir()
    check_writable(run)
