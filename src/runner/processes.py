"""Which process this is, and whether another one on this host still lives.

A process id is reused sooner or later, so a process is known by its id and the moment it began. Linux tells both in
`/proc`; elsewhere `ps` is asked.
"""

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ThisProcess:
    """What tells this process from every other one, on this host or elsewhere. A text is empty where it is unknown."""

    host: str
    boot_id: str
    """Changes with every start of the host."""
    pid_namespace: str
    """Containers on one host count their processes apart."""
    pid: int
    process_start: str


def this_process() -> ThisProcess:
    """The calling process; after a fork, the child."""
    pid = os.getpid()
    return ThisProcess(socket.gethostname(), _boot_id(), _pid_namespace(), pid, process_start(pid) or "")


def is_alive(pid: int, start: str) -> bool:
    """A process with this id runs on this host, and it is the one that began at `start` as far as that can be known."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # It belongs to someone else, so it exists.
    found = process_start(pid)
    return found is None or (found != "" and (not start or found == start))


def process_start(pid: int) -> str | None:
    """When a process began, in the system's own terms; "" if it has ended (a zombie too); None if that is not told."""
    if not (_PROC / "self" / "stat").exists():
        return _asked_of_ps(pid)
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except FileNotFoundError:
        # Either it has just ended, or /proc hides other users' processes.
        return None if _exists(pid) else ""
    except ProcessLookupError:
        return ""
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold anything.
    values = stat.rpartition(")")[2].split()
    return "" if values[0] in "ZX" else values[19]


def _asked_of_ps(pid: int) -> str | None:
    try:
        answer = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    state, _, start = answer.stdout.strip().partition(" ")
    return "" if not state or state.startswith("Z") else start.strip()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        pass
    try:
        answer = subprocess.run(
            ["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


def _pid_namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
