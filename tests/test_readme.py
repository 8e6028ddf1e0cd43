"""Every command and every snippet of the README runs, in its order, as a newcomer would type it.

Trainings are cut to a few steps; the run directory that the README shows stands for the newest one.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parent))

from snippets import commands, snippets

README = Path(__file__).parents[1] / "README.md"
SHOWN_RUN = "outputs/2026-11-23/17-05-09-123456"
SETUP = ("git", "scripts/train")
SHOWS = ("--cfg", "--help")

pytestmark = pytest.mark.launch


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
    kinds = [snippet.kind for snippet in snippets(README)]
    assert kinds.count("sh") >= 8 and kinds.count("python") >= 3 and kinds.count("yaml") == 1


def test_every_command_and_snippet_of_the_readme_runs(launch, tmp_path: Path) -> None:
    launches = 0
    for snippet in snippets(README):
        if snippet.file:
            path = tmp_path / snippet.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snippet.text, encoding="utf-8")
        elif snippet.kind == "sh":
            for words in commands(snippet.text):
                if words[0] in SETUP:
                    continue
                launches += 1
                words = [word.replace(SHOWN_RUN, newest_run(tmp_path)) if SHOWN_RUN in word else word for word in words]
                words = [re.sub(r"\bPATH(?=$|@)", lambda _: newest_run(tmp_path), word) for word in words]
                more = ["--yes"] if words[:2] == ["runs", "rm"] else []
                script, *arguments = [*shortened(words, launches), *more]
                done = launch(arguments, tmp_path, script=script)
                assert done.returncode == 0, (words, done.stdout, done.stderr)
        elif snippet.kind == "python":
            run = newest_run(tmp_path)
            steps = sorted((tmp_path / run / "checkpoints").glob("step-*"))
            assert steps
            code = snippet.text.replace(SHOWN_RUN, run).replace("trainer.max_epochs=5", "trainer.max_steps=2")
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (code, done.stdout, done.stderr)
