"""`runner`: launch an experiment, a sweep, or go on with a run. The order of things is design 3's.

0  finished      1  failed      2  refused before training      75  stopped by a time limit      128+n  by signal n
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, ResumeError, RunnerError, TrustError

if TYPE_CHECKING:
    from runner.config.prepare import Prepared
    from runner.runs.run import Outcome

FAILED = 1
REFUSED = 2


def main() -> None:
    """The console script."""
    # A user's own module beside his configs can be named; appended, so that nothing installed is shadowed.
    sys.path.append(str(Path.cwd()))
    sys.exit(launch(sys.argv[1:]))


def launch(argv: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    full = os.environ.get("HYDRA_FULL_ERROR", "")
    try:
        return _run(argv)
    except (ConfigError, ResumeError, TrustError) as error:
        if full == "1":
            raise
        _say(error)
        return REFUSED
    except RunnerError as error:
        if full == "1":
            raise
        _say(error)
        return FAILED


def _say(error: Exception) -> None:
    for line in str(error).splitlines():
        print(f"runner: {line}", file=sys.stderr)


def _run(argv: Sequence[str]) -> int:
    from runner.config.prepare import prepare

    return launch_prepared(prepare(argv)).exit_code


def launch_prepared(prepared: "Prepared") -> "Outcome":
    """Run what was prepared, inside a job of Hydra."""
    from runner.runs.run import execute

    return execute(
        prepared.config,
        prepared.settings,
        run=prepared.run,
        words=prepared.words,
        resumption=prepared.resumption,
        notes=prepared.notes,
    )


if __name__ == "__main__":
    main()
