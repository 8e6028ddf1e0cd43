"""What a checkpoint's directory is called, from a template: `epoch{epoch:02d}-loss{val_loss:.4f}`.

A field is a counter or a metric, with a format; nothing of Python can be reached through it. Whatever a value turns
out to be, the name is a plain one inside its directory. Who makes the directory tells two saves of one name apart.
"""

import math
import re
from collections.abc import Iterator, Mapping
from string import Formatter

from runner.records import Progress

COUNTERS = ("step", "epoch", "batch", "samples")
LONGEST = 220
"""Bytes of a name: 255 are allowed, and a hidden prefix and a number behind it must find room."""

_FORMAT = re.compile(r"(?:.?[<>=^])?[-+ ]?z?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bdeEfFgGnoxX%]?")
# What a run measures: the training's own two, and the scores of an evaluation, which carry the split's name.
_METRIC = re.compile(r"loss|lr|(?:val|test)_[^.\[\]{}]+")
_EXAMPLES = (*COUNTERS, "loss", "lr", "val_loss", "test_loss")
_UNSAFE = re.compile(r'[/\\:*?"<>|]')
# What means something else where a checkpoint lies, and what Windows takes for a device.
_RESERVED = re.compile(r"(?:aside|checkpoints|manifest\.json|run\.json|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?)", re.I)


def check_template(template: str) -> None:
    """Raises ValueError for a template by which no checkpoint could be named."""
    try:
        for _, field, form in parsed(template):
            if field is not None:
                _check_field(field, form)
    except ValueError as error:
        raise ValueError(f"checkpoint.name is {template!r}: {error}") from None
    if not template:
        raise ValueError("checkpoint.name is ''; wanted a text such as step-{step:09d}")


def metrics_in(template: str) -> list[str]:
    """The metrics that a template names. It has been checked."""
    return [field for _, field, _ in parsed(template) if field is not None and field not in COUNTERS]


def name_of(
    template: str, progress: Progress, metrics: Mapping[str, float], *, key: str = "checkpoint.name"
) -> tuple[str, list[str]]:
    """The name for a checkpoint, and a line for each field without a value: `none`, `nan` or `inf` stands there.

    The lines are the same whenever the same is missing, so that each can be told once. `template` has been checked;
    `key` is what the lines call it.
    """
    parts, warnings = [], []
    counters = {counter: getattr(progress, counter) for counter in COUNTERS}
    for literal, field, form in parsed(template):
        parts.append(literal)
        if field is None:
            continue
        value = counters[field] if field in counters else metrics.get(field)
        if value is not None and math.isfinite(value):
            parts.append(format(value, form))
            continue
        word = "none" if value is None else str(value)
        what = "was not measured at the step of a checkpoint" if value is None else f"is {word}"
        warnings.append(f"{key} is {template!r} and {field} {what}; {word!r} stands in its name")
        parts.append(word)
    return safe_name("".join(parts)), warnings


def safe_name(text: str) -> str:
    """`text` as the plain name of a directory on any system: not hidden, nothing that leads elsewhere, not too long."""
    name = "".join(char if char.isprintable() else "-" for char in _UNSAFE.sub("-", text))
    name = name.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")
    # Hidden files begin with a dot, options of commands with a dash.
    visible = name.lstrip(". -")
    name = "_" * (len(name) - len(visible)) + visible
    if not name:
        return "checkpoint"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def parsed(template: str) -> Iterator[tuple[str, str | None, str]]:
    """Texts and fields by turns, each field with its format. Raises ValueError for what is no template."""
    for literal, field, form, conversion in Formatter().parse(template):
        if conversion is not None:
            raise ValueError(f"{{{field}!{conversion}}} converts; wanted a field and a format, such as {{step:09d}}")
        yield literal, field, form or ""


def _check_field(field: str, form: str) -> None:
    if field not in COUNTERS and not _METRIC.fullmatch(field):
        import difflib

        near = difflib.get_close_matches(field.lower(), _EXAMPLES, n=1, cutoff=0.7)
        raise ValueError(
            f"{{{field}}} is neither a counter nor a metric; wanted {', '.join(COUNTERS)}, loss, lr, or a score such "
            "as val_loss" + (f"; did you mean {{{near[0]}}}?" if near else "")
        )
    check_format(field, form)


def check_format(field: str, form: str) -> None:
    """Raise ValueError for a format that no value of this field can have, or that makes much out of little."""
    example = 1 if field in COUNTERS else 0.5
    try:
        if not _FORMAT.fullmatch(form):
            raise ValueError
        format(example, form)
    except ValueError:
        wanted = "09d" if field in COUNTERS else ".4f"
        raise ValueError(
            f"{{{field}:{form}}} has a format that does not suit it; wanted one such as {{{field}:{wanted}}}"
        ) from None
