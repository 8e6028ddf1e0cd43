"""`runs evaluate` and `runs predict` through real processes: what they print, and how they refuse."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runner
from runner.data.digits import digits

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parents[1]))

from pseudo_terminal import on_terminal

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run of two epochs, and samples."""
    directory = tmp_path_factory.mktemp("trained")
    runner.run(
        ["runtime.device=cpu", "data.batch_size=256", "trainer.max_epochs=2", f"hydra.run.dir={directory / 'a run'}"]
    )
    np.save(directory / "x.npy", digits().test.tensors[0].numpy())
    return directory


def in_terminal(command: list[str], cwd: Path, *, columns: int = 80) -> tuple[int, str]:
    """Exit code, and what a terminal of this width would have shown in the end, without its colours."""
    code, shown = on_terminal(command, cwd, columns=columns)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r\n", "\n")
    return code, "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def test_evaluate_shows_the_scores_beside_the_recorded_ones(trained: Path, command: Callable[[str], list[str]]) -> None:
    code, text = in_terminal([*command("runs"), "evaluate", "a run@best", "--split", "test"], trained)
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.rstrip() for line in text.splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("a run/checkpoints/"))
    assert lines[at].endswith("step-000000010  step 10, 2 epochs")
    assert lines[at + 1] == "test split, raw weights, on cpu"
    metrics = runner.Checkpoint.open(trained / "a run").metrics
    rows = {line.split()[0]: line.split()[1:] for line in lines[at + 3 : at + 6]}
    assert rows["metric"] == ["now", "recorded"]
    assert rows["test_loss"] == [f"{metrics['test_loss']:.4g}"] * 2
    assert rows["test_accuracy"] == [f"{metrics['test_accuracy']:.4g}"] * 2
    assert lines[at + 7] == "equal, bit for bit, to what the training recorded"


def test_evaluate_with_other_values_says_with_which(trained: Path, launch: Launch) -> None:
    done = launch(["evaluate", "a run", "data.evaluation_batch_size=9", "runtime.threads=2"], trained, script="runs")
    assert done.returncode == 0, done.stderr
    assert "with data.evaluation_batch_size=9 runtime.threads=2\n" in done.stdout
    assert "recorded is what the training measured, with its own config and weights\n" in done.stdout
    assert "not as it was: threads: 1 then, 2 now\n" in done.stdout
    said = json.loads(launch(["evaluate", "a run", "--json"], trained, script="runs").stdout)
    assert said["equal"] is True and said["split"] == "validation" and said["overrides"] == []
    assert said["metrics"] == said["recorded"]
    assert said["path"] == "a run/checkpoints/step-000000010"


def test_predict_writes_a_file_and_says_what(trained: Path, launch: Launch) -> None:
    words = ["predict", "a run", "--input", "x.npy", "--output", "y.csv"]
    done = launch([*words, "model.dropout=0"], trained, script="runs")
    assert (done.returncode, done.stdout) == (0, "predicted y.csv  float32 (267, 10)  raw weights of step 10\n")
    assert np.loadtxt(trained / "y.csv", delimiter=",").shape == (267, 10)
    again = launch(words, trained, script="runs")
    assert again.returncode == 2
    assert again.stderr == "runs: y.csv: stands there already; choose another name, or add --force to replace it\n"
    assert launch([*words, "--force", "--shape", "8,8"], trained, script="runs").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "nowhere"], "nowhere"),
        (
            ["evaluate", "a run", "model.droput=0"],
            "model.droput=0: no key 'model.droput'; did you mean 'model.dropout'?",
        ),
        (["evaluate", "a run", "--split", "train"], "split is 'train'; wanted validation or test"),
        (["predict", "a run", "-i", "x.npy", "-o", "z.npy", "--shape", "8x8"], "--shape 8x8: wanted whole numbers"),
        (["predict", "a run", "-i", "x.npy"], "Missing option '--output' / '-o'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    words: list[str], message: str, trained: Path, launch: Launch
) -> None:
    before = sorted(trained.iterdir())
    refused = launch(words, trained, script="runs")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(trained.iterdir()) == before
