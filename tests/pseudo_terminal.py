"""A command on a terminal of its own, as its user has it."""

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(
    command: Sequence[str], cwd: Path, *, columns: int = 80, env: Mapping[str, str] | None = None, answer: str = ""
) -> tuple[int, str]:
    """Exit code, and all that the command wrote to a terminal of this width, on which `answer` was typed.

    `env` is added to this process's environment.
    """
    controller, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **(env or {})}
    process = subprocess.Popen(command, cwd=cwd, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    os.write(controller, answer.encode())
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # Linux's way to say that the other side is closed.
            break
        if not part:
            break
        shown += part
    os.close(controller)
    return process.wait(), shown.decode()
