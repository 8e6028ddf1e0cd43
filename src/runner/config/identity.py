"""What a run is: the values that decide what it computes, and the name that follows from them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import xxhash

from runner.config.interpolation import derived, replaced

PARTS = ("model", "data", "objective", "optimizer", "scheduler", "seed", "trainer")
BEGINNING = ("init_from", "init")
"""What says with which weights a run begins; it counts where the first of them is set."""
OUTSIDE = {"trainer": ("max_epochs", "max_steps", "max_time", "log_every")}
"""The keys of a part that do not say what a run is: how long it goes on, and how often it reports."""
_OUTSIDE_VALUE = re.compile(r"\btrainer\.(?:max_epochs|max_steps|max_time)\b|\$\{\s*(?:now|hydra)\s*:")


def identity(written: Mapping[str, Any], composed: Mapping[str, Any]) -> str:
    """The name of what a config computes: the same for a longer run, another device, another place.

    `written` is the resolved config in the form in which it is saved, `composed` the unresolved one. A value that is
    interpolated from a length, the time of the launch or Hydra's own node, as the run directory is, counts as the text
    of its interpolation: no two launches would be the same otherwise.
    """
    told = replaced(written, derived(composed, lambda text: _OUTSIDE_VALUE.search(text) is not None))
    parts = {
        part: {key: value for key, value in told[part].items() if key not in OUTSIDE[part]}
        if part in OUTSIDE and isinstance(told[part], Mapping)
        else told[part]
        for part in PARTS
        if part in told
    }
    if told.get(BEGINNING[0]) is not None:
        parts |= {part: told[part] for part in BEGINNING if part in told}
    # Keys are sorted, so that the order in which files were merged does not count.
    text = json.dumps(_text_keys(parts), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def _text_keys(value: Any) -> Any:
    """JSON sorts keys of one type only, and turns 1 into "1"; the type is kept apart."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else f"({type(key).__name__}){key}": _text_keys(v) for key, v in value.items()
        }
    return [_text_keys(inner) for inner in value] if isinstance(value, list) else value
