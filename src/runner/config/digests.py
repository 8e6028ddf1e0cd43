"""What a config takes from the environment, as digests: a change is noticed, and no value is revealed."""

import re
from hashlib import blake2b

from runner.config.composing import Config
from runner.config.diff import Difference, kind_of
from runner.config.interpolation import Path, derived, dotted, value_at
from runner.config.secrets import is_secret

_ENVIRONMENT = re.compile(r"\$\{\s*(?:oc\.)?env\s*:")
_BYTES = 4
"""Enough to notice another value; too few to find a long one out by trying."""


def from_environment(config: Config) -> dict[Path, str]:
    """The interpolations whose value comes from the environment, with where they stand."""
    return derived(config.composed, lambda text: _ENVIRONMENT.search(text) is not None)


def environment_digests(config: Config) -> dict[str, str]:
    """A digest of each value that comes from the environment, by dotted key. None of what looks like a secret."""
    values = {path: value_at(config.resolved, path, None) for path in from_environment(config)}
    return {
        dotted(path): blake2b(str(value).encode(), digest_size=_BYTES, key=dotted(path).encode()[:64]).hexdigest()
        for path, value in values.items()
        if not is_secret(str(path[-1]), value)
    }


def changed_environment(saved: dict[str, str], config: Config) -> list[Difference]:
    """A difference for each value that comes from the environment, as before, and is another one now."""
    now = environment_digests(config)
    return [
        Difference(dotted(path), text, f"{text}, another value", kind_of(path))
        for path, text in from_environment(config).items()
        if dotted(path) in saved and dotted(path) in now and saved[dotted(path)] != now[dotted(path)]
    ]
