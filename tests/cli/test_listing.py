"""What the table of runs says of a sweep."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.cli.listing import show_list
from runner.cli.summary import Summary
from runner.rundir import RunDir


def summary(path: Path, *overrides: str) -> Summary:
    run = RunDir.create(path, name="digits_mlp", identity="", created=datetime.now(UTC))
    return Summary(
        run=run,
        status="finished",
        step=1,
        epoch=0,
        checkpoints=(),
        damaged=(),
        config=None,
        overrides=overrides,
        monitor=None,
        best=None,
        size=0,
    )


def test_a_sweeps_rows_tell_what_it_has_varied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("trainer.max_epochs=1",)
    rows = [summary(tmp_path / str(job), *both, f"seed={job}", "optimizer.lr=0.1") for job in (0, 1)]
    show_list(rows, tmp_path)
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "overrides"
    assert first.split()[-1] == "seed=0" and second.split()[-1] == "seed=1"
    assert "max_epochs" not in first and "optimizer" not in first


def test_runs_that_share_all_overrides_need_no_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_list([summary(tmp_path / "only", "seed=3")], tmp_path)
    assert "overrides" not in capsys.readouterr().out
