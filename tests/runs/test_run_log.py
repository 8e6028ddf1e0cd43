"""The log of a run: nothing of it is written before the attempt begins, and nothing that was said before is lost."""

import logging
from pathlib import Path

import pytest

from runner.runs.run_log import run_log

log = logging.getLogger("runner.somewhere")


def test_what_was_said_before_the_log_begins_stands_in_it_first(tmp_path: Path) -> None:
    path = tmp_path / "runner.log"
    with run_log(path) as begin:
        log.info("before")
        assert not path.exists()
        begin()
        log.warning("after %d", 2)
    log.warning("outside")
    lines = [line.split(" ", 2)[2] for line in path.read_text().splitlines()]
    assert lines == ["INFO before", "WARNING after 2"]


def test_a_log_that_never_begins_leaves_no_file(tmp_path: Path) -> None:
    with run_log(tmp_path / "runner.log"):
        log.warning("refused")
    assert list(tmp_path.iterdir()) == []


def test_a_log_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "runner.log"
    path.write_text("first\n")
    with run_log(path) as begin:
        begin()
        log.info("second")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["first", "second"]


def test_warnings_are_shown_at_once_also_before_the_log_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_log(tmp_path / "runner.log"):
        log.info("not shown")
        log.warning("shown")
        log.error("raised, so not shown either")
    assert capsys.readouterr().err == "WARNING shown\n"


def test_a_log_that_cannot_be_opened_is_an_error_and_the_package_logs_as_before(tmp_path: Path) -> None:
    package = logging.getLogger("runner")
    before = package.level, list(package.handlers)
    with pytest.raises(IsADirectoryError), run_log(tmp_path) as begin:
        begin()
    assert (package.level, list(package.handlers)) == before
