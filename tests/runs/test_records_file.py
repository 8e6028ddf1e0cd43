"""What of a training is written to metrics.jsonl."""

import resource
import signal
from pathlib import Path

import pytest

from runner.errors import SaveError
from runner.metrics_file import MetricsFile, read_metrics
from runner.records import Digests, Ended, Epoch, Evaluation, Progress, Record, Saved, SaveStats, Started, Step
from runner.runs.records_file import RecordsFile


def written(tmp_path: Path, *records: Record, log_every: int = 2) -> list[dict[str, object]]:
    with MetricsFile(tmp_path / "metrics.jsonl", 1) as file:
        for record in records:
            RecordsFile(file, log_every=log_every).observe(record)
    return [{key: value for key, value in line.items() if key != "attempt"} for line in read_metrics(file.path)]


def test_every_nth_step_is_written_and_every_skipped_one(tmp_path: Path) -> None:
    steps = [
        Step(Progress(1), 0.1, loss=1.0),
        Step(Progress(2), 0.1, loss=2.0, grad_norm=3.0, digests=Digests("00ff", "abcd")),
        Step(Progress(3), 0.1, skipped=True),
    ]
    assert written(tmp_path, *steps) == [
        {
            **{"event": "step", "step": 2, "epoch": 0, "loss": 2.0, "lr": 0.1, "grad_norm": 3.0},
            "digests": {"batches": "00ff", "generators": "abcd"},
        },
        {"event": "step", "step": 3, "epoch": 0, "loss": None, "lr": 0.1, "skipped": True, "batch": 0},
    ]


def test_every_other_record_is_a_line(tmp_path: Path) -> None:
    at = Progress(5, 1)
    where = {"step": 5, "epoch": 1}
    records = [
        Started(at, 1, "name", 10, 5, tmp_path, {}),
        Epoch(at, 0.5, 0.1, 1.23456),
        Evaluation(at, "test", {"test_loss": float("nan")}, "averaged", False, 2.0),
        Saved(at, tmp_path / "step-000000005", ("end",), {}, SaveStats(100, 90, 0.01, 0.5, 0.02)),
        Ended(at, "finished", "max_epochs"),
    ]
    epoch, evaluation, saved, ended = written(tmp_path, *records)
    assert epoch == {"event": "epoch", **where, "loss": 0.5, "lr": 0.1, "seconds": 1.235}
    assert str(evaluation.pop("test_loss")) == "nan"
    assert evaluation == {
        "event": "evaluation", **where, "split": "test", "weights": "averaged", "improved": False, "seconds": 2.0,
    }  # fmt: skip
    assert saved == {
        "event": "saved", **where, "path": "step-000000005", "reasons": ["end"], "bytes": 100,
        "written": 90, "stall": 0.01, "seconds": 0.5, "share": 0.0,
    }  # fmt: skip
    assert ended == {"event": "end", **where, "outcome": "finished", "reason": "max_epochs"}


def test_a_disk_that_takes_no_more_is_an_error_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with MetricsFile(path, 1) as file:
        records = RecordsFile(file, log_every=1)
        records.start(Progress())
        whole = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
            with pytest.raises(
                SaveError, match=r"metrics.jsonl: cannot be written \(File too large\); free some space"
            ):
                records.observe(Step(Progress(1), 0.1, loss=1.0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == whole
