"""A readout that is solved for, in place of descended to: ridge regression as an optimizer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from runner.errors import TrainingError


class Ridge(Optimizer):
    """Each step solves the model's readout for all that it has gathered: the minimum of squared error and penalty.

    What was gathered are sums in the readout's transient buffers, which a checkpoint holds; this itself has no state.
    It wants an objective that gathers, as `objective=readout_fit`. There is no learning rate: `lr` is 1 and has to
    stay so.
    """

    one_pass = True
    """A second pass over the data would gather the same again, so that a config that asks for one is refused."""

    def __init__(self, model: nn.Module, *, alpha: float) -> None:
        """`alpha`: the penalty, times the sum of the squared weights. Raises ValueError if the model does not fit."""
        if not alpha >= 0:
            raise ValueError(f"optimizer.alpha is {alpha}; wanted 0 or more")
        readout: Any = getattr(model, "readout", None)
        if not callable(getattr(readout, "solve", None)):
            raise ValueError(
                f"{type(model).__name__} has no readout that can be solved for; wanted a model such as "
                "runner.models.ott_esn, or another optimizer, as optimizer=adamw"
            )
        self.readout = readout
        solved = {id(parameter) for parameter in readout.parameters()}
        others = [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in solved]
        if others:
            raise ValueError(
                f"only the readout is solved for, and {', '.join(others)} would stay untrained; freeze what is not the "
                "readout, or use another optimizer, as optimizer=adamw"
            )
        super().__init__(readout.parameters(), {"lr": 1.0, "alpha": alpha})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Raises TrainingError if nothing was gathered, a scheduler has changed `lr`, or others train the model too."""
        (group,) = self.param_groups
        if group["lr"] != 1.0:
            raise TrainingError(
                f"the learning rate is {group['lr']:g}, and a readout that is solved for has none to change; "
                "use scheduler=constant with scheduler.warmup_steps=0"
            )
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise TrainingError(
                f"{dist.get_world_size()} processes train together, and each would solve for the share of the data "
                "that it has gathered; use one process, or another optimizer, as optimizer=adamw"
            )
        if self.readout.count is None:
            raise TrainingError(
                "optimizer=ridge has nothing to solve for, as the objective gathers nothing; use objective=readout_fit"
            )
        self.readout.solve(group["alpha"])
