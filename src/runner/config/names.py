"""The nearest right name and the typed form of a value, for messages about wrong ones."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None. Case does not count."""
    folded = {candidate.lower(): candidate for candidate in sorted(known, reverse=True)}
    close = get_close_matches(name.lower(), folded, n=1)
    if close:
        return folded[close[0]]
    # `epoch` is meant for `max_epochs`, `dim` for `hidden_dim`: what holds it whole, the shortest first.
    holding = sorted((one for one in folded if len(name) > 2 and name.lower() in one), key=lambda one: (len(one), one))
    return folded[holding[0]] if holding else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """What stands behind a message about `name`: a question if a known name is near, else a list of what is known."""
    names = sorted(set(known))
    near = nearest(name, names)
    if near is not None:
        return f"; did you mean {prefix + near!r}?"
    if not names:
        return ""
    return f"; there is {listed(names)}"


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names with commas between them, the first `most` of them."""
    every = list(names)
    return ", ".join(every[:most]) + (", ..." if len(every) > most else "")


def shown(value: Any) -> str:
    """A value as one would type it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)
