"""The stalls of the checkpoint benchmark as an SVG that can be read on light and on dark pages."""

import math
import statistics
from typing import Any
from xml.sax.saxutils import escape

from bench_names import COPY, OURS, OURS_BLOCKING, PEERS, SYNCED

LABELS, PLOT, GAP, RIGHT = 150, 330, 40, 20
TOP, PANEL_TOP, ROW, AXIS = 74, 34, 20, 46
LIMITS = (1e-4, 100.0)
TICKS = {1e-4: "0.1 ms", 1e-3: "1 ms", 1e-2: "10 ms", 1e-1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}

STYLE = """
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #57606a }
.title { font-size: 16px; font-weight: 600; fill: #1f2328 }
.panel { font-size: 13px; font-weight: 600; fill: #1f2328 }
.own { font-weight: 600; fill: #0969da }
.tick { font-size: 11px }
.right { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #8c959f; stroke-opacity: .25 }
.copy { stroke: #bf8700; stroke-width: 1.5; stroke-dasharray: 4 3 }
.range { stroke: #6e7781; stroke-width: 2; stroke-opacity: .6 }
.dot { fill: #6e7781; stroke: #6e7781; stroke-width: 1.5 }
.synced { fill: #ffffff }
.range.ours { stroke: #0969da }
.dot.ours { fill: #0969da; stroke: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 }
  .title, .panel { fill: #f0f6fc }
  .own { fill: #4493f8 }
  .copy { stroke: #d29922 }
  .range { stroke: #9198a1 }
  .dot { fill: #9198a1; stroke: #9198a1 }
  .synced { fill: #0d1117 }
  .range.ours { stroke: #4493f8 }
  .dot.ours { fill: #4493f8; stroke: #4493f8 }
}
"""


def picture(results: dict[str, Any]) -> str:
    """A panel for each state: a dot for each contestant's median stall, a line from quartile to quartile."""
    states = list(results["states"].items())
    rows = [name for name in (OURS, OURS_BLOCKING, *PEERS) if any(name in found["contestants"] for _, found in states)]
    columns = min(2, len(states))
    width = LABELS + columns * PLOT + (columns - 1) * GAP + RIGHT
    height_of_panel = PANEL_TOP + len(rows) * ROW + AXIS
    height = TOP + math.ceil(len(states) / columns) * height_of_panel
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="How long a save holds up the training loop">',
        f"<style>{STYLE}</style>",
        '<text class="title" x="12" y="28">How long a save holds up the training loop</text>',
        *_legend(),
    ]
    for index, (state, found) in enumerate(states):
        left = LABELS + index % columns * (PLOT + GAP)
        top = TOP + index // columns * height_of_panel
        parts += _panel(state, found, rows, left, top, labelled=index % columns == 0)
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> list[str]:
    entries = [("dot", "as it is called"), ("dot synced", "with the missing syncs added")]
    parts, x = [], 18
    for kind, text in entries:
        parts.append(f'<circle class="{kind}" cx="{x}" cy="48" r="4"/><text x="{x + 10}" y="52">{text}</text>')
        x += 34 + 7 * len(text)
    parts.append(f'<line class="copy" x1="{x}" x2="{x + 18}" y1="48" y2="48"/>')
    parts.append(f'<text x="{x + 24}" y="52">one memory copy; lines span the quartiles</text>')
    return parts


def _panel(state: str, found: dict[str, Any], rows: list[str], left: int, top: int, *, labelled: bool) -> list[str]:
    costs = found["contestants"]
    first = top + PANEL_TOP
    bottom = first + len(rows) * ROW
    low, high = _range_of(costs)

    def x(seconds: float) -> float:
        return round(left + PLOT * math.log(seconds / low) / math.log(high / low), 1)

    title = f"{state}: {found['tensors']:,} tensors, {found['bytes'] / 1e6:,.0f} MB"
    parts = [f'<text class="panel" x="{left}" y="{top + 20}">{escape(title)}</text>']
    for seconds, text in TICKS.items():
        if low <= seconds <= high:
            parts.append(f'<line class="grid" x1="{x(seconds)}" x2="{x(seconds)}" y1="{first}" y2="{bottom}"/>')
            parts.append(f'<text class="tick middle" x="{x(seconds)}" y="{bottom + 16}">{text}</text>')
    if COPY in costs:
        copy = x(statistics.median(costs[COPY]["stall"]))
        parts.append(f'<line class="copy" x1="{copy}" x2="{copy}" y1="{first - 4}" y2="{bottom}"/>')
    for index, name in enumerate(rows):
        y = first + index * ROW + ROW / 2
        own = name in (OURS, OURS_BLOCKING)
        if labelled:
            label = f'<text class="{"own " if own else ""}right" x="{LABELS - 12}" y="{y + 4}">{escape(name)}</text>'
            parts.append(label)
        for form, shift in (("", 0), (SYNCED, 0)):
            if stalls := costs.get(name + form, {}).get("stall"):
                parts += _mark(stalls, x, y + shift, "ours" if own else "synced" if form else "")
    return parts


def _mark(stalls: list[float], x: Any, y: float, kind: str) -> list[str]:
    if len(stalls) < 2:
        stalls = stalls * 2
    low, middle, high = statistics.quantiles(stalls, n=4, method="inclusive")
    return [
        f'<line class="range {kind}" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>',
        f'<circle class="dot {kind}" cx="{x(middle)}" cy="{y}" r="4"/>',
    ]


def _range_of(costs: dict[str, Any]) -> tuple[float, float]:
    """From one tick to another, around everything that is shown."""
    stalls = [
        seconds
        for name, cost in costs.items()
        if name.removesuffix(SYNCED) in (OURS, OURS_BLOCKING, COPY, *PEERS)
        for seconds in cost["stall"]
    ]
    below = [tick for tick in TICKS if tick <= min(stalls)]
    above = [tick for tick in TICKS if tick >= max(stalls)]
    return max(below, default=LIMITS[0]), min(above, default=LIMITS[1])
