"""What the tests of the handler train: small networks, data, and how two handlers are found equal."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

from runner import NNHandler


class Net(nn.Module):
    """With dropout and batch statistics: nothing of a training may be lost without being seen."""

    def __init__(self, width: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(self.norm(self.first(x)).relu()))


class Activated(nn.Module):
    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.layer(x))


class Renamed(Net):
    """The same tensors, one of them under another name."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.head = self.last
        del self.last


class Around(nn.Module):
    """What compilation puts around a module, without compiling."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x)


class Wrapping(Net):
    def __init__(self, width: int = 8, dropout: float = 0.3) -> None:
        super().__init__(width, dropout)
        self.first = Around(self.first)


class Ambiguous(nn.Linear):
    """Two tensors that are called alike once `module.` is taken off."""

    def __init__(self) -> None:
        super().__init__(2, 2, bias=False)
        self.module = nn.Linear(2, 2, bias=False)


class Unlike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 2)


class KeepsFunction(StepLR):
    """A scheduler of the user's own, with a function among its attributes."""

    def __init__(self, optimizer: Any) -> None:
        self.rule = lambda epoch: epoch
        super().__init__(optimizer, 1, gamma=0.5)


def data(seed: int = 0, count: int = 26) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def give_data(handler: NNHandler, **arguments: Any) -> None:
    """What no file holds: 26 samples in batches of 8, which make 4 steps an epoch."""
    handler.set_train_loader(data(), **{"batch_size": 8, "shuffle": True, **arguments})
    handler.set_val_loader(data(1), batch_size=16)
    handler.add_metric("accuracy", accuracy)


def made(*scheduler: Any, lr: float = 0.05, **arguments: Any) -> NNHandler:
    """A handler that is ready to train, the same whenever it is made; a scheduler's class, and its arguments."""
    torch.manual_seed(0)
    handler = NNHandler(Net)
    handler.set_optimizer(torch.optim.AdamW, lr=lr)
    if scheduler:
        handler.set_scheduler(*scheduler, **arguments)
    handler.set_loss_fn(nn.CrossEntropyLoss(label_smoothing=0.1))
    give_data(handler)
    return handler


def train(handler: NNHandler, epochs: int, **arguments: Any) -> NNHandler:
    handler.train(epochs, progress_bar=False, **arguments)
    return handler


def assert_equal(one: NNHandler, other: NNHandler) -> None:
    """Weights, averaged weights, what the optimizer keeps, rates and history: bit for bit."""
    _equal("model", one.model.state_dict(), other.model.state_dict())
    _equal("optimizer", one.optimizer.state_dict(), other.optimizer.state_dict())
    averaged = [None if h.averaged_model is None else h.averaged_model.state_dict() for h in (one, other)]
    _equal("averaged", *averaged)
    _equal("history", one.history, other.history)
    assert one.best == other.best


def _equal(where: str, one: Any, other: Any) -> None:
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            _equal(f"{where}.{key}", one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            _equal(f"{where}.{i}", *pair)
    else:
        assert one == other, where
