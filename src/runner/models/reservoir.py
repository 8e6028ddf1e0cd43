"""The recurrent part of an echo state network, which keeps its state from call to call."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from runner.models.drawing import Drawing


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Reservoir(nn.Module):
    """h(t) = (1 - a) h(t-1) + a f(W_fb x(t) + W_in u(t) + W h(t-1) + b), with x the input and u what drives it.

    B batch, T time, F input, N units, U driver. The state h is None while it is cold, which is as zeros; it follows
    the module to another device and dtype, and no state dict holds it.
    """

    state: Tensor | None
    """(B, N): the last h, of no graph."""
    restored: Tensor | None
    """(): there while the state is one that was read from a file, and no call has gone on from it yet."""

    def __init__(
        self,
        reservoir_size: int,
        input_size: int,
        *,
        driver_size: int,
        activation: str,
        leak_rate: float,
        spectral_radius: float,
        connectivity: float,
        input_scaling: float,
        driver_scaling: float,
        bias: float,
        trainable: bool,
        stateful: bool,
        drawing: Drawing,
    ) -> None:
        """W_fb, W_in and b are drawn from U(-1, 1) times their scaling; without a driver or bias there is no such."""
        super().__init__()
        self.activation, self.leak_rate, self.stateful = activation, leak_rate, stateful

        def weight(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value, requires_grad=trainable)

        size = reservoir_size
        self.weight_hh = weight(drawing.recurrent(size, spectral_radius=spectral_radius, connectivity=connectivity))
        self.weight_feedback = weight(drawing.uniform((size, input_size), input_scaling))
        self.weight_input = weight(drawing.uniform((size, driver_size), driver_scaling)) if driver_size else None
        self.bias_h = weight(drawing.uniform((size,), bias)) if bias else None
        self.register_buffer("state", None, persistent=False)
        # A buffer, too, so that whoever puts the state back, after an evaluation say, puts this back with it.
        self.register_buffer("restored", None, persistent=False)

    def forward(self, x_BTF: Tensor, driver_BTU: Tensor | None = None) -> Tensor:
        """The states h(1) ... h(T), (B, T, N), going on from the state that is kept."""
        h_BN = self.begin(len(x_BTF))
        h_BTN = self.advance(x_BTF, driver_BTU, h_BN)
        self.keep(h_BTN[:, -1])
        return h_BTN

    def begin(self, batch: int) -> Tensor:
        """The state (B, N) that a call for `batch` sequences goes on from. Raises ValueError if one read from a file
        is of another number of sequences."""
        h_BN = self.state if self.stateful or self.restored is not None else None
        if h_BN is not None and len(h_BN) != batch:
            held = f"the reservoir holds the states of {len(h_BN)} sequences"
            if self.restored is not None:
                raise ValueError(
                    f"{held}, which were read from a file, and the input has {batch}; continue with {len(h_BN)} "
                    "sequences, or call reset_reservoirs() to begin cold"
                )
            warnings.warn(
                f"{held}, and the input has {batch}: it begins cold; call reset_reservoirs() between sequences that "
                "have nothing to do with each other",
                stacklevel=2,
            )
            h_BN = None
        if h_BN is None:
            return self.weight_hh.new_zeros(batch, len(self.weight_hh))
        # A tensor of torch.inference_mode() cannot be gone on from where gradients are taken; a copy of it can.
        return h_BN.clone() if h_BN.is_inference() and not torch.is_inference_mode_enabled() else h_BN

    def advance(self, x_BTF: Tensor, driver_BTU: Tensor | None, h_BN: Tensor) -> Tensor:
        """The states (B, T, N) that follow `h_BN`; what is kept stays as it is."""
        f, a = ACTIVATIONS[self.activation], self.leak_rate
        # The recurrence in full precision: what is rounded here comes back at every later step.
        kind = x_BTF.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            # All steps at once: only what needs the step before is left to the loop.
            drive_TBN = nn.functional.linear(x_BTF.transpose(0, 1), self.weight_feedback, self.bias_h)
            if self.weight_input is not None and driver_BTU is not None:
                drive_TBN = drive_TBN + nn.functional.linear(driver_BTU.transpose(0, 1), self.weight_input)
            W_T = self.weight_hh.T
            states = []
            for drive_BN in drive_TBN.unbind(0):
                if torch.compiler.is_compiling():
                    # Else a compiler writes out every step of every length, which takes it minutes.
                    torch._dynamo.graph_break()
                new_BN = f(torch.addmm(drive_BN, h_BN, W_T))
                h_BN = new_BN if a == 1.0 else (1.0 - a) * h_BN + a * new_BN
                states.append(h_BN)
        return torch.stack(states, dim=1)

    def keep(self, h_BN: Tensor) -> None:
        """Let the next call go on from `h_BN`."""
        self.restored = None
        # A copy: a view would keep the states of all steps.
        self.state = h_BN.detach().clone() if self.stateful else None

    def reset(self) -> None:
        """Make it cold."""
        self.state = self.restored = None

    def restore(self, state_BN: Tensor) -> None:
        """Let the next call go on from a state that was read from a file."""
        self.state, self.restored = state_BN.to(self.weight_hh), self.weight_hh.new_zeros(())
