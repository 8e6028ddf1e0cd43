"""A configuration-driven experiment runner for PyTorch.

    runner.run(["optimizer.lr=3e-4"])     carry out a run
    runner.load("outputs/...")            rebuild a trained model from its checkpoint
    runner.restore("outputs/...", ...)    load a checkpoint into a training loop of one's own
    runner.Checkpoint.open("outputs/...") look into a checkpoint
    runner.Data(train, validation, test)  what a data target returns

    @runner.save_load()                   a module class that saves and loads itself
    runner.NNHandler(Net, ...)            a model with its training, and its files
    runner.ModelContainer()               a model, its optimizer and scheduler in one file

Names are imported when they are first used: `import runner` alone costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.checkpoint.handle import Checkpoint as Checkpoint
    from runner.data.data import Data as Data
    from runner.doors.container import ModelContainer as ModelContainer
    from runner.doors.decorator import save_load as save_load
    from runner.doors.handler import NNHandler as NNHandler
    from runner.errors import CheckpointError as CheckpointError
    from runner.errors import ConfigError as ConfigError
    from runner.errors import DamagedError as DamagedError
    from runner.errors import DataError as DataError
    from runner.errors import ExistsError as ExistsError
    from runner.errors import FormatError as FormatError
    from runner.errors import InitializationError as InitializationError
    from runner.errors import LockedError as LockedError
    from runner.errors import MismatchError as MismatchError
    from runner.errors import MissingError as MissingError
    from runner.errors import ResumeError as ResumeError
    from runner.errors import RunnerError as RunnerError
    from runner.errors import SaveError as SaveError
    from runner.errors import TrainingError as TrainingError
    from runner.errors import TrustError as TrustError
    from runner.runs.load import load as load
    from runner.runs.own_loop import Restored as Restored
    from runner.runs.own_loop import restore as restore
    from runner.runs.run import Run as Run
    from runner.runs.run import run as run

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "runner.checkpoint.handle",
    "Data": "runner.data.data",
    "load": "runner.runs.load",
    "ModelContainer": "runner.doors.container",
    "NNHandler": "runner.doors.handler",
    "Restored": "runner.runs.own_loop",
    "restore": "runner.runs.own_loop",
    "Run": "runner.runs.run",
    "run": "runner.runs.run",
    "save_load": "runner.doors.decorator",
}
_ERRORS = (
    "CheckpointError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "ExistsError",
    "FormatError",
    "InitializationError",
    "LockedError",
    "MismatchError",
    "MissingError",
    "ResumeError",
    "RunnerError",
    "SaveError",
    "TrainingError",
    "TrustError",
)
_HOMES |= dict.fromkeys(_ERRORS, "runner.errors")

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'runner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
