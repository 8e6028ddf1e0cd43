"""`runs verify-resume`: what it says, its exit codes, and what it refuses."""

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import runner
from runner.checkpoint.comparing import compare
from runner.cli.runs import app
from runner.cli.verifying import told
from runner.errors import CheckpointError, ConfigError, DamagedError, ResumeError, TrustError
from runner.lock import RunLock
from runner.rundir import RunDir
from runner.runs.verifying import Deviation

Call = Callable[..., tuple[int, list[str]]]
RUN = ("runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=2", "trainer.log_every=1", "hydra.run.dir=here")
KEPT = ("checkpoint.keep.last=9", "checkpoint.save.every_steps=4")

# Of 5 steps each epoch; saved at 4, 5, 8 and 10.
IN_TURNS = """
import torch

class Net(torch.nn.Linear):
    calls = 0

    def forward(self, x):
        Net.calls += self.training
        return super().forward(x.flatten(1)) * (1 + 1e-3 * Net.calls)
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "in_turns", raising=False)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """`call("here", "--all")`: the exit code, and what was printed; carried out in this process."""

    def call(*args: str) -> tuple[int, list[str]]:
        capfd.readouterr()
        code = app(["verify-resume", *args], standalone_mode=False)
        return code or 0, capfd.readouterr().out.splitlines()

    return call


def test_an_exact_run_is_said_to_be_identical_with_what_was_compared(call: Call) -> None:
    runner.run([*RUN, *KEPT])
    assert call("here") == (
        0,
        [
            "here/checkpoints/step-000000008  to  step-000000010",
            "bit-identical over 2 steps (8 to 10)",
            "compared  2 recorded steps, 1 evaluation, the state with 26 tensors",
        ],
    )
    assert call("here@step=4", "--to", "9") == (
        0,
        [
            "here/checkpoints/step-000000004",
            "bit-identical over 5 steps (4 to 9)",
            "compared  5 recorded steps, 1 evaluation, no state, because none was saved at the end",
        ],
    )
    code, lines = call("here/checkpoints/step-000000005", "--all", "--json")
    both = json.loads("\n".join(lines))
    assert code == 0
    assert [(one["identical"], one["from"]["step"], one["to"]["step"]) for one in both] == [(True, 5, 8), (True, 8, 10)]
    assert both[0]["compared"] == {"steps": 3, "evaluations": 0, "tensors": 26}


def test_what_differs_is_said_with_its_likely_cause_and_the_exit_code_is_1(call: Call, tmp_path: Path) -> None:
    (tmp_path / "in_turns.py").write_text(IN_TURNS)
    runner.run([*RUN, *KEPT, "model._target_=in_turns.Net", "+model.out_features=10", "model.in_features=64"])
    code, lines = call("here@step=4")
    assert code == 1
    assert lines[:1] == ["here/checkpoints/step-000000004  to  step-000000005"]
    assert lines[1].startswith("different: loss at step 5 was ")
    assert lines[2:] == [
        "compared      nothing before it",
        "equal         up to step 4",
        "likely cause  the arithmetic: taken twice here, it differs from itself, too; model, objective or optimizer "
        "depend on something that no checkpoint holds, such as the time, os.urandom, or a variable of a module",
    ]
    code, lines = call("here@step=4", "--json")
    (one,) = json.loads("\n".join(lines))
    assert (code, one["identical"], one["difference"]["what"], one["difference"]["repeatable"]) == (
        1,
        False,
        "loss",
        False,
    )


def test_a_run_of_an_older_version_is_compared_without_digests(call: Call, tmp_path: Path) -> None:
    runner.run([*RUN, *KEPT])
    lines = [json.loads(line) for line in Path("here/metrics.jsonl").read_text().splitlines()]
    older = [{key: value for key, value in line.items() if key != "digests"} for line in lines]
    Path("here/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in older))
    assert call("here")[1][2:] == [
        "compared  2 recorded steps, 1 evaluation, the state with 26 tensors",
        "digests   an older version recorded it, without those of batches and generators",
    ]


@pytest.mark.parametrize(
    ("deviation", "wanted"),
    [
        (Deviation(7, "step", "batches", "a", "b", 6), "the batches of step 7 are others"),
        (Deviation(7, "step", "generators", "a", "b", 6), "the random generators after step 7 stand elsewhere"),
        (Deviation(7, "step", "loss", 0.5, 0.25, 6), "loss at step 7 was 0.5 and is 0.25 now"),
        (Deviation(7, "epoch", "loss", 0.5, 0.25, 6), "loss of the epoch at step 7 was 0.5 and is 0.25 now"),
        (
            Deviation(7, "evaluation", "val_loss", 0.5, 0.25, 6),
            "val_loss of the evaluation at step 7 was 0.5 and is 0.25 now",
        ),
        (
            Deviation(7, "state", "state", None, None, 6, compare({"a": 1, "b": 2}, {"a": 1, "b": 3})),
            "the state at step 7: 0 of 0 tensors, 1 value",
        ),
    ],
)
def test_what_differs_first_is_told_in_a_few_words(deviation: Deviation, wanted: str) -> None:
    assert told(deviation) == wanted


def test_a_run_that_is_being_worked_on_is_compared_as_far_as_it_is_saved(
    call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    runner.run([*RUN, *KEPT])
    with RunLock(Path("here/run.lock")):
        assert app(["verify-resume", "here"], standalone_mode=False) is None
    assert "runs: here: is running (process " in capfd.readouterr().err


def test_what_cannot_be_compared_is_refused(call: Call, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"here: not a run \(nothing is there\)"):
        call("here")
    with pytest.raises(ConfigError, match="--all and --to: each says how far; leave one of them out"):
        call("here", "--all", "--to", "3")
    runner.run([*RUN, *KEPT])
    shutil.copytree("here/checkpoints/step-000000004", "alone")
    with pytest.raises(ResumeError, match=r"^alone: a checkpoint outside of its run, whose records are wanted, too"):
        call("alone")
    with pytest.raises(CheckpointError, match="here: has no checkpoint of step 6; the newest are of steps 4, 5, 8, 10"):
        call("here@step=6")
    file = Path("here/checkpoints/step-000000008/model.safetensors")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"step-000000008/model.safetensors"):
        call("here")
    RunDir.create(Path("empty"), name="empty", identity="0", created=datetime.now(UTC))
    with pytest.raises(CheckpointError, match="empty: has no checkpoint yet; train until one is saved"):
        call("empty")


def test_a_config_that_names_what_is_not_trusted_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in_turns.py").write_text(IN_TURNS.replace("Net.calls += self.training", "pass"))
    runner.run([*RUN, *KEPT, "model._target_=in_turns.Net", "+model.out_features=10", "model.in_features=64"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(TrustError, match="in_turns"):
        call("here")
    assert call("here", "--trust", "in_turns")[0] == 0


@pytest.mark.launch
def test_the_command_works_with_modules_beside_it(launch, tmp_path: Path) -> None:
    (tmp_path / "in_turns.py").write_text(IN_TURNS)
    own = ("model._target_=in_turns.Net", "+model.out_features=10", "model.in_features=64")
    assert launch([*RUN, *KEPT, *own], tmp_path).returncode == 0
    done = launch(["verify-resume", "here"], tmp_path, script="runs")
    assert done.returncode == 1, done.stderr
    assert "likely cause" in done.stdout
    done = launch(["verify-resume", "here@step=10"], tmp_path, script="runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runs: here/checkpoints/step-000000010: nothing was saved or recorded after it")
