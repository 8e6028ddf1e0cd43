"""Real system calls of a child process, watched and cut short by strace: nothing goes past it."""

import ctypes
import os
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

CALLS = (
    *("openat", "write", "writev", "pwrite64", "pwritev", "fallocate", "ftruncate", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "mkdir", "mkdirat", "rmdir", "rename", "renameat", "renameat2"),
    *("link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "chmod", "fchmod", "utimensat"),
)
"""The system calls that can change files or make them last. Those that a machine does not have are passed over."""

IN_OS = {
    **{f"{name}at": name for name in ("mkdir", "rename", "link", "symlink", "unlink")},
    **{"renameat2": "rename", "fallocate": "posix_fallocate", "pwrite64": "pwrite", "utimensat": "utime"},
}
"""What those are called in `os` that are called differently there."""

_PR_SET_PTRACER = 0x59616D61
_LINE = re.compile(r"\d+ +(\w+)\(")


class Strace:
    """Runs a function in a child under strace, with a kill where it is asked for."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def run(self, action: Callable[[], object], inject: str | None = None) -> int:
        """The child's exit code, negative for a signal. Skips the test where nothing may be traced."""
        read, write = os.pipe()
        child = _fork()
        if child == 0:
            code = 1
            try:
                # Where only a parent may trace, the child allows it to anybody.
                ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
                os.close(write)
                os.read(read, 1)
                action()
                code = 0
            finally:
                os._exit(code)
        os.close(read)
        trace = ",".join(f"?{name}" for name in CALLS)
        # -s: what is written is not of interest; -y: which files it goes to is.
        words = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(self._log), "-e", f"trace={trace}"]
        words += ["-e", f"inject={inject}"] if inject else []
        tracer = subprocess.Popen([*words, "-p", str(child)], stderr=subprocess.PIPE, text=True)
        try:
            refused = _until_traced(child, tracer)
        finally:
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
            os.close(write)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _, said = tracer.communicate(timeout=60)
        if refused:
            pytest.skip(f"NO REAL KILLS: strace cannot trace here: {said.strip()}")
        return code

    def calls(self) -> list[tuple[str, str]]:
        """The calls that succeeded, by name, and the line of each."""
        lines = self._log.read_text().splitlines()
        return [(match[1], line) for line in lines if (match := _LINE.match(line)) and " = -1 " not in line]


def _fork() -> int:
    with warnings.catch_warnings():
        # As in `faults.in_child`: the child takes no lock that another thread may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _until_traced(child: int, tracer: "subprocess.Popen[str]") -> bool:
    """Wait until the child is traced; True if the tracer gave up."""
    status = Path(f"/proc/{child}/status")
    while re.search(r"^TracerPid:\s+0$", status.read_text(), re.MULTILINE):
        if tracer.poll() is not None:
            return True
        time.sleep(0.001)
    return False
