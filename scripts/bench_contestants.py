"""All who save in the checkpoint benchmark, by name: ours, two references, and the peers in both forms."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bench_peers as peers
from bench_names import COPY, OURS, OURS_BLOCKING, SYNCED, WRITE, WRITE_BESIDE
from bench_training import Ongoing, Saver, Training, done, finish

WRITE_BYTES = 4 * 1024 * 1024
DOCUMENTS = {"config.yaml": b"seed: 0\n", "config.json": b'{"config": {"seed": 0}, "overrides": []}'}


class Underway:
    """A save of ours. Asked between two steps, so that no thread of the benchmark disturbs the one that writes."""

    def __init__(self, saving: Any, began: float) -> None:
        self._saving, self._began = saving, began

    def done(self) -> bool:
        """Whether nothing goes on any more; what the new one replaces has been removed by then, too."""
        return bool(self._saving.done)

    def result(self) -> float:
        """The instant when it was durable."""
        return float(self._began + self._saving.wait().stats.seconds)


class Ours(Saver):
    """The store that the runner saves with. It keeps one checkpoint, so it also removes the one before."""

    def __init__(self, training: Training, root: Path) -> None:
        from runner.checkpoint.policies import KeepPolicy
        from runner.checkpoint.store import CheckpointStore

        self.training = training
        self.store = CheckpointStore(
            root,
            run="bench",
            keep=KeepPolicy(last=1, best=None, every_steps=None, every_hours=None),
            monitor=None,
        )
        self._step = 0

    def save(self, place: Path) -> Ongoing:
        from runner.training.optimizer_state import capture

        # As the runner makes it: by the parameters' names.
        training = self.training
        state = {"model": training.model.state_dict(), "optimizer": capture(training.optimizer, training.model)}
        began = time.perf_counter()
        return Underway(self._begin(state), began)

    def load(self, place: Path) -> Any:
        from runner import Checkpoint

        return Checkpoint.open(self.where(place)).state()

    def where(self, place: Path) -> Path:
        return self.store.directory / f"step-{self._step:09d}"

    def rest(self) -> None:
        self.store.wait()

    def close(self) -> None:
        self.store.wait()
        self.store.close()

    def _begin(self, state: dict[str, Any]) -> Any:
        from runner.records import Progress

        self._step += 1
        return self.store.save(
            state,
            progress=Progress(step=self._step),
            reasons=("every_steps",),
            metrics={},
            documents=DOCUMENTS,
            facts={},
        )


class OursBlocking(Ours):
    """The same with `checkpoint.asynchronous=false`."""

    def save(self, place: Path) -> Ongoing:
        saving = super().save(place)
        saving.result()
        return saving


class MemoryCopy(Saver):
    """As many bytes in one piece, between two buffers whose pages are there: what no copy of the state can undercut."""

    def __init__(self, training: Training, root: Path) -> None:
        self.source, self.target = _buffers(sum(tensor.nbytes for tensor in training.tensors().values()))

    def save(self, place: Path) -> "Future[float]":
        self.target.copy_(self.source)
        return done()


@lru_cache(maxsize=1)
def _buffers(size: int) -> tuple[Tensor, Tensor]:
    return torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)


class PlainWrite(MemoryCopy):
    """The same bytes in one file: space reserved, written in pieces of 4 MiB, and synced."""

    def save(self, place: Path) -> "Future[float]":
        self._write(place)
        return done()

    def _write(self, place: Path) -> None:
        place.mkdir(parents=True)
        view = memoryview(self.source.numpy())
        descriptor = os.open(place / "bytes", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.posix_fallocate(descriptor, 0, len(view))
            while view:
                view = view[os.write(descriptor, view[:WRITE_BYTES]) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


class PlainWriteBeside(PlainWrite):
    """The same in a thread, beside the steps: what writing costs them whoever does it."""

    def save(self, place: Path) -> "Future[float]":
        complete: Future[float] = Future()
        threading.Thread(target=finish, args=(complete, lambda: self._write(place))).start()
        return complete


_OWN: dict[str, Callable[[Training, Path], Saver]] = {
    OURS: Ours,
    OURS_BLOCKING: OursBlocking,
    COPY: MemoryCopy,
    WRITE: PlainWrite,
    WRITE_BESIDE: PlainWriteBeside,
}
_PEERS: dict[str, type[peers.Peer]] = {
    "torch.save": peers.TorchSave,
    "safetensors": peers.Safetensors,
    "dcp": peers.Distributed,
    "dcp async": peers.DistributedAsync,
    "dcp async, kept": peers.DistributedKept,
    "lightning": peers.Lightning,
    "lightning async": peers.LightningAsync,
    "ignite": peers.Ignite,
    "accelerate": peers.Accelerate,
}


def make(name: str, training: Training, root: Path) -> Saver:
    """The contestant of this name, at work on `training` in the directory `root`."""
    if name in _OWN:
        return _OWN[name](training, root)
    kind = _PEERS[name.removesuffix(SYNCED)]
    return kind(training, root, peers.Synced() if name.endswith(SYNCED) else peers.Native())
