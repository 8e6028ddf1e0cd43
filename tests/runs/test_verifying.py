"""A part of a run, taken again from a checkpoint to the next: identical, or what differs first, and why."""

from collections.abc import Callable, Sequence
from pathlib import Path

import runner
from runner.rundir import RunDir
from runner.runs.stretches import one_stretch
from runner.runs.verifying import Verdict, verify

KEPT = ("checkpoint.keep.last=null", "checkpoint.keep.best=null", "hydra.run.dir=here")
Short = Callable[..., runner.Run]


def verdict(to: int | None = None, *, first: int | None = None, trust: Sequence[str] = ()) -> Verdict:
    run = RunDir.open(Path("here"))
    return verify(one_stretch(run, None if first is None else runner.Checkpoint.open("here", first), to), trust=trust)


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_run_that_resumes_exactly_is_identical_and_stays_untouched(short: Short, tmp_path: Path) -> None:
    short(*KEPT, "checkpoint.save.every_steps=2", "trainer.max_epochs=2")
    before = contents(tmp_path / "here")
    found = verdict()
    assert found.deviation is None
    assert (found.stretch.first.step, found.stretch.end) == (8, 10)
    assert (found.gathers, found.evaluations) == (2, 1)
    assert found.tensors is not None and found.tensors > 10
    assert contents(tmp_path / "here") == before
