"""A part of a run, taken again from a checkpoint to the next: identical, or what differs first, and why."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import runner
from runner.errors import ResumeError
from runner.rundir import RunDir
from runner.runs.stretches import all_stretches, one_stretch
from runner.runs.verifying import Verdict, verify

Short = Callable[..., runner.Run]
HERE = ("hydra.run.dir=here", "checkpoint.keep.last=100")
EVERY_STEP = (*HERE, "checkpoint.save.every_steps=1")

OWN = """
import os, random, time, torch
from pathlib import Path
from runner import Data

class Images(torch.utils.data.Dataset):
    '''Forty of them, that differ from what they were as `how` says.'''

    def __init__(self, how):
        self.how = how
        self.own = random.Random()  # Of the system, and in no checkpoint.

    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = torch.randn(8, generator=torch.Generator().manual_seed(index)) + 0.1 * torch.rand(8)
        if self.how == "urandom":
            x[0] += os.urandom(1)[0] / 256
        if self.how == "own generator":
            x[0] += self.own.random()
        if self.how == "file":
            x[0] += float(Path("offset.txt").read_text())
        return x, index % 3

def images(how="exact", fingerprint=None):
    return Data(Images(how), validation=Images("exact"), fingerprint=fingerprint)

class Net(torch.nn.Module):
    calls = 0

    def __init__(self, how="exact"):
        super().__init__()
        self.how = how
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        Net.calls += 1
        if self.how == "time" and self.training:
            x = x + time.perf_counter_ns() % 1000 / 1000
        if self.how == "draws" and self.training:
            torch.rand(Net.calls)
        if self.how == "evaluation" and not self.training:
            x = x + Net.calls
        if self.how == "buffer" and self.training:
            self.seen += Net.calls
        return self.layers(x)
"""
OWN_CONFIG = ("model._target_=own_parts.Net", "data._target_=own_parts.images", "data.batch_size=8")


def verdict(first: int | None = None, *, to: int | None = None, trust: Sequence[str] = ()) -> Verdict:
    checkpoint = None if first is None else runner.Checkpoint.open("here", first)
    return verify(one_stretch(RunDir.open(Path("here")), checkpoint, to), trust=trust)


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def own(short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Short:
    """`own("+data.how=urandom", ...)`: 5 steps of a model and data of the user, saved after each."""
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    (tmp_path / "own_parts.py").write_text(OWN)

    def own(*overrides: str) -> runner.Run:
        return short(*EVERY_STEP, *OWN_CONFIG, *overrides)

    return own


def test_a_run_that_resumes_exactly_is_identical_and_stays_untouched(short: Short, tmp_path: Path) -> None:
    short(*HERE, "checkpoint.save.every_steps=2", "trainer.max_epochs=2")
    before, generators, threads = contents(tmp_path / "here"), torch.get_rng_state(), torch.get_num_threads()
    found = verdict()
    assert found.deviation is None
    assert (found.stretch.first.step, found.stretch.end) == (8, 10)
    assert (found.gathers, found.evaluations) == (2, 1)
    assert found.tensors is not None and found.tensors > 10
    assert contents(tmp_path / "here") == before
    assert torch.equal(torch.get_rng_state(), generators) and torch.get_num_threads() == threads


RUNS = {
    "augmented, accumulated, averaged, clipped": (
        "experiment=digits_cnn",
        "data.batch_size=128",
        "trainer.accumulate=3",
        "trainer.ema_decay=0.9",
        "trainer.evaluate.weights=averaged",
        "trainer.clip_norm=1.0",
    ),
    "workers": ("runtime.workers=2", "experiment=digits_cnn"),
    "plateau, evaluated at every step": ("scheduler=plateau", "scheduler.patience=0", "trainer.evaluate.every_steps=1"),
    "torch's own schedule": ("scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.01"),
    "text": ("experiment=text_gpt", "data.batch_size=16", "trainer.max_steps=8", "trainer.limits.evaluation_batches=1"),
    "a scaler that leaves steps out": ("trainer.precision=fp16", "trainer.nonfinite=skip"),
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_whatever_a_run_is_made_of_it_is_identical(short: Short, overrides: tuple[str, ...]) -> None:
    run = short(*HERE, "trainer.max_epochs=2", "checkpoint.save.at_steps=[3]", *overrides)
    found = verdict(3, to=run.checkpoint().step)
    assert found.deviation is None, found
    assert found.tensors is not None and found.gathers


LOADER = """
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from runner import Data

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.rand(64) + index, index % 10

def loader():
    return Data(StatefulDataLoader(Numbers(), batch_size=8, shuffle=True), validation=Numbers())
