"""The models of the built-in experiments. Echo state networks are made with the names that are exported here."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.models.esn import ESNModel as ESNModel
    from runner.models.esn import classic_esn as classic_esn
    from runner.models.esn import headless_esn as headless_esn
    from runner.models.esn import linear_esn as linear_esn
    from runner.models.esn import ott_esn as ott_esn

__all__ = ["ESNModel", "classic_esn", "headless_esn", "linear_esn", "ott_esn"]


def __getattr__(name: str) -> Any:
    # Imported when they are first used: a config that names another model pays nothing for them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("runner.models.esn"), name)


def __dir__() -> list[str]:
    return __all__
