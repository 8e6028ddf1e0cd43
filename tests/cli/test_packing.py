"""`runs pack` and `runs unpack`, and what other commands make of packed checkpoints, through real processes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

pytestmark = pytest.mark.launch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format-1" / "run"
RUNS = [sys.executable, "-m", "runner.cli.runs"]
Runs = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """`runs("pack", ...)` in the test's directory, which holds a run."""
    shutil.copytree(FIXTURE, tmp_path / "run")

    def runs(*args: str) -> "CompletedProcess[str]":
        return subprocess.run([*RUNS, *args], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)

    return runs


@pytest.mark.parametrize("words", [["x.zip"], ["x.zip", "--compress"], ["x.pt"]])
def test_a_runs_newest_checkpoint_is_packed_and_looked_at_and_unpacked(
    words: list[str], runs: Runs, tmp_path: Path
) -> None:
    packed = runs("pack", "run", *words)
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout.startswith(f"packed run/checkpoints/step-000000004 into {words[0]}  ")
    verified = runs("verify", words[0])
    assert (verified.returncode, verified.stdout) == (0, f"whole    {words[0]}\n1 checkpoint, none damaged\n")
    shown = json.loads(runs("show", words[0], "--json").stdout)
    assert (shown["kind"], shown["path"], shown["step"]) == ("checkpoint", words[0], 4)
    assert "val_loss" in runs("show", words[0]).stdout
    assert runs("unpack", words[0], "out").stdout.startswith(f"unpacked {words[0]} into out  ")
    original = tmp_path / "run" / "checkpoints" / "step-000000004"
    for file in original.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_what_is_damaged_is_named_by_its_tensors(runs: Runs, tmp_path: Path) -> None:
    runs("pack", "run@best", "x.pt")
    raw = bytearray((tmp_path / "x.pt").read_bytes())
    weights = (tmp_path / "run/checkpoints/step-000000004/frozen.safetensors").read_bytes()[4096:]
    raw[raw.index(weights)] ^= 1
    (tmp_path / "x.pt").write_bytes(raw)
    verified = runs("verify", "x.pt")
    assert verified.returncode == 1
    assert "DAMAGED  x.pt\n" in verified.stdout
    assert "x.pt/frozen.safetensors: is damaged: bytes 4096 to 4156, which hold the tensors 'base." in verified.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "run", "x.tar"], "x.tar: packed files end in .zip, .pt, .pth; choose one of these"),
        (["pack", "run", "there.zip"], "there.zip: stands there already, and nothing is overwritten"),
        (["pack", "run@step=9", "x.zip"], "run: has no checkpoint of step 9"),
        (["pack", "run", "x.pt", "--compress"], "x.pt: torch reads no compressed files"),
        (["unpack", "there.zip", "out"], "there.zip: is a file, and no packed checkpoint (it begins with b'mine')"),
        (["unpack", "run", "out"], "run: is a directory; give a file that `runs pack` wrote"),
        (["show", "there.zip"], "there.zip: is a file, and no packed checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(words: list[str], message: str, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    refused = runs(*words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.zip"]


def test_packed_files_are_written_shown_and_verified_without_torch(runs: Runs, tmp_path: Path) -> None:
    for words in (["pack", "run", "x.pt"], ["show", "x.pt"], ["verify", "x.pt"], ["unpack", "x.pt", "out"]):
        script = f"""
import atexit, sys
atexit.register(lambda: print("torch" if "torch" in sys.modules else "no torch"))
sys.argv = ["runs", *{words!r}]
from runner.cli.runs import main
main()
"""
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.endswith("\nno torch\n")
