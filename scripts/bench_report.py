"""What the benchmarks share: how to start the real `runner`, and how medians and ratios are shown."""

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def runner_command() -> list[str]:
    """The console script beside this Python; where the package is only on the path, its function in a new Python."""
    installed = Path(sys.executable).with_name("runner")
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-c", "import sys; from runner.cli.launch import main; sys.exit(main())"]


def environment(directory: Path, **more: str) -> dict[str, str]:
    """This process's environment; in it, runs leave nothing outside `directory` and find what stands here."""
    path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "XDG_STATE_HOME": str(directory / "state"), **more}


def report(times: Mapping[str, Sequence[float]], *, unit: str, digits: int, base: str, rounds: int) -> None:
    """Prints the median and the quartiles of each, and of its ratios to `base`, each ratio within one round."""
    print(f"{rounds} interleaved rounds; Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{'':28}{unit + ' (quartiles)':>28}{f'times {base} (quartiles)':>34}")
    for name, values in times.items():
        row = f"{name:28}{_spread(values, digits):>28}"
        if name != base:
            row += f"{_spread([value / other for value, other in zip(values, times[base], strict=True)], 3):>34}"
        print(row)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
