"""Copies from a CUDA device beside the training: what is saved is the state at the call, and no number changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.checkpoint.device_copy import DeviceCopy
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.saving import Saving
from runner.checkpoint.store import CheckpointStore
from runner.records import Progress

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Training:
    """A network with buffers that forward changes, and its optimizer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(512, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.data = torch.randn(64, 512, device="cuda")

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.data).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        moments = {str(i): self.optimizer.state[p] for i, p in enumerate(self.model.parameters())}
        return {"model": self.model.state_dict(), "optimizer": moments}

    def save(self, store: CheckpointStore, step: int) -> Saving:
        return store.save(
            self.state(),
            progress=Progress(step=step),
            reasons=(),
            metrics={},
            documents={},
            facts={},
            parameters={name for name, _ in self.model.named_parameters()},
        )


def copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return tree.detach().cpu().clone() if isinstance(tree, Tensor) else tree


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", run="r", keep=KeepPolicy(None, None, None, None), monitor=None)


def test_without_tensors_there_is_nothing_to_wait_for() -> None:
    copying = DeviceCopy()
    assert not copying and copying.finished
    copying.finish()
    copying.hold_updates()


@on_cuda
def test_steps_that_follow_at_once_do_not_change_what_is_saved(
    store: CheckpointStore, same: Callable[[Any, Any], bool]
) -> None:
    training = Training()
    training.step()
    for step in range(1, 6):
        training.step()
        expected = copied(training.state())
        saving = training.save(store, step)
        hook = training.optimizer.register_step_pre_hook(lambda *_, saving=saving: saving.hold_updates())
        for _ in range(5):
            training.step()
        hook.remove()
        state = Checkpoint.open(saving.wait().path).state()
        assert saving.staged
        assert same({key: dict(state["model"])[key] for key in state["model"]}, dict(expected["model"]))
        assert same(state["optimizer"], expected["optimizer"])


@on_cuda
def test_saving_beside_the_training_changes_none_of_its_numbers(store: CheckpointStore) -> None:
    plain, saved = Training(), Training()
    for training in (plain, saved):
        for step in range(1, 20):
            training.step()
            if training is saved and step % 3 == 0:
                saving = training.save(store, step)
                training.optimizer.register_step_pre_hook(lambda *_, saving=saving: saving.hold_updates())
    store.wait()
    for one, other in zip(plain.model.state_dict().values(), saved.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@on_cuda
def test_the_memory_for_copies_is_pinned(store: CheckpointStore) -> None:
    training = Training()
    training.step()
    store.prepare(training.state())
    store.wait()
    assert store._arena is not None and store._arena._memory is not None and store._arena._memory.is_pinned()
