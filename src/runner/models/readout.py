"""A linear layer that can be trained by gradients, or solved for directly by ridge regression in float64."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError
from runner.models.drawing import Drawing

_SUMS = ("count", "mean_features", "mean_targets", "gram", "cross")


class Readout(nn.Module):
    """y = W features + b, where features are (..., D) and y is (..., O).

    `gather` takes pairs of features and targets, as many and in as many parts as one likes, and `solve` sets W and b
    to those that minimise the sum of squared errors over all of them plus alpha times the sum of W's squares. The
    intercept b is not penalised. What is gathered stands in float64 buffers that no state dict holds.
    """

    fitted: Tensor
    """Whether `solve` has set the weights: a () bool buffer, so that it is saved with them."""
    count: Tensor | None
    mean_features: Tensor
    mean_targets: Tensor
    gram: Tensor
    cross: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool, trainable: bool, drawing: Drawing) -> None:
        """Weights are drawn as torch.nn.Linear draws them, and learn by gradients only if `trainable`."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(drawing.uniform((out_features, in_features), bound), requires_grad=trainable)
        self.bias = nn.Parameter(drawing.uniform((out_features,), bound), requires_grad=trainable) if bias else None
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        for name in _SUMS:
            self.register_buffer(name, None, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight, self.bias)

    @torch.no_grad()
    def gather(self, features: Tensor, targets: Tensor) -> None:
        """Add pairs, features (..., D) and targets (..., O), to those that `solve` will fit."""
        x, y = self._pairs(features, targets)
        if not len(x):
            return
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        gram, cross = x.T @ x, x.T @ y
        added = len(x)
        if self.count is None:
            self.count = torch.tensor(float(added), dtype=torch.float64, device=x.device)
            self.mean_features, self.mean_targets, self.gram, self.cross = mean_x, mean_y, gram, cross
            return
        # Sums around the means so far, joined to those around the new ones (Chan, Golub, LeVeque 1983): sums of
        # squares around zero would lose the digits that the means have in common.
        both = self.count + added
        shift_x, shift_y = mean_x - self.mean_features, mean_y - self.mean_targets
        weight = self.count * added / both
        self.gram = self.gram + gram + weight * torch.outer(shift_x, shift_x)
        self.cross = self.cross + cross + weight * torch.outer(shift_x, shift_y)
        self.mean_features = self.mean_features + shift_x * (added / both)
        self.mean_targets = self.mean_targets + shift_y * (added / both)
        self.count = both

    @torch.no_grad()
    def solve(self, alpha: float) -> None:
        """Set the weights to the ridge regression of what was gathered, which stays for another `alpha`.

        Raises ConfigError for an alpha that is no penalty, RuntimeError if nothing was gathered.
        """
        if not 0.0 <= alpha < math.inf:
            raise ConfigError(f"alpha is {alpha!r}; wanted a finite number of 0 or more")
        if self.count is None:
            raise RuntimeError("the readout has nothing to solve; call gather(features, targets) before solve(alpha)")
        gram, cross, mean_x, mean_y = self.gram, self.cross, self.mean_features, self.mean_targets
        if self.bias is None:
            gram = gram + self.count * torch.outer(mean_x, mean_x)
            cross = cross + self.count * torch.outer(mean_x, mean_y)
        weight = ridge(gram, cross, alpha).T
        self.weight.copy_(weight)
        if self.bias is not None:
            self.bias.copy_(mean_y - weight @ mean_x)
        self.fitted.fill_(True)

    def clear(self) -> None:
        """Forget what was gathered."""
        for name in _SUMS:
            setattr(self, name, None)

    def _pairs(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (*features.shape[:-1], self.out_features)
        if features.ndim < 1 or features.shape[-1] != self.in_features or tuple(targets.shape) != wanted:
            raise ValueError(
                f"features are {tuple(features.shape)} and targets {tuple(targets.shape)}; wanted "
                f"(..., {self.in_features}) and, with the same dimensions before, (..., {self.out_features})"
            )
        x = features.detach().to(_summed_on(features.device)).reshape(-1, self.in_features).to(torch.float64)
        y = targets.detach().reshape(-1, self.out_features).to(x)
        return x, y

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}weight" in state_dict:
            # Weights of another program do not say it.
            state_dict.setdefault(f"{prefix}fitted", torch.zeros((), dtype=torch.bool))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Readout":
        # float() and to(dtype) would take the sums with them, and half of their digits.
        sums: dict[str, Any] = {name: getattr(self, name) for name in _SUMS}
        for name in _SUMS:
            self._buffers[name] = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in sums.items():
            self._buffers[name] = None if value is None else value.to(_summed_on(self.weight.device))
        return self


def _summed_on(device: torch.device) -> torch.device:
    # Apple's accelerators have no float64.
    return torch.device("cpu") if device.type == "mps" else device


def ridge(gram: Tensor, cross: Tensor, alpha: float) -> Tensor:
    """The w that solves (gram + alpha I) w = cross; where that has no single solution, the shortest of the best.

    gram: (D, D) symmetric, no negative eigenvalue. cross: (D, O).
    """
    if not (gram.isfinite().all() and cross.isfinite().all()):
        raise ValueError("the gathered features or targets hold NaN or infinity; wanted finite numbers to fit to")
    if alpha > 0.0:
        penalised = gram + alpha * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(penalised)
        if not failed:
            return torch.cholesky_solve(cross, factor)
    # Rounding has made eigenvalues of about zero negative, or they are zero and there is no penalty.
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0.0)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values.max()
    inverse = torch.where(kept, 1.0 / (values + alpha).where(kept, 1.0), 0.0)
    weights: Tensor = vectors @ (inverse[:, None] * (vectors.T @ cross))
    return weights
