"""What every test has: an environment that decides nothing, a state directory of its own, and the real commands."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from runner.lock import RunLock

# Set before a test module can import torch: results depend on the number of threads, so it must not be the machine's.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
# Fixtures of a wider scope than a test's use this directory; each test gets one of its own (`_own_state_home`).
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="runner-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
# What the person who starts the tests prefers for his own runs.
for preference in ("HYDRA_FULL_ERROR", "FORCE_COLOR", "PYTHONWARNINGS", "COLUMNS"):
    os.environ.pop(preference, None)

# A shell ignores SIGINT in what it starts in the background, `nohup` ignores SIGHUP, and what ignores one has children
# that do: the tests of signals need children that do not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

Launch = Callable[..., CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with --long"))


@pytest.fixture(autouse=True)
def _own_state_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one test is remembered to trust, no other test trusts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def _locks_given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what a test locked by preparing a run that it does not carry out.

    A lock that is held is renewed, with a sync of its file, under all the tests that follow.
    """
    held: list[RunLock] = []
    acquire = RunLock.acquire

    def noted(lock: RunLock) -> None:
        acquire(lock)
        held.append(lock)

    monkeypatch.setattr(RunLock, "acquire", noted)
    yield
    for lock in held:
        lock.release()
    assert not [thread for thread in threading.enumerate() if thread.name == "run-lock"]


@pytest.fixture(scope="session")
def command() -> Callable[[str], list[str]]:
    """`command("runner")` is how to start the installed `runner`: the console script beside this Python.

    Where the package is only on the path, the script's function is called in a new Python.
    """

    def command(script: str) -> list[str]:
        installed = Path(sys.executable).with_name(script)
        if installed.exists():
            return [str(installed)]
        module = {"runner": "runner.cli.launch", "runs": "runner.cli.runs"}[script]
        return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]

    return command


@pytest.fixture(scope="session")
def launch(command: Callable[[str], list[str]]) -> Launch:
    """`launch(args, cwd)` runs `runner` with these arguments in a new process and waits for its end.

    `env` is added to this process's environment; `script="runs"` runs the other command.
    """

    def launch(
        args: Sequence[str | Path],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        script: str = "runner",
    ) -> CompletedProcess[str]:
        return subprocess.run(
            [*command(script), *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return launch
