"""`ModelContainer`: makes a model, its optimizer and its scheduler, and saves them with what they were made with.

    container = ModelContainer()
    model, optimizer, scheduler = container.initialize(Net, {"width": 8}, torch.optim.Adam, {"lr": 1e-3})
    path = container.save("checkpoints", "tutorial", loss=0.55)
    metadata, objects = ModelContainer().load(path)

The file is a checkpoint like any other: `runner.load`, `runner.restore` and `runs show` open it. Besides, it holds

    metadata.json    what the objects were made with, when they were saved, and what was handed to `save`

It is no checkpoint of a training: random generators and a position in the data are not in it.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runner.checkpoint.single import save_file
from runner.config.calls import encoded
from runner.config.nodes import device_of
from runner.doors.container_calls import WORDS, Made, ModelObjects, initialized
from runner.doors.container_files import DOOR, rebuilt
from runner.doors.container_metadata import as_document, handed_over, metadata_of
from runner.doors.not_stored import tell_lost
from runner.doors.rebuilding import Wishes, check_parameters, under_own_names
from runner.errors import ConfigError, ExistsError, InitializationError
from runner.runs.handed import documents_for, facts_here, remember
from runner.runs.saved import METADATA, read_saved
from runner.runs.versions import compare_versions
from runner.training import optimizer_state
from runner.training.module_state import transient
from runner.training.schedule import TorchScheduler


class ModelContainer:
    """Makes a model with its optimizer and scheduler, saves them and loads them. Holds those it made last."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the Unix time for the names of files."""
        self._clock = clock
        self._made: Made | None = None

    def initialize(
        self,
        model_class: type[nn.Module],
        model_kwargs: Mapping[str, Any] | None = None,
        optim_class: Callable[..., Optimizer] | None = None,
        optim_kwargs: Mapping[str, Any] | None = None,
        scheduler_class: Callable[..., LRScheduler] | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
    ) -> ModelObjects:
        """Make the objects, and note what with. The optimizer gets the model's parameters, the scheduler the optimizer.

        In place of the last two classes a function can stand that makes one. Raises InitializationError from what a
        constructor raises, and ConfigError for classes that do not go together; what was held before, still is then.
        """
        classes = {"model": model_class, "optimizer": optim_class, "scheduler": scheduler_class}
        arguments = {"model": model_kwargs, "optimizer": optim_kwargs, "scheduler": scheduler_kwargs}
        made = initialized(classes, arguments)
        self._made = made
        remember(*made.nodes.values())
        return made.objects

    def save(self, folder: str | os.PathLike[str], prefix: str | None = None, **metadata: Any) -> str:
        """Save all objects as `{folder}/{prefix}_checkpoint_{unix seconds}.zip`; the path. The folder is made.

        `metadata` is what else is to be noted, as JSON has it. Nothing is overwritten: of two saves in one second the
        second ends in `_2`. Raises ConfigError for metadata that is not JSON, SaveError where it cannot be written.
        """
        return self._save(folder, prefix, "checkpoint", metadata)

    def save_inference(self, folder: str | os.PathLike[str], prefix: str | None = None, **metadata: Any) -> str:
        """Save the model alone, as `save` does, under `{prefix}_inference_{unix seconds}.zip`."""
        return self._save(folder, prefix, "inference", metadata)

    def load(
        self,
        path: str | os.PathLike[str],
        model_class: type[nn.Module] | None = None,
        optim_class: Callable[..., Optimizer] | None = None,
        scheduler_class: Callable[..., LRScheduler] | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        optim_kwargs: Mapping[str, Any] | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        moved: Mapping[str, Any] | None = None,
        trust: Sequence[str] = (),
        device: str | torch.device = "cpu",
    ) -> tuple[dict[str, Any], ModelObjects]:
        """The metadata of a file, and its objects: made anew, on `device`, with the state that they were saved with.

        No class need be named; one that is given is neither looked for nor imported. Arguments stand in for stored
        ones: those that no file can hold, such as a lambda, have to. `moved` says where a class is now, as in
        `{"old.nets.Net": "new.nets.Net"}`; `trust` names modules whose classes the file may name, beside those that
        this user has used. The model is in training mode, as a new one is.

        Opens the files of the other doors and of runs, too. Raises CheckpointError, TrustError, ConfigError; what was
        held before, still is then.
        """
        saved = read_saved(path)
        classes = {"model": model_class, "optimizer": optim_class, "scheduler": scheduler_class}
        arguments = {"model": model_kwargs or {}, "optimizer": optim_kwargs or {}, "scheduler": scheduler_kwargs or {}}
        wishes = Wishes(arguments, classes, moved or {}, trust)
        made = rebuilt(saved, wishes, device_of(str(device), key="device"))
        compare_versions(saved, type(made.objects.model), stacklevel=2)
        metadata = metadata_of(saved, made)
        self._made = made
        remember(*(one for one in classes.values() if one is not None))
        remember({word: encoded(value) for given in arguments.values() for word, value in given.items()})
        return metadata, made.objects

    def _save(self, folder: str | os.PathLike[str], prefix: str | None, kind: str, metadata: Mapping[str, Any]) -> str:
        if self._made is None:
            raise InitializationError(
                f"{folder}: nothing to save in this container; call initialize(...) or load(...) first"
            )
        made = self._made if kind == "checkpoint" else self._made.model_alone()
        timestamp = int(self._clock())
        name = f"{_checked(prefix)}{kind}_{timestamp}"
        path = Path(folder, f"{name}.zip")
        state = _state_of(made, path, whole=kind == "checkpoint")
        documents = {
            **documents_for({"door": DOOR, **made.nodes}, *(type(one) for one in made.objects if one is not None)),
            METADATA: as_document(made, timestamp, handed_over(metadata)),
        }
        count = 1
        while True:
            try:
                save_file(path, state, documents=documents, facts=facts_here(), overwrite=False)
                _tell_lost(made, path)
                # As the caller wrote the folder; a Path would take the "./" off.
                return os.path.join(folder, path.name)  # noqa: PTH118
            except ExistsError:
                # Saved in the same second, by whomever.
                count += 1
                path = path.with_name(f"{name}_{count}.zip")


def _tell_lost(made: Made, path: Path) -> None:
    for part, node in made.nodes.items():
        word = WORDS[part][1]

        def advice(name: str, word: str = word) -> str:
            return f'pass it when it is loaded: load(path, {word}={{"{name}": ...}})'

        tell_lost(made.objects.model, path, node, advice)


def _checked(prefix: str | None) -> str:
    """What the name of a file begins with."""
    if prefix and (os.sep in prefix or "/" in prefix or "\0" in prefix):
        raise ConfigError(f"prefix is {prefix!r}; wanted the beginning of a file's name; put folders into `folder`")
    return f"{prefix}_" if prefix else ""


def _state_of(made: Made, path: Path, *, whole: bool) -> dict[str, Any]:
    model, optimizer, scheduler = made.objects
    state: dict[str, Any] = {"transient": transient(model)} if whole else {}
    if optimizer is not None:
        check_parameters(optimizer, model, path)
        state["optimizer"] = optimizer_state.capture(optimizer, model)
    if scheduler is not None:
        driven = TorchScheduler(scheduler)
        state["scheduler"] = {"class": driven.kind, "state": driven.state_dict()}
    return under_own_names(state, model, path)
