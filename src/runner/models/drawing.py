"""Random weights: drawn in float64 on the CPU, so that a seed gives the same on every device and in every dtype."""

import torch
from torch import Tensor

from runner.errors import ConfigError

_TRIES = 20
_NO_RADIUS = 1e-6


class Drawing:
    """Draws the weights of one model, in the order in which it is asked.

    With a seed from a generator of its own, so that torch's is left as it is; without, from torch's. Results are on
    torch's default device; nothing is drawn for "meta".
    """

    def __init__(self, seed: int | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
        self._device = torch.get_default_device()

    def uniform(self, shape: tuple[int, ...], bound: float) -> Tensor:
        """From U(-bound, bound)."""
        if self._device.type == "meta":
            return torch.empty(shape, dtype=self.dtype)
        return self._placed(bound * self._between_minus_one_and_one(shape))

    def recurrent(self, size: int, *, spectral_radius: float, connectivity: float) -> Tensor:
        """A square matrix of that spectral radius, each entry of which is other than zero with that probability.

        Raises ConfigError if so few entries are that there is no cycle, which every radius above zero needs.
        """
        if self._device.type == "meta":
            return torch.empty((size, size), dtype=self.dtype)
        if spectral_radius == 0.0:
            return torch.zeros((size, size), dtype=self.dtype)
        for _ in range(_TRIES):
            matrix = self._between_minus_one_and_one((size, size))
            if connectivity < 1.0:
                matrix *= self._between_zero_and_one((size, size)) < connectivity
            radius = float(torch.linalg.eigvals(matrix).abs().max())
            if radius > _NO_RADIUS:
                return self._placed(matrix * (spectral_radius / radius))
        raise ConfigError(
            f"model.connectivity is {connectivity}: of {size} x {size} recurrent weights so few are not zero that no "
            "spectral radius can be given to them; wanted more of them, or a larger reservoir"
        )

    def _between_zero_and_one(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self._generator, dtype=torch.float64, device="cpu")

    def _between_minus_one_and_one(self, shape: tuple[int, ...]) -> Tensor:
        return 2.0 * self._between_zero_and_one(shape) - 1.0

    def _placed(self, value: Tensor) -> Tensor:
        # First the dtype: not every device has float64.
        return value.to(self.dtype).to(self._device)
