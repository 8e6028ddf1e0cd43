"""Where a run comes from: versions, machine, git commit, and the user's own source, kept once an attempt.

code/001/          of attempt 1; never imported by loading
  git.json         commit, branch, whether the tree differed from it
  git.diff         how, up to 1 MiB
  source/          the user's own modules that the run has imported
"""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import torch

LARGEST_DIFF = 1 << 20
LARGEST_SOURCE = 1 << 20
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


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(directory: Path) -> str | None:
    """The commit that is checked out in `directory`; None outside a repository or without git."""
    return _git(directory, "rev-parse", "HEAD")


def keep_code(into: Path) -> threading.Thread:
    """Write git's state and the user's source under `into`, beside the training; join the thread before the end."""
    modules = [module for name, module in sorted(sys.modules.items()) if name != "__mp_main__"]
    files = [Path(file) for module in modules if (file := getattr(module, "__file__", None))]
    main = sys.modules.get("__main__")
    thread = threading.Thread(
        target=_keep, args=(into, Path.cwd(), files, getattr(main, "__file__", None)), name="runner-code", daemon=True
    )
    thread.start()
    return thread


def _keep(into: Path, directory: Path, files: list[Path], main: str | None) -> None:
    try:
        into.mkdir(parents=True, exist_ok=True)
        commit = git_commit(directory)
        if commit is not None:
            status = _git(directory, "status", "--porcelain") or ""
            facts = {
                "commit": commit,
                "branch": _git(directory, "rev-parse", "--abbrev-ref", "HEAD"),
                "clean": not status,
            }
            (into / "git.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            if status:
                diff = (_git(directory, "diff", "--binary", "HEAD") or "").encode("utf-8", "surrogateescape")
                (into / "git.diff").write_bytes(diff[:LARGEST_DIFF])
        for file in _own_sources(files, directory, main):
            target = into / "source" / file.resolve().relative_to(directory.resolve())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    except OSError:
        # A record for later readers; a disk that cannot take it will say so at the next checkpoint.
        return


def _own_sources(files: list[Path], directory: Path, main: str | None) -> list[Path]:
    """The python files among `files` that lie under `directory` and in no environment or installed package."""
    root = directory.resolve()
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    package = Path(__file__).resolve().parents[1]
    found = []
    for file in files:
        path = file.resolve()
        inside = path.is_relative_to(root) and path.suffix == ".py" and str(file) != main
        foreign = path.is_relative_to(package) or any(path.is_relative_to(place) for place in installed)
        if inside and not foreign and path.is_file() and path.stat().st_size <= LARGEST_SOURCE:
            found.append(file)
    return found


def _git(directory: Path, *arguments: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
