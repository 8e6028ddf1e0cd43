"""Every command and every snippet of the README runs, in its order, as a newcomer would type it.

Trainings are cut to a few steps; the run directory that the README shows stands for the newest one.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
SHOWN_RUN = "outputs/2026-11-23/17-05-09-123456"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"\A(?:# @package .*\n)?# ([\w/]+\.(?:py|yaml))\n")
SETUP = ("git clone", "scripts/train")
SHOWS = ("--cfg", "--help")

pytestmark = pytest.mark.launch


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(README.read_text(encoding="utf-8"))]


def commands(block: str) -> list[list[str]]:
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith(SETUP)]


def shortened(words: list[str], launches: int) -> list[str]:
    """A training of a few steps; one that is resumed gets a few more than it has had."""
    if words[0] != "runner" or any(word in SHOWS for word in words):
        return words
    return [*words, f"trainer.max_steps={2 + launches}", "trainer.limits.evaluation_batches=1"]


def newest_run(directory: Path) -> str:
    """The newest run that is no job of a sweep."""
    runs = sorted(directory.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return str(runs[-1].parent.relative_to(directory))


def test_the_readme_has_the_blocks_that_are_followed_here() -> None:
    kinds = [kind for kind, _ in blocks()]
    assert kinds.count("sh") >= 8 and kinds.count("python") >= 3 and kinds.count("yaml") == 1


def test_every_command_and_snippet_of_the_readme_runs(launch, tmp_path: Path) -> None:
    launches = 0
    for kind, block in blocks():
        named = NAMED.search(block)
        if named:
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block, encoding="utf-8")
        elif kind == "sh":
            for words in commands(block):
                launches += 1
                words = [word.replace(SHOWN_RUN, newest_run(tmp_path)) if SHOWN_RUN in word else word for word in words]
                words = [re.sub(r"\bPATH(?=$|@)", lambda _: newest_run(tmp_path), word) for word in words]
                more = ["--yes"] if words[:2] == ["runs", "rm"] else []
                script, *arguments = [*shortened(words, launches), *more]
                done = launch(arguments, tmp_path, script=script)
                assert done.returncode == 0, (words, done.stdout, done.stderr)
        elif kind == "python":
            run = newest_run(tmp_path)
            steps = sorted((tmp_path / run / "checkpoints").glob("step-*"))
            assert steps
            code = block.replace(SHOWN_RUN, run).replace("trainer.max_epochs=5", "trainer.max_steps=2")
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (code, done.stdout, done.stderr)
