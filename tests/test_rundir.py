"""Run directories: claimed once, read back, found, and what their attempts say."""

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.errors import ConfigError, ResumeError
from runner.lock import RunLock
from runner.records import Progress
from runner.rundir import RunDir, find_runs, latest_run

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def made(path: Path, hours: int = 0, name: str = "digits_mlp") -> RunDir:
    return RunDir.create(path, name=name, identity="0123", created=NOON + timedelta(hours=hours))


def test_created_run_is_the_same_when_opened(tmp_path: Path) -> None:
    run = made(tmp_path / "outputs" / "2026-11-22" / "12-00-00")
    assert RunDir.open(run.path) == run
    assert run.created == NOON
    assert json.loads((run.path / "run.json").read_text()) == {
        "format": 1,
        "id": run.id,
        "name": "digits_mlp",
        "identity": "0123",
        "created": "2026-11-22T12:00:00+00:00",
    }


def test_two_runs_have_two_ids(tmp_path: Path) -> None:
    assert made(tmp_path / "a").id != made(tmp_path / "b").id


def test_paths_are_those_of_the_layout(tmp_path: Path) -> None:
    run = made(tmp_path)
    inside = [run.lock, run.checkpoints, run.metrics, run.attempts_file, run.log, run.hydra, run.observers, run.code]
    assert [path.relative_to(tmp_path).as_posix() for path in inside] == [
        *("run.lock", "checkpoints", "metrics.jsonl", "attempts.jsonl", "runner.log", ".hydra", "observers", "code")
    ]


def test_directory_that_holds_a_run_is_not_claimed_again(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ConfigError) as refused:
        made(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: holds a run already; go on with it by +resume={tmp_path}, or choose another hydra.run.dir"
    )
    assert (tmp_path / "run.json").read_bytes() == before