"""


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13.
def test_a_run_on_a_loader_of_the_user_s_own_is_identical(short: Short, tmp_path: Path) -> None:
    (tmp_path / "own_loader.py").write_text(LOADER)
    short(*HERE, "checkpoint.save.every_steps=3", "data._target_=own_loader.loader", "model.in_features=64")
    assert [verify(stretch).deviation for stretch in all_stretches(RunDir.open(Path("here")), None)] == [None, None]


@pytest.mark.parametrize(
    ("overrides", "what", "cause"),
    [
        ("+data.how=urandom", "batches", "the data: taken twice here, it differs from itself, too; the data set draws"),
        ("+data.how=own generator", "batches", "the data: taken twice here, it differs from itself, too"),
        ("+model.how=time", "loss", "the arithmetic: taken twice here, it differs from itself, too; model, objective"),
        ("+model.how=draws", "generators", "the random draws: taken twice here, it differs from itself, too; how many"),
        ("+model.how=evaluation", "val_loss", "the evaluation: taken twice here, it differs from itself, too"),
        ("+model.how=buffer", "state", "what the losses do not show: taken twice here, it differs from itself, too"),
    ],
)
def test_what_is_not_in_a_checkpoint_is_found_and_its_cause_named(
    own: Short, overrides: str, what: str, cause: str
) -> None:
    own(overrides)
    found = verdict(3, to=5)
    assert found.deviation is not None
    assert (found.deviation.what, found.repeatable, found.changed) == (what, False, ())
    assert found.cause.startswith(cause)
    if what == "state":
        assert found.deviation.comparison is not None
        assert [one.name for one in found.deviation.comparison.tensors] == ["model.seen"]
        assert (found.deviation.step, found.deviation.equal_until) == (5, 5)


def test_an_algorithm_that_need_not_be_deterministic_is_thought_of(own: Short) -> None:
    own("+model.how=time", "trainer.deterministic=false")
    assert verdict(3).cause.endswith("; or an algorithm gives other bits every time: trainer.deterministic is false")


def test_data_that_have_changed_are_found_and_so_are_their_fingerprint_and_source(own: Short, tmp_path: Path) -> None:
    (tmp_path / "offset.txt").write_text("0.0")
    own("+data.how=file", "+data.fingerprint=${oc.env:VERSION_OF_THE_DATA,one}")
    (tmp_path / "offset.txt").write_text("0.5")
    found = verdict(3)
    assert found.deviation is not None
    assert (found.deviation.what, found.deviation.step, found.deviation.equal_until) == ("batches", 4, 3)
    assert (found.repeatable, found.changed) == (True, ())
    assert found.cause.startswith("the data: taken twice here, it is the same; files or code of the data have changed")
    with (tmp_path / "own_parts.py").open("a") as file:
        file.write("# Changed.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERSION_OF_THE_DATA", "two")
        found = verdict(3)
    assert found.cause == "the data: taken twice here, it is the same; what has changed since is listed"
    data, source = found.changed
    assert "one" in data and "two" in data
    assert source.startswith("own_parts.py: has changed since; what was trained with is ")


def test_a_machine_that_computes_otherwise_is_named(own: Short) -> None:
    own("runtime.threads=null")
    assert verdict(3).deviation is None
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        # What more threads would do to large sums: other last bits.
        linear = torch.nn.functional.linear
        patch.setattr("torch.nn.functional.linear", lambda x, w, b: linear(x, w, b) * (1 + 2**-20))
        torch.set_num_threads(threads + 1)
        try:
            found = verdict(3)
        finally:
            torch.set_num_threads(threads)
    assert found.deviation is not None
    assert (found.deviation.what, found.repeatable) == ("loss", True)
    assert [line for line in found.changed if line.startswith("threads")]
    assert found.cause == "the arithmetic: taken twice here, it is the same; what has changed since is listed"


def test_a_run_that_went_on_with_another_config_is_taken_again_with_that(own: Short) -> None:
    own("trainer.max_steps=3")
    runner.run(["+resume=here", "trainer.max_steps=8", "optimizer.lr=0.01", "trainer.max_epochs=2"])
    assert verdict(3, to=8).deviation is None
    with pytest.raises(ResumeError, match=r"at step 3, between 2 and 5, attempt 2 went on with another config \(") as e:
        verdict(2, to=5)
    assert "optimizer.lr" in str(e.value) and str(e.value).endswith("--to 3")
    assert verdict(2, to=3).deviation is None


def test_what_began_anew_when_a_run_went_on_begins_anew_again(own: Short) -> None:
    own("trainer.max_steps=3")
    runner.run(["+resume=here", "trainer.max_steps=5", "+reset=[optimizer]"])
    found = verdict(3)
    assert (found.stretch.reset, found.deviation) == (("optimizer",), None)


def test_a_part_between_attempts_with_the_same_config_is_one_part(own: Short) -> None:
    own("trainer.max_steps=5")
    runner.run(["+resume=here@step=3"])
    runner.run(["+resume=here", "trainer.max_steps=8", "trainer.max_epochs=2"])
    assert verdict(1, to=4).deviation is None


STOPPER = """
import os, signal
from pathlib import Path
from runner.records import Evaluating

class Stopper:
    '''Asks once for an end while the split is evaluated.'''

    def observe(self, record):
        if isinstance(record, Evaluating) and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        pass
"""


def test_a_checkpoint_from_before_an_evaluation_that_was_broken_off_is_reached(own: Short, tmp_path: Path) -> None:
    (tmp_path / "stopper.py").write_text(STOPPER)
    run = own("+observers.stopper._target_=stopper.Stopper")
    assert (run.outcome, run.checkpoint().step, run.checkpoint().progress.evaluated_step) == ("stopped", 5, 0)
    assert verdict(3, to=5).deviation is None
    runner.run(["+resume=here", "trainer.max_epochs=2"])
    found = verdict(5, to=10)
    assert (found.deviation, found.evaluations) == (None, 1)


def test_a_run_that_was_moved_is_compared_where_it_is(own: Short, tmp_path: Path) -> None:
    own()
    (tmp_path / "here").rename(tmp_path / "there, 1=a")
    assert verify(one_stretch(RunDir.open(Path("there, 1=a")), None, None)).deviation is None
