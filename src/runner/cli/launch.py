"""`runner`: launch an experiment or a sweep, or go on with a run.

    0  finished      1  failed      2  refused before training      75  stopped by a time limit      128+n  by signal n

Flags that only show something go straight to Hydra and import no torch.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.collector import collector_paused
from runner.errors import ConfigError, RunnerError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.config.prepare import Prepared
    from runner.config.sweeping import Sweep
    from runner.runs.run import Outcome

FAILED = 1
REFUSED = 2
SIGNALLED = 128
_HELP = ("--help", "-h")
_SWEEP = ("--multirun", "-m")
_SHOWING = ("--hydra-help", "--version", "--cfg", "--info", "--shell-completion", "-sc")


def main() -> None:
    """The console script."""
    import_from_here()
    sys.exit(launch(sys.argv[1:]))


def import_from_here() -> None:
    """Let a user's own module beside his configs be named. Appended, so that nothing installed is shadowed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def launch(argv: Sequence[str]) -> int:
    """Do what the command line says; the exit code. With HYDRA_FULL_ERROR=1 errors come with their whole trace."""
    whole_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        return _launch(argv)
    except KeyboardInterrupt:
        # Before or after the training, which has an answer of its own.
        return SIGNALLED + signal.SIGINT
    except RunnerError as error:
        if whole_trace:
            raise
        for line in str(error).splitlines():
            print(f"runner: {line}", file=sys.stderr)
        return REFUSED if error.refused else FAILED


def _launch(argv: Sequence[str]) -> int:
    from runner.config.words import read_line

    _, flags, _ = read_line(argv)
    names = {flag.partition("=")[0] for flag in flags}
    if names.intersection(_HELP):
        print(_help())
        return 0
    if names.intersection(_SHOWING):
        with collector_paused():
            return _show(argv)
    if names.intersection(_SWEEP):
        return _sweep(argv)
    from runner.cli.interrupt import leaving_at_once
    from runner.config.prepare import prepare

    with leaving_at_once(), collector_paused():
        prepared = prepare(argv)
        import runner.runs.run  # noqa: F401
    return launch_prepared(prepared).exit_code


def _help() -> str:
    from runner.config.overview import overview
    from runner.config.places import conf_directory, user_directory

    directories = [directory for directory in (user_directory(), conf_directory()) if directory is not None]
    return overview(directories)


def launch_prepared(prepared: "Prepared") -> "Outcome":
    """Carry out what was prepared."""
    from runner.config.internals import run_as_job
    from runner.runs.run import execute

    outcomes: list[Outcome] = []
    run_as_job(prepared.node, prepared.loader, lambda _: outcomes.append(execute(prepared)))
    return outcomes[0]


def _sweep(argv: Sequence[str]) -> int:
    """Check all jobs, then hand over to Hydra's sweeper and launcher. A job's value is its best monitored metric."""
    from hydra.errors import HydraException

    from runner.config.documents import sweep_file_redacted
    from runner.config.sweeping import prepare_sweep

    sweep = prepare_sweep(argv)
    begun: list[Path] = []
    try:
        with sweep_file_redacted():
            _hydra(sweep.line, _job_of(sweep, begun))
    except HydraException as error:
        # What the sweeper itself refuses, before its first job.
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{reason}; sweep in another way, or choose another hydra/sweeper") from error
    except RunnerError as error:
        # The sweep was checked; what a single job is refused for is a failure of that job.
        error.refused = False
        raise
    finally:
        if begun:
            _show_sweep(begun[0].parent)
    return 0


def _show_sweep(directory: Path) -> None:
    """What came of the jobs, also of those before the one that failed or was stopped."""
    from runner.cli.listing import show_list
    from runner.cli.summary import summarize
    from runner.rundir import find_runs

    here = Path.cwd()
    place = directory.relative_to(here) if directory.is_relative_to(here) else directory
    print()
    show_list([summarize(run) for run in find_runs(place)], place)


def _job_of(sweep: "Sweep", begun: list[Path]) -> Callable[["DictConfig"], float | None]:
    """The task of every job. A closure, because launchers send it to other processes.

    The directories of jobs that begin in this process are added to `begun`.
    """

    def job(task_config: "DictConfig") -> float | None:
        from runner.config.sweeping import prepare_job
        from runner.runs.run import execute

        import_from_here()
        prepared = prepare_job(task_config, sweep)
        begun.append(prepared.run.path)
        outcome = execute(prepared)
        if outcome.exit_code >= SIGNALLED:
            # Whoever stops a job by a signal means the sweep.
            sys.exit(outcome.exit_code)
        return outcome.best

    return job


def _show(argv: Sequence[str]) -> int:
    """Let Hydra print what was asked for, of the launch as it would be."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from runner.config.prepare import hydra_line, problems_of_line

    line = hydra_line(argv)
    try:
        _hydra(line, lambda _: None)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        problems = problems_of_line(line)
        raise ConfigError(problems or str(error).strip().splitlines()[:2]) from error
    return 0


def _hydra(line: Sequence[str], task: Callable[["DictConfig"], float | None]) -> None:
    """Hydra's own entry point, which reads sys.argv; errors come out of it instead of being printed."""
    import hydra

    from runner.config.internals import VERSION_BASE
    from runner.config.sources import Sources, register_plugins
    from runner.config.words import split_flags

    flags, overrides = split_flags(line)
    sources = Sources.of_flags(flags)
    rest = [flag for flag in flags if not flag.startswith(("--config-path=", "--config-name="))]
    register_plugins()
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [sys.argv[0], *rest, *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(sources.directory), config_name=sources.config_name, version_base=VERSION_BASE)(
            task
        )()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


if __name__ == "__main__":
    main()
