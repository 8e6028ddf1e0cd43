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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from runner.data.batches import Batches

if TYPE_CHECKING:
    from runner.config.build import Training

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
        "world": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
    }


def data(training: "Training") -> dict[str, Any]:
    """On what is trained: the data's fingerprint, the samples of each split, how batches are cut of them, how many."""
    splits = {"train": training.data.train, "validation": training.data.validation, "test": training.data.test}
    cut = training.train.cut if isinstance(training.train, Batches) else None
    ends = training.horizon
    return {
        "data": training.data.fingerprint,
        "samples": {name: _samples(split) for name, split in splits.items() if split is not None},
        "batches": None if cut is None else asdict(cut),
        "horizon": {"steps_per_epoch": ends.steps_per_epoch, "ahead": ends.ahead},
    }


def _samples(split: Any) -> int | None:
    """How many samples there are in a data set, or in that of a loader; None where nobody knows."""
    split = getattr(split, "dataset", split) if isinstance(split, DataLoader) else split
    if isinstance(split, IterableDataset) or not hasattr(split, "__getitem__"):
        return None
    return len(split) if hasattr(split, "__len__") else None


_COMPARED = ("device", "device_name", "cpu_capability", "threads", "world", "versions", "data", "samples")
"""Facts of a checkpoint that may change the numbers of what follows."""
_SAID = {"data": "the data's fingerprint", "samples": "samples", "device_name": "device name"}


def not_exact(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each fact by which the numbers from here on may not be those of one uninterrupted run."""
    pairs = []
    for fact in _COMPARED:
        if fact not in saved or fact not in now:
            # Not every version has noted every fact, and not everything that is done has all of them.
            continue
        before, after, name = saved[fact], now[fact], _SAID.get(fact, fact.replace("_", " "))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            pairs += [(f"{name} of {part}", before.get(part), after.get(part)) for part in {**before, **after}]
        else:
            pairs.append((name, before, after))
    return [f"{name}: {_or_none(then)} then, {_or_none(now)} now" for name, then, now in pairs if then != now]


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


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


_DIFF = ("git", "-c", "diff.autoRefreshIndex=false", "diff", "--no-ext-diff", "--no-color", "HEAD")
"""Written for programs, and without rewriting the index."""


def git_diff(directory: Path) -> bytes:
    """How the files in `directory`'s repository differ from its commit, the first MiB; empty where there is none."""
    try:
        done = subprocess.run(_DIFF, cwd=directory, env=_quiet(), capture_output=True, check=False)
    except OSError:
        return b""
    return done.stdout[:LARGEST_DIFF] if done.returncode == 0 else b""


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
    wanted = {"git.status": "git status --porcelain", "git.diff": f"{' '.join(_DIFF)} | head -c {LARGEST_DIFF}"}
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
