"""The models of the built-in experiments. Echo state networks are made with the names that are exported here."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.models.esn import ESNModel as ESNModel
    from runner.models.esn_kinds import classic_esn as classic_esn
    from runner.models.esn_kinds import headless_esn as headless_esn
    from runner.models.esn_kinds import linear_esn as linear_esn
    from runner.models.esn_kinds import ott_esn as ott_esn

_KINDS = ("classic_esn", "headless_esn", "linear_esn", "ott_esn")
_HOMES = {"ESNModel": "runner.models.esn", **dict.fromkeys(_KINDS, "runner.models.esn_kinds")}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported when they are first used: a config that names another model pays nothing for them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
