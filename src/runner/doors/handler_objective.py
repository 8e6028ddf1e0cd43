"""What a handler makes small: the loss between outputs and targets, and the metrics beside it, also while it trains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from runner.doors.handler_settings import Loss
from runner.doors.handler_world import summed
from runner.errors import ConfigError, ResumeError
from runner.records import World
from runner.training.objective import Metric, Sum, num_samples
from runner.training.optimizer_state import qualified_name


class PairObjective:
    """The loss between `model(inputs)` and targets, for batches (inputs, targets); with more, all but the last go in.

    A metric is a function of (outputs, targets) that gives the mean over them. While it trains, the metrics are summed
    up over the epoch; these sums are state, so that an epoch may be gone on with in another process.
    """

    def __init__(self, loss: Loss, metrics: Mapping[str, Callable[..., Any]]) -> None:
        self._loss = loss
        self.metrics: Mapping[str, Metric] = {name: _Summed(name, function) for name, function in metrics.items()}
        self._sums: dict[str, list[Any]] = {}
        self.clear()

    def count(self, batch: Any) -> int:
        return num_samples(batch)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        *inputs, targets = _pair(batch)
        outputs = model(*inputs)
        loss = self._loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ConfigError(f"set_loss_fn: the loss gave {what}; wanted the mean over the samples, as a 0-dim tensor")
        if model.training and self.metrics:
            self._add(outputs, batch)
        return loss, outputs

    def clear(self) -> None:
        self._sums = {name: [0.0, 0.0] for name in self.metrics}

    def means(self, world: World, device: torch.device) -> dict[str, float]:
        """The metrics over the samples since the epoch began, those of all processes; NaN where there was none."""
        flat = summed(world, [float(value) for pair in self._sums.values() for value in pair], device)
        pairs = zip(self._sums, flat[::2], flat[1::2], strict=True)
        return {name: total / count if count else float("nan") for name, total, count in pairs}

    def state_dict(self) -> dict[str, Any]:
        sums = {name: [float(total), float(count)] for name, (total, count) in self._sums.items()}
        own = self._loss.function
        kept = {"class": qualified_name(own), "state": own.state_dict()} if _remembers(own) else None
        return {"sums": sums, "loss": kept}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._sums |= {name: list(pair) for name, pair in state["sums"].items() if name in self._sums}
        own, saved = self._loss.function, state["loss"]
        if saved is None or not _remembers(own) or saved["class"] != qualified_name(own):
            return
        try:
            own.load_state_dict(saved["state"])
        except RuntimeError as error:
            raise ResumeError(
                f"set_loss_fn: the state of the loss that was saved does not fit {type(own).__name__} "
                f"({' '.join(str(error).split())}); set the loss that it was trained with"
            ) from error

    def _add(self, outputs: Any, batch: Any) -> None:
        with torch.no_grad():
            for name, metric in self.metrics.items():
                total, count = metric(outputs, batch)
                self._sums[name][0] += total.detach() if isinstance(total, Tensor) else total
                self._sums[name][1] += count


class _Summed:
    """A function that gives a mean, as a metric that adds up."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function

    def __call__(self, outputs: Any, batch: Any) -> Sum:
        *_, targets = _pair(batch)
        count, value = num_samples(batch), self.function(outputs, targets)
        numbers = value.numel() if isinstance(value, Tensor) else int(hasattr(value, "__float__"))
        if numbers != 1:
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"add_metric({self.name!r}): the function gave {what}; wanted the mean over the samples, as one number"
            )
        if isinstance(value, Tensor) and value.device.type != "mps":
            value = value.double()
        return value * count, count


def _remembers(loss: Any) -> TypeGuard[nn.Module]:
    """Whether a loss may change while it is used. What torch's own keep are settings, which are set with them."""
    return isinstance(loss, nn.Module) and not type(loss).__module__.startswith("torch.")


def _pair(batch: Any) -> Sequence[Any]:
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return batch
    raise ConfigError(
        f"the loader gives a {type(batch).__name__} as a batch; wanted (inputs, targets); "
        "let the data set return such pairs, or give collate_fn=..."
    )
