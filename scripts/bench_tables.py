"""The results of the checkpoint benchmark as tables, and held against the targets."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench_names import (
    COPY,
    LISTING,
    OPEN,
    OURS,
    OURS_BLOCKING,
    OWN,
    REFERENCES,
    SHOW,
    SYNCED,
    WRITE,
    WRITE_BESIDE,
)

HEADS = (
    *("", "stall p50 (quartiles), ms", "max, ms", "memory copies", "steps meanwhile", "lost, ms", "durable after, s"),
    *("load, s", "memory, MB"),
)

NOTES = """\
Stall: how long the loop is held up, the making of the state dicts included; *memory copies*: as a multiple of one plain
copy of as many bytes. *Steps meanwhile*: the time of a step while a save is being written, as a multiple of the usual
one; empty where the loop waits until all is written. *Lost*: the stall, and what those steps took longer. *Durable
after*: from the call until the checkpoint is complete and on the disk; in parentheses where nothing is synced, so that
a power cut may still take it. *Load*: out of the page cache; `runner` alone verifies it, and safetensors only maps the
file. *Memory*: how much a save adds to the process at its height. `+sync`: the same peer with the missing syncs added
(into a temporary sibling; every file and directory synced; renamed). dcp: torch.distributed.checkpoint; *kept*: with
the memory of its stager kept. Medians; quartiles in parentheses.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: what was measured, and the limit that holds for it."""

    what: str
    value: float
    limit: float
    unit: str
    """"ms" and "s" show seconds, "x" a ratio."""

    def __str__(self) -> str:
        met = "met   " if self.value <= self.limit else "NOT MET"
        return f"{met:8}{self.what}: {_shown(self.value, self.unit)}, at most {_shown(self.limit, self.unit)}"


def tables(results: dict[str, Any]) -> str:
    """A table for each state, in markdown."""
    machine = results["machine"]
    lines = [
        f"Python {machine['python']}, torch {machine['torch']}, {machine['cores']} cores, {machine['file system']}; "
        "training on one thread.",
    ]
    if results["left out"]:
        lines.append(f"Not installed, so left out: {', '.join(results['left out'])}.")
    for state, found in results["states"].items():
        lines += [
            "",
            f"### {state}: {found['bytes'] / 1e6:,.0f} MB in {found['tensors']:,} tensors",
            "",
            f"{found['rounds']} interleaved rounds; a step takes {_shown(found['step'], 'ms')}, "
            f"making the state dicts {_shown(found['state dicts'], 'ms')}.",
            "",
            f"| {' | '.join(HEADS)} |",
            f"|:--|{'--:|' * (len(HEADS) - 1)}",
        ]
        copy = found["contestants"].get(COPY)
        lines += [_row(name, costs, copy) for name, costs in found["contestants"].items()]
    if results["states"]:
        lines += ["", NOTES]
    if results["look"]:
        lines += ["### Looking at checkpoints", "", "| | seconds (quartiles) |", "|:--|--:|"]
        lines += [f"| {what} | {_spread(values, 1, 3)} |" for what, values in results["look"].items()]
    return "\n".join(lines).strip() + "\n"


def targets(results: dict[str, Any]) -> str:
    """A line for each target: whether it is met."""
    found = [
        target for state, measured in results["states"].items() for target in _of_state(state, measured["contestants"])
    ]
    found += [
        Target(what, statistics.median(results["look"][what]), limit, "s")
        for what, limit in LOOK_LIMITS.items()
        if what in results["look"]
    ]
    return "\n".join(["Targets", *map(str, found)]) if found else "no target can be held against what was measured"


LOOK_LIMITS = {OPEN: 0.05, SHOW: 0.35, LISTING: 2.0}


def _of_state(state: str, costs: dict[str, Any]) -> list[Target]:
    def median(name: str, key: str) -> float | None:
        values = costs.get(name, {}).get(key, [])
        return statistics.median(values) if values else None

    found: list[Target] = []

    def hold(what: str, value: float | None, other: float | None, limit: Callable[[float], float], unit: str) -> None:
        if value is not None and other is not None:
            found.append(Target(f"{state}: {what}", value, limit(other), unit))

    stall = median(OURS, "stall")
    if state == "3000x4KiB":
        hold("stall", stall, 0.0, lambda _: 0.02, "ms")
    else:
        hold("stall, 1.2 memory copies + 1 ms", stall, median(COPY, "stall"), lambda copy: 1.2 * copy + 1e-3, "ms")
    if state in ("200MB", "1GB"):
        stalls = {name: median(name, "stall") for name in costs if name not in OWN}
        best = min((value for value in stalls.values() if value is not None), default=None)
        named = next((name for name, value in stalls.items() if value == best), "")
        hold(f"stall, half of the best peer's ({named})", stall, best, lambda value: value / 2, "ms")
    for name, reference in ((OURS, WRITE), (OURS, WRITE_BESIDE), (OURS_BLOCKING, WRITE)):
        what = f"durable ({name}), 1.15 x {reference} + 10 ms"
        hold(what, median(name, "complete"), median(reference, "complete"), lambda value: 1.15 * value + 0.01, "ms")
    what = "load and verify, 1.2 x torch.load"
    hold(what, median(OURS, "load"), median("torch.save", "load"), lambda value: 1.2 * value, "ms")
    hold("steps while a save is written", median(OURS, "slowed"), 0.0, lambda _: 1.1, "x")
    return found


def _row(name: str, costs: dict[str, Any], copy: dict[str, Any] | None) -> str:
    stall = costs["stall"]
    multiple = (
        f"{statistics.median(stall) / statistics.median(copy['stall']):.1f}" if copy and name not in OWN[2:] else ""
    )
    synced = name in OWN or name.endswith(SYNCED)
    complete = f"{statistics.median(costs['complete']):.3f}"
    cells = [
        f"**{name}**" if name in (OURS, OURS_BLOCKING) else f"*{name}*" if name in REFERENCES else name,
        _spread(stall, 1e3, 1) if name != WRITE_BESIDE else "",
        f"{max(stall) * 1e3:.1f}" if name != WRITE_BESIDE else "",
        multiple,
        _spread(costs["slowed"], 1, 2) if costs["slowed"] else "",
        f"{statistics.median(costs['lost']) * 1e3:.1f}" if name != COPY else "",
        "" if name == COPY else complete if synced else f"({complete})",
        f"{statistics.median(costs['load']):.3f}" if costs["load"] else "",
        f"{statistics.median(costs['peak']) / 1e6:,.0f}" if costs.get("peak") else "",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], factor: float, digits: int) -> str:
    scaled = [value * factor for value in values]
    if len(scaled) < 2:
        return f"{scaled[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(scaled, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _shown(value: float, unit: str) -> str:
    return {"ms": f"{value * 1e3:.1f} ms", "s": f"{value:.3f} s", "x": f"{value:.2f} x"}[unit]
