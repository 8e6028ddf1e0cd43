"""What others would pick to save a training's state, in two forms.

As their users call them, and equalised (`+sync`): into a temporary sibling, every file and directory synced, renamed,
the parent synced, so that what is complete would survive a power cut as ours does.
"""

import logging
import os
from abc import abstractmethod
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from bench_training import Saver, Training, done, finish


class Native:
    """Written where it will stand, and left to the kernel."""

    def begin(self, place: Path) -> Path:
        place.mkdir(parents=True)
        return place

    def end(self, written: Path, place: Path) -> None:
        pass


class Synced(Native):
    """Written beside its place, synced, and renamed."""

    def begin(self, place: Path) -> Path:
        return super().begin(place.with_name(f".tmp-{place.name}"))

    def end(self, written: Path, place: Path) -> None:
        for directory, _, files in os.walk(written, topdown=False):
            for name in files:
                sync(Path(directory, name))
            sync(Path(directory))
        written.rename(place)
        sync(place.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Peer(Saver):
    """One that holds up the training until it has written."""

    def __init__(self, training: Training, root: Path, durability: Native) -> None:
        self.training, self.root, self.durability = training, root, durability

    def save(self, place: Path) -> "Future[float]":
        written = self.durability.begin(place)
        self.write(written)
        self.durability.end(written, place)
        return done()

    @abstractmethod
    def write(self, directory: Path) -> None: ...


class TorchSave(Peer):
    def write(self, directory: Path) -> None:
        torch.save(self.training.state(), directory / "checkpoint.pt")

    def load(self, place: Path) -> Any:
        return torch.load(place / "checkpoint.pt", weights_only=True)


class Safetensors(Peer):
    """The tensors alone: what else the optimizer's state says is lost."""

    def write(self, directory: Path) -> None:
        from safetensors.torch import save_file

        save_file(self.training.tensors(), directory / "checkpoint.safetensors")

    def load(self, place: Path) -> Any:
        from safetensors.torch import load_file

        return load_file(place / "checkpoint.safetensors")


class Distributed(Peer):
    """torch.distributed.checkpoint, in a single process."""

    def write(self, directory: Path) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(self.training.state(), checkpoint_id=directory)

    def load(self, place: Path) -> Any:
        import torch.distributed.checkpoint as dcp

        state = _empty_like(self.training.state())
        dcp.load(state, checkpoint_id=place)
        return state


class DistributedAsync(Distributed):
    """It copies the state while the training waits, and writes while it goes on."""

    def save(self, place: Path) -> "Future[float]":
        written = self.durability.begin(place)
        complete: Future[float] = Future()

        def end(writing: "Future[Any]") -> None:
            finish(complete, lambda: (writing.result(), self.durability.end(written, place)))

        self.begin(written).add_done_callback(end)
        return complete

    def begin(self, directory: Path) -> "Future[Any]":
        import torch.distributed.checkpoint as dcp

        writing: Any = dcp.async_save(self.training.state(), checkpoint_id=directory)
        return writing


class DistributedKept(DistributedAsync):
    """The memory that it copies into is kept for the next save."""

    def __init__(self, training: Training, root: Path, durability: Native) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(training, root, durability)
        # Pinned memory, asynchronous staging and copies that do not block are for accelerators.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def begin(self, directory: Path) -> "Future[Any]":
        import torch.distributed.checkpoint as dcp

        writing: Any = dcp.async_save(self.training.state(), checkpoint_id=directory, async_stager=self._stager)
        return writing

    def close(self) -> None:
        self._stager.close()


class Lightning(Peer):
    """`Trainer.save_checkpoint` of a module that trains in a loop of its own."""

    def __init__(self, training: Training, root: Path, durability: Native) -> None:
        from lightning.pytorch import LightningModule, Trainer

        super().__init__(training, root, durability)

        class Module(LightningModule):
            automatic_optimization = False

            def __init__(self) -> None:
                super().__init__()
                self.model = training.model

            def training_step(self, *_: Any) -> None:
                pass

            def configure_optimizers(self) -> Any:
                return training.optimizer

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=self.plugins(),
        )
        self.trainer.fit(Module(), [torch.zeros(1)])  # It has to have begun before it can save.
        training.model.train()

    def plugins(self) -> list[Any]:
        return []

    def write(self, directory: Path) -> None:
        self.trainer.save_checkpoint(directory / "checkpoint.ckpt")

    def load(self, place: Path) -> Any:
        loaded = self.trainer.strategy.checkpoint_io.load_checkpoint(place / "checkpoint.ckpt", weights_only=True)
        return {"model": loaded["state_dict"], "optimizer": loaded["optimizer_states"]}


class LightningAsync(Lightning):
    """With its AsyncCheckpointIO: one thread writes."""

    def plugins(self) -> list[Any]:
        from lightning.pytorch.plugins.io import AsyncCheckpointIO

        self._writer = AsyncCheckpointIO()
        return [self._writer]

    def save(self, place: Path) -> "Future[float]":
        written = self.durability.begin(place)
        self.write(written)
        complete: Future[float] = Future()

        def end() -> None:
            error = self._writer._error
            if error is not None:
                raise error
            self.durability.end(written, place)

        # It offers no way to learn when it is done; its thread does one thing after the other.
        executor = self._writer._executor
        assert executor is not None
        executor.submit(finish, complete, end)
        return complete

    def close(self) -> None:
        self._writer.teardown()


class Ignite(Peer):
    """Its ModelCheckpoint, called as an engine does."""

    def __init__(self, training: Training, root: Path, durability: Native) -> None:
        from ignite.engine import Engine

        super().__init__(training, root, durability)
        self._engine = Engine(lambda *_: None)

    def write(self, directory: Path) -> None:
        from ignite.handlers import ModelCheckpoint

        handler = ModelCheckpoint(directory, n_saved=1)
        handler(self._engine, {"model": self.training.model, "optimizer": self.training.optimizer})

    def load(self, place: Path) -> Any:
        return torch.load(next(place.glob("*.pt")), weights_only=True)


class Accelerate(Peer):
    """`Accelerator.save_state`."""

    def __init__(self, training: Training, root: Path, durability: Native) -> None:
        from accelerate import Accelerator

        super().__init__(training, root, durability)
        self._accelerator = Accelerator(cpu=True)
        self._accelerator.prepare(training.model, training.optimizer)

    def write(self, directory: Path) -> None:
        self._accelerator.save_state(str(directory))

    def load(self, place: Path) -> Any:
        self._accelerator.load_state(str(place))
        return self.training.state()


def _empty_like(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return torch.empty_like(tree)
    if isinstance(tree, dict):
        return {key: _empty_like(value) for key, value in tree.items()}
    return [_empty_like(value) for value in tree] if isinstance(tree, list) else tree
