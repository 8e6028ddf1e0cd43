"""What a Python door writes beside the weights: the config, the source of the classes, where it all comes from.

config.json          {"config": {"door": ..., "model": {"_target_": ...}}, "overrides": []}
source.MODULE.py     the user's own modules that the classes stand in, as they are when it is saved
git.diff             how the tree of the current directory differs from its commit, at most 1 MiB
"""

import inspect
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.decoding import names_in
from runner.config.encoding import target_of
from runner.config.secrets import redact
from runner.config.sharing import numbered
from runner.runs import provenance
from runner.runs.saved import SOURCE
from runner.runs.source_code import LARGEST_SOURCE, is_own
from runner.trust_memory import TrustMemory

_NAME_LIMIT = 90


def documents_for(config: Mapping[str, Any], *classes: type) -> dict[str, bytes]:
    """The documents of a file that a door writes. `config` holds nodes as `call_of` gives them."""
    text = json.dumps({"config": redact(numbered(config)), "overrides": []}, ensure_ascii=False, allow_nan=False)
    documents = {"config.json": text.encode("utf-8", "surrogatepass")}
    for cls in classes:
        for base in cls.__mro__:
            source = _source_of(base)
            name = f"{SOURCE}{base.__module__}.py"
            if source is not None and len(name) <= _NAME_LIMIT and name.isascii():
                documents.setdefault(name, source)
    diff = _git()[1]
    return documents | ({"git.diff": diff} if diff else {})


def facts_here() -> dict[str, Any]:
    """Versions, host and commit, for a manifest."""
    return dict(_git()[0])


def remember(*handed: Any) -> None:
    """Note classes, functions and calls as this user's own: he has handed them to a door, so files may name them.

    Of a call, which is the node that `call_of` gives, also what stands in its arguments.
    """
    targets = []
    for one in handed:
        if isinstance(one, Mapping):
            targets += [name for _, name in names_in(one)] + ([one["_target_"]] if "_target_" in one else [])
        else:
            targets.append(target_of(one))
    TrustMemory().remember(targets)


@cache
def _git() -> tuple[dict[str, Any], bytes]:
    """The facts and the diff of the process's first save: what runs is what was imported, not what is edited since."""
    return provenance.software(), provenance.git_diff(Path.cwd())


@cache
def _source_of(cls: type) -> bytes | None:
    """The text of the module that a class of the user's own stands in; of the class alone in a notebook."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is not None:
        path = Path(file)
        if not is_own(path):
            return None
        try:
            return path.read_bytes() if path.stat().st_size <= LARGEST_SOURCE else None
        except OSError:
            # No longer to be read: that is no reason not to save.
            return None
    if cls.__module__ != "__main__":
        return None
    try:
        return inspect.getsource(cls).encode("utf-8", "surrogatepass")
    except (OSError, TypeError):
        return None
