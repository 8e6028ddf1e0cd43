"""`metrics.jsonl`: torn lines, attempts that take back what was recorded, numbers that JSON does not know."""

import errno
import math
import os
from pathlib import Path

import pytest

from runner import jsonl
from runner.metrics_file import MetricsFile, latest, read_metrics
from runner.records import Progress


def step(number: int, **values: object) -> dict[str, object]:
    return {"event": "step", "step": number, **values}


def test_records_come_back_in_order_with_their_attempt(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.start(Progress(0))
        file.append(step(1, loss=0.5))
        file.append(step(2, loss=0.25, note="größer ≥"))
    assert read_metrics(path) == [
        {"event": "step", "step": 1, "loss": 0.5, "attempt": 1},
        {"event": "step", "step": 2, "loss": 0.25, "note": "größer ≥", "attempt": 1},
    ]
    assert path.read_bytes().count(b"\n") == 3


def test_record_is_in_the_file_as_soon_as_it_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.append(step(1))
        assert len(read_metrics(path)) == 1


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_numbers_that_json_does_not_know_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.append(step(1, loss=math.nan, metrics={"a": math.inf, "b": [-math.inf, -0.0]}))
    [record] = read_metrics(path)
    assert b'"nan"' in path.read_bytes()
    assert math.isnan(record["loss"])
    assert record["metrics"]["a"] == math.inf
    assert record["metrics"]["b"][0] == -math.inf
    assert math.copysign(1, record["metrics"]["b"][1]) == -1


def test_value_that_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        with pytest.raises(TypeError):
            file.append(step(1, loss=object()))
        file.append(step(2))
    assert [record["step"] for record in read_metrics(path)] == [2]


def test_file_torn_at_any_byte_is_read_and_gone_on_with(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    with MetricsFile(whole, 1) as file:
        file.start(Progress(0))
        for number in (1, 2, 3):
            file.append(step(number, loss=math.nan, text='a "quoted} ü'))
    content = whole.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    torn = tmp_path / "torn.jsonl"
    for size in range(len(content) + 1):
        torn.write_bytes(content[:size])
        # A line that lacks only its newline is whole.
        lines = sum(end - 1 <= size for end in ends)
        steps = list(range(1, lines))
        assert [record["step"] for record in read_metrics(torn)] == steps, size
        with MetricsFile(torn, 2) as file:
            file.append(step(4))
        assert [record["step"] for record in read_metrics(torn)] == [*steps, 4], size
        assert torn.read_bytes().count(b"\n") == lines + 1


def test_zeros_that_a_power_cut_left_at_the_end_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.append(step(1))
    path.write_bytes(path.read_bytes() + b"\0" * 100_000)
    assert len(read_metrics(path)) == 1
    with MetricsFile(path, 2) as file:
        file.append(step(2))
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert b"\0" not in path.read_bytes()


def test_torn_line_longer_than_one_read_is_cut_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.append(step(1))
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"text": "' + b"x" * 200_000)
    MetricsFile(path, 2).close()
    assert path.read_bytes() == kept


def test_damaged_line_in_the_middle_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "step", "step": 1}\n{"event": "st\xff\n{"event": "step", "step": 3}\n')
    assert [record["step"] for record in read_metrics(path)] == [1, 3]
    assert f"{path}, line 2: damaged, left out" in caplog.text


def test_later_attempt_takes_back_what_came_after_the_step_it_went_on_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.start(Progress(0))
        for number in range(1, 6):
            file.append(step(number))
    with MetricsFile(path, 2) as file:
        file.start(Progress(3))
        for number in range(4, 7):
            file.append(step(number))
    with MetricsFile(path, 3) as file:
        file.start(Progress(5))
        file.append(step(6))
        file.append({"event": "note"})
    found = [(record.get("step"), record["attempt"]) for record in read_metrics(path)]
    assert found == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (None, 3)]


def test_steps_that_were_skipped_are_taken_back_by_their_position(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.start(Progress())
        file.append(step(1, epoch=0))
        for batch in (2, 3, 4):
            file.append(step(1, epoch=0, batch=batch, skipped=True))
        file.append({"event": "epoch", "step": 1, "epoch": 1})
    with MetricsFile(path, 2) as file:
        file.start(Progress(step=1, epoch=0, batch=3))
        file.append(step(1, epoch=0, batch=4, skipped=True))
    assert [(record.get("batch"), record["attempt"]) for record in read_metrics(path)] == [
        (None, 1),
        (2, 1),
        (3, 1),
        (4, 2),
    ]


def test_of_an_evaluation_that_was_done_again_the_later_record_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    scores = {"event": "evaluation", "step": 4}
    with MetricsFile(path, 1) as file:
        file.append(step(4))
        file.append({**scores, "split": "validation", "val_loss": 1.0})
        file.append({**scores, "split": "test", "test_loss": 2.0})
    with MetricsFile(path, 2) as file:
        # It was killed before the evaluations were saved, so that they are done again at the step it goes on from.
        file.start(Progress(step=4, epoch=1))
        file.append({**scores, "split": "validation", "val_loss": 1.0})
    found = [(record["event"], record.get("split"), record["attempt"]) for record in read_metrics(path)]
    assert found == [("step", None, 1), ("evaluation", "test", 1), ("evaluation", "validation", 2)]


def test_attempt_that_starts_over_takes_back_everything(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.start(Progress(0))
        file.append(step(1))
    with MetricsFile(path, 2) as file:
        file.start(Progress(0))
    assert read_metrics(path) == []


def test_line_that_does_not_fit_the_disk_leaves_nothing_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    pwrite = os.pwrite
    room = 10

    def short(file: int, data: bytes, at: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = pwrite(file, data[:room], at)
        room -= written
        return written

    with MetricsFile(path, 1) as file:
        file.append(step(1))
        kept = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", short)
        with pytest.raises(OSError, match="No space left"):
            file.append(step(2))
        assert path.read_bytes() == kept
        monkeypatch.setattr(os, "pwrite", pwrite)
        file.append(step(3))
    assert [record["step"] for record in read_metrics(path)] == [1, 3]


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:7], at))
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 1) as file:
        file.append(step(1, text="x" * 100))
        file.append(step(2))
        file.sync()
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", 1)
    file.close()
    file.close()


def test_line_that_is_no_object_is_no_record() -> None:
    assert jsonl.decode(b"[1]") is None
    assert jsonl.decode(b"nan") is None
    assert jsonl.decode(b"[" * 100_000) is None


def test_the_latest_records_of_a_kind_are_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert latest(path, "saved") == []
    with MetricsFile(path, 1) as file:
        file.append({"event": "saved", "step": 1, "seconds": 9.0})
        for step in range(2, 6000):
            file.append({"event": "step", "step": step, "loss": 0.1234567890123456})
        for step in (6000, 6001):
            file.append({"event": "saved", "step": step, "seconds": 0.5})
    with path.open("ab") as torn:
        torn.write(b'{"event": "saved", "st')
    assert path.stat().st_size > 300_000
    assert [record["step"] for record in latest(path, "saved")] == [6000, 6001]
    assert len(latest(path, "step")) > 1000
