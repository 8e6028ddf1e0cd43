"""Runs, checkpoints and packed files wherever they lie: moved, copied, under any name, named from any directory."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import runner
from runner.checkpoint.archive import pack
from runner.checkpoint.handle import Checkpoint
from runner.cli.launch import launch
from runner.errors import ResumeError
from runner.runs.run import Run

SHORT = (
    *("runtime.device=cpu", "data.batch_size=256", "scheduler=constant", "trainer.log_every=1"),
    *("trainer.max_epochs=1", "checkpoint.save.every_steps=2", "checkpoint.keep.last=9"),
)
NAMES = (
    *(" a=b, c ", "x@best", "x@step=2", '[it\'s {"q"}]', "ünï\n日本", "${x}\\${now:%Y}\\"),
    *("-#a; $(x) `y` &", "~", "latest"),
)
MORE = "trainer.max_epochs=2"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the checkpoints of steps 2, 4 and 5. Tests copy it."""
    here = Path.cwd()
    place = tmp_path_factory.mktemp("original")
    os.chdir(place)
    try:
        return runner.run([*SHORT, "hydra.run.dir=run"]).directory
    finally:
        os.chdir(here)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("uninterrupted")
    return runner.run([*SHORT, MORE, f"hydra.run.dir={place}/run"])


def same(run: Path, other: Run) -> bool:
    one, two = Checkpoint.open(run).tensors(), other.checkpoint().tensors()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in two)


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def printed_command(out: str) -> list[str]:
    """The words of the command that the end of a run tells to go on with, as a shell takes them."""
    command = out[out.rindex("\nresume       ") + len("\nresume       ") : out.rindex("\nload  ")]
    words = shlex.split(command)
    assert words[0] == "runner"
    return [word for word in words[1:] if not word.endswith("=...")]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_gone_on_with_under_any_name(
    name: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], uninterrupted: Run
) -> None:
    run = tmp_path / name
    shutil.copytree(original, run)
    before = contents(original)
    assert launch([f"+resume={name}", "trainer.max_epochs=9", "trainer.max_steps=7"]) == 0
    words = printed_command(capsys.readouterr().out)
    assert launch([*words, MORE, "trainer.max_steps=null"]) == 0
    assert Checkpoint.open(run).step == 10 and same(run, uninterrupted)
    # Nothing was done where it was copied from, though .hydra/ names that place.
    assert contents(original) == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_a_run_and_a_packed_one_are_found_under_any_name(
    name: str, original: Path, tmp_path: Path
) -> None:
    run = tmp_path / name / "run"
    shutil.copytree(original, run)
    assert launch([f"+resume={name}/run/checkpoints/step-000000002/", "trainer.max_steps=3"]) == 0
    assert [one.name for one in (run / "checkpoints" / "aside").rglob("step*")]
    packed = tmp_path / f"{name}.zip"
    pack(Checkpoint.open(original, 4), packed)
    assert launch([f"+resume={name}.zip", MORE, "hydra.run.dir=new"]) == 0
    assert Checkpoint.open(tmp_path / "new").step == 10


@pytest.mark.parametrize("spelling", ["relative", "slash", "dots", "home", "link", "inside", "checkpoints", "absolute"])
def test_a_run_is_named_from_anywhere(
    spelling: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Run
) -> None:
    run = tmp_path / "far" / "run"
    shutil.copytree(original, run)
    monkeypatch.setenv("HOME", str(tmp_path / "far"))
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "near").mkdir()
    monkeypatch.chdir(run if spelling == "inside" else tmp_path / "near")
    text = {
        "relative": "../far/run",
        "slash": "../far/run//",
        "dots": "../near/../far/./run/checkpoints/..",
        "home": "~/run@latest",
        "link": "../link",
        "inside": ".",
        "checkpoints": "../far/run/checkpoints",
        "absolute": str(run),
    }[spelling]
    runner.run([f"+resume={text}", MORE])
    assert same(run, uninterrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link", "near"]
    assert list((tmp_path / "near").iterdir()) == []


def test_a_link_to_a_checkpoint_goes_on_with_its_run(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "run")
    (tmp_path / "good").symlink_to(tmp_path / "run" / "checkpoints" / "step-000000004")
    again = runner.run(["+resume=good", "trainer.max_steps=6", MORE])
    assert again.directory == tmp_path / "run" and again.checkpoint().step == 6


def test_a_run_from_another_machine_is_gone_on_with_where_it_lies(
    original: Path, tmp_path: Path, uninterrupted: Run
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(original, moved)
    # It was killed there, on a machine of another name that had been started since; its heartbeat beats no more.
    holder = {"token": "0" * 16, "host": "elsewhere", "boot_id": "x", "pid_namespace": "", "pid": 1}
    holder |= {"process_start": "1", "since": "2026-01-01", "interval": 0.1, "beats": 3, "beat_time": 0.0}
    (moved / "run.lock").write_text(json.dumps(holder))
    lines = (moved / "attempts.jsonl").read_text().splitlines()
    (moved / "attempts.jsonl").write_text("".join(f"{line}\n" for line in lines if '"start"' in line))
    assert runner.run([f"+resume={moved}", MORE]).directory == moved
    assert same(moved, uninterrupted)
    assert not (moved / "run.lock").exists()


def test_a_run_and_its_copy_are_gone_on_with_apart(original: Path, tmp_path: Path, uninterrupted: Run) -> None:
    for name in ("one", "two"):
        shutil.copytree(original, tmp_path / name)
    runner.run(["+resume=one", MORE])
    before = contents(tmp_path / "one")
    runner.run(["+resume=two", "trainer.max_epochs=3"])
    assert contents(tmp_path / "one") == before
    assert same(tmp_path / "one", uninterrupted)
    assert (
        Checkpoint.open("two").step == 15 and Checkpoint.open("two").manifest.run == Checkpoint.open("one").manifest.run
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nobody-of-this-name/run", r"~nobody-of-this-name/run: not a run \(nothing is there\)"),
        ("x" * 300, r"x: cannot be looked at \(File name too long\); name a run that you may read"),
        ("x" * 300 + "@best", r"cannot be looked at \(File name too long\)"),
    ],
)
def test_a_name_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ResumeError, match=message):
        runner.run([f"+resume={text}"])


@pytest.mark.launch
def test_the_printed_command_goes_on_in_a_shell(
    command: Callable[[str], list[str]], original: Path, tmp_path: Path
) -> None:
    name = 'it\'s "q" = a, [b] @best ${x}\nünï'
    shutil.copytree(original, tmp_path / name)
    words = [*command("runner"), f"+resume={name}", "trainer.max_epochs=9", "trainer.max_steps=6"]
    first = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert first.returncode == 0, first.stderr
    line = shlex.join([*command("runner"), *printed_command(first.stdout), "trainer.max_steps=7"])
    again = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert again.returncode == 0, again.stderr
    assert Checkpoint.open(tmp_path / name).step == 7
