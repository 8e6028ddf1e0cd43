"""The commands and snippets of a page, and a reader who types them in their order."""

import contextlib
import doctest
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from runner.cli import launch, runs

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"\A(?:# @package .*\n)?# ([\w/]+\.(?:py|yaml))\n")
MAINS = {"runner": launch.main, "runs": runs.main}


@dataclass(frozen=True)
class Snippet:
    kind: str
    """`sh`, `python`, `yaml`, or `text`: what the one before shows."""
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that it is, if it begins with the name of one."""
        named = NAMED.match(self.text)
        return named[1] if named else None


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [Snippet(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in BLOCK.finditer(text)]


def commands(block: str) -> list[list[str]]:
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def follow(page: Path, directory: Path) -> None:
    """Type every snippet of a page as it stands, in the current directory, and compare with what it says to expect.

    A `text` block is what the block before it shows; `...` in it stands for anything. Only there may a command fail or
    a snippet raise.
    """
    session: dict[str, Any] = {"__name__": "__main__"}
    written = snippets(page)
    with _own_modules(directory):
        for snippet, after in zip(written, [*written[1:], None], strict=True):
            told = after.text if after is not None and after.kind == "text" else None
            where = f"{page.name}, line {snippet.line}"
            if snippet.file:
                (directory / snippet.file).parent.mkdir(parents=True, exist_ok=True)
                (directory / snippet.file).write_text(snippet.text, encoding="utf-8")
            elif snippet.kind == "python":
                _compare(where, *_executed(snippet, where, session), told)
            elif snippet.kind == "sh":
                _compare(where, *_typed(snippet, directory), told)


def _compare(where: str, shown: str, failed: bool, told: str | None) -> None:
    assert told is not None or not failed, f"{where}: fails\n{shown}"
    if told is not None:
        same = doctest.OutputChecker().check_output(told, shown, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert same, f"{where}: shows\n{shown}\nand the page says\n{told}"


def _executed(snippet: Snippet, where: str, session: dict[str, Any]) -> tuple[str, bool]:
    """What a python snippet shows, its error at the end, and whether it has raised one."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            exec(compile(snippet.text, where, "exec"), session)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            return shown.getvalue(), True
    return shown.getvalue(), False


def _typed(snippet: Snippet, directory: Path) -> tuple[str, bool]:
    """What the commands of a shell snippet show, and whether one of them has failed."""
    shown, failed = "", False
    for words in commands(snippet.text):
        text, code = _called(words, directory) if words[0] in MAINS else _started(words)
        shown, failed = shown + text, failed or code != 0
    return shown, failed


def _called(words: list[str], directory: Path) -> tuple[str, object]:
    """A console script of ours, called in this process, which has imported nothing of the directory yet."""
    shown = io.StringIO()
    argv, sys.argv = sys.argv, words
    with _own_modules(directory), contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            MAINS[words[0]]()
        except SystemExit as ended:
            return shown.getvalue(), ended.code
        finally:
            sys.argv = argv
    return shown.getvalue(), 0


def _started(words: list[str]) -> tuple[str, int]:
    """Any other program; torchrun is that of this Python."""
    line = [sys.executable, "-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else words
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
    return done.stdout, done.returncode


@contextlib.contextmanager
def _own_modules(directory: Path) -> Iterator[None]:
    """Let the modules of a directory be imported anew inside, and leave those of before as they were."""
    path = list(sys.path)
    before = _taken_out(directory)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        _taken_out(directory)
        sys.modules.update(before)


def _taken_out(directory: Path) -> dict[str, ModuleType]:
    own = {
        name: module
        for name, module in sys.modules.items()
        if (getattr(module, "__file__", None) or "").startswith(str(directory))
    }
    for name in own:
        del sys.modules[name]
    return own