def test_directory_with_other_files_can_be_claimed(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    assert made(tmp_path).path == tmp_path


def fill(path: Path, what: str) -> Path:
    target = path / "there"
    if what == "file":
        target.write_text("")
    elif what != "nothing":
        target.mkdir()
    if what == "checkpoint":
        (target / "manifest.json").write_text("{}")
    if what == "names":
        for name in "abcde":
            (target / name).write_text("")
    return target


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "nothing is there"),
        ("file", "a file is there"),
        ("checkpoint", "a checkpoint is there"),
        ("empty", "an empty directory"),
        ("names", "a directory with a, b, c, d, ..."),
    ],
)
def test_what_is_not_a_run_is_refused_and_named(tmp_path: Path, what: str, said: str) -> None:
    target = fill(tmp_path, what)
    with pytest.raises(ResumeError) as refused:
        RunDir.open(target)
    assert str(refused.value) == f"{target}: not a run ({said}); name a directory that holds run.json"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, "{}", '{"format": "x"}', '{"id": 1, "name": "", "identity": "", "created": ""}'],
)
def test_damaged_run_file_is_refused_and_its_checkpoints_are_pointed_at(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResumeError) as refused:
        RunDir.open(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'run.json'}: damaged (")
    assert str(refused.value).endswith(
        f"; put it back from a copy; the checkpoints in {tmp_path / 'checkpoints'} can still be loaded, and begun with "
        "by init_from"
    )


def test_a_run_that_a_newer_version_has_written_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**facts, "more": 1}))
    assert RunDir.open(tmp_path).id == facts["id"]
    (tmp_path / "run.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ResumeError) as refused:
        RunDir.open(tmp_path)
    assert str(refused.value) == (f"{tmp_path}/run.json: format 2; this runner reads 1; update runner")


def test_a_run_from_before_runs_had_a_format_is_read(tmp_path: Path) -> None:
    run = made(tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    del facts["format"]
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert RunDir.open(tmp_path) == run


def test_a_directory_that_has_lost_its_run_file_says_what_can_be_done(tmp_path: Path) -> None:
    made(tmp_path).checkpoints.mkdir()
    (tmp_path / "run.json").unlink()
    with pytest.raises(
        ResumeError, match=r"not a run \(its run.json is gone, so put it back from a copy, or resume one "
    ):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("trace", [".hydra/attempts/003", "code/003"])
def test_an_attempt_whose_line_is_lost_is_not_written_over_by_the_next(tmp_path: Path, trace: str) -> None:
    run = made(tmp_path)
    run.begin_attempt({})
    run.attempts_file.write_bytes(b"\xff garbage\n")
    (tmp_path / trace).mkdir(parents=True)
    assert run.begin_attempt({}) == 4


def test_attempts_are_counted_and_keep_their_facts_and_their_end(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert run.attempts() == []
    assert run.begin_attempt({"argv": ["runner", "seed=0"], "host": "a"}) == 1
    run.end_attempt(1, "stopped", "SIGTERM", Progress(step=7))
    assert run.begin_attempt({}) == 2
    first, second = run.attempts()
    assert first.facts == {"argv": ["runner", "seed=0"], "host": "a"}
    assert (first.number, first.outcome, first.reason, first.step) == (1, "stopped", "SIGTERM", 7)
    assert first.ended is not None
    assert first.started <= first.ended <= second.started
    assert (second.number, second.outcome, second.ended) == (2, None, None)


def test_unknown_outcome_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(ValueError, match="outcome 'crashed'; one of finished, stopped, failed is wanted"):
        run.end_attempt(run.begin_attempt({}), "crashed", "", Progress())


def test_attempts_torn_at_any_byte_are_read_and_gone_on_with(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.begin_attempt({"host": "a"})
    run.end_attempt(1, "failed", "ValueError: x", Progress(step=3))
    whole = run.attempts_file.read_bytes()
    end = whole.index(b"\n")
    for size in range(len(whole) + 1):
        run.attempts_file.write_bytes(whole[:size])
        attempts = run.attempts()
        assert len(attempts) == (size >= end)
        if size >= len(whole) - 1:
            assert run.status() == "failed"
        else:
            assert run.status() == ("stopped" if attempts else "empty")
        assert run.begin_attempt({}) == len(attempts) + 1
        assert len(run.attempts()) == len(attempts) + 1


def test_line_without_number_and_time_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made(tmp_path)
    run.attempts_file.write_text('{"event": "start"}\n{"event": "start", "attempt": 1, "time": "noon"}\n')
    assert run.attempts() == []
    assert f"{run.attempts_file}: a line without attempt and time, left out" in caplog.text


@pytest.mark.parametrize("outcome", ["finished", "stopped", "failed"])
def test_status_is_that_of_the_last_attempt(tmp_path: Path, outcome: str) -> None:
    run = made(tmp_path)
    assert run.status() == "empty"
    number = run.begin_attempt({})
    assert run.status() == "stopped"
    run.end_attempt(number, outcome, "", Progress())
    assert run.status() == outcome


def test_run_whose_lock_a_live_process_holds_is_running(tmp_path: Path) -> None:
    run = made(tmp_path)
    with RunLock(run.lock):
        run.begin_attempt({})
        assert run.status() == "running"
    assert run.status() == "stopped"


def test_run_whose_process_was_killed_is_stopped(tmp_path: Path) -> None:
    run = made(tmp_path)
    script = """
import os, signal, sys
from pathlib import Path
from runner.lock import RunLock
from runner.rundir import RunDir
run = RunDir.open(Path(sys.argv[1]))
RunLock(run.lock).acquire()
run.begin_attempt({})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    assert run.lock.exists()
    assert run.status() == "stopped"


def test_runs_are_found_at_any_depth_oldest_first_and_not_inside_each_other(tmp_path: Path) -> None:
    made(tmp_path / "2026-11-22" / "b", hours=2)
    made(tmp_path / "2026-11-22" / "a", hours=3)
    made(tmp_path / "sweep" / "deep" / "0", hours=1)
    made(tmp_path / "sweep" / "deep" / "0" / "inner")
    made(tmp_path / ".hidden")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    found = [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert found == ["sweep/deep/0", "2026-11-22/b", "2026-11-22/a"]


def test_run_is_found_at_the_root_itself_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "missing") == []
    assert find_runs(tmp_path) == []
    run = made(tmp_path)
    assert find_runs(tmp_path) == [run]


def test_damaged_run_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    assert [run.path.name for run in find_runs(tmp_path)] == ["good"]
    assert f"{tmp_path / 'bad' / 'run.json'}: damaged" in caplog.text


def test_times_with_and_without_a_zone_can_be_ordered(tmp_path: Path) -> None:
    made(tmp_path / "a", hours=1)
    RunDir.create(tmp_path / "b", name="", identity="", created=NOON.replace(tzinfo=None))
    assert [run.path.name for run in find_runs(tmp_path)] == ["b", "a"]


def test_latest_run_is_the_newest_that_began_training(tmp_path: Path) -> None:
    assert latest_run(tmp_path) is None
    first = made(tmp_path / "z", hours=1)
    second = made(tmp_path / "y", hours=2)
    made(tmp_path / "x", hours=3)
    assert latest_run(tmp_path) is None
    first.begin_attempt({})
    assert latest_run(tmp_path) == first
    second.begin_attempt({})
    assert latest_run(tmp_path) == second


@pytest.mark.parametrize("mark", ["multirun.yaml", "sweep.json"])
def test_latest_run_is_no_job_of_a_sweep_unless_the_sweep_itself_is_asked(tmp_path: Path, mark: str) -> None:
    single = made(tmp_path / "2026-11-22" / "single")
    single.begin_attempt({})
    job = made(tmp_path / "2026-11-22" / "sweep" / "0", hours=1)
    job.begin_attempt({})
    (job.path.parent / mark).write_text("")
    assert latest_run(tmp_path) == single
    assert latest_run(job.path.parent) == job


def test_reading_about_runs_imports_no_torch() -> None:
    script = "import sys, runner.rundir, runner.lock, runner.metrics_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, env=os.environ).returncode == 0


def test_a_claim_that_the_disk_does_not_take_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        RunDir.create(tmp_path / "run", name="a", identity="b", created=datetime.now(UTC))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    RunDir.create(tmp_path / "run", name="a", identity="b", created=datetime.now(UTC))
