"""Where a run comes from: versions, machine, git commit, and the user's own source, kept once an attempt.

code/001/          of attempt 1; never imported by loading
  git.commit       what was checked out in the directory of the launch
  git.status       what differed from it: `git status --porcelain`
  git.diff         and how: `git diff HEAD`, its first MiB
  source/          the user's own modules: see source_code.py
"""

import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

LARGEST_DIFF = 1 << 20
LONGEST_WAIT = 60.0
"""Seconds that the end of a run waits for git."""
_PACKAGES = ("runner", "torch", "numpy", "hydra-core", "omegaconf")


def software() -> dict[str, Any]:
    """Host, versions, and the commit of the directory that the run was launched in."""
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "git": git_commit(Path.cwd()),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """What may change the bits of a training besides the software: device, threads, instruction set."""
    cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "device_name": cuda or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


_COMPARED = ("device", "device_name", "cpu_capability", "threads", "versions", "data")
"""Facts of a checkpoint that may change the numbers of what follows."""


def not_exact(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each fact by which the numbers from here on may not be those of one uninterrupted run."""
    pairs = []
    for fact in _COMPARED:
        before, after = saved.get(fact), now[fact]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            pairs += [(f"{fact} of {name}", before.get(name), after.get(name)) for name in {**before, **after}]
        else:
            pairs.append((fact, before, after))
    return [
        f"{name}: {before} then, {after} now; the numbers may not be those of one uninterrupted run"
        for name, before, after in pairs
        if before != after
    ]


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(directory: Path) -> str | None:
    """The commit that is checked out in `directory`; None outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=directory, env=_quiet(), capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@contextmanager
def kept_git(into: Path) -> Iterator[None]:
    """Let git write the state of the current directory under `into` while the training inside goes on.

    As processes of their own, not from a thread: one that starts a process while the loop forks its workers waits for
    those to end.
    """
    commit = git_commit(Path.cwd())
    if commit is None:
        yield
        return
    into.mkdir(parents=True, exist_ok=True)
    (into / "git.commit").write_text(f"{commit}\n", encoding="utf-8")
    # Written for programs, and without rewriting the index.
    diff = "git -c diff.autoRefreshIndex=false diff --no-ext-diff --no-color HEAD"
    wanted = {"git.status": "git status --porcelain", "git.diff": f"{diff} | head -c {LARGEST_DIFF}"}
    writing = []
    for name, command in wanted.items():
        with (into / name).open("wb") as file:
            writing.append(
                subprocess.Popen(["sh", "-c", command], stdout=file, stderr=subprocess.DEVNULL, env=_quiet())
            )
    try:
        yield
    finally:
        for process in writing:
            try:
                process.wait(timeout=LONGEST_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _quiet() -> dict[str, str]:
    """An environment in which git takes no lock that the user's own git might want."""
    return os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
