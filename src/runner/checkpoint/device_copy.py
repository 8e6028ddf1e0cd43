"""Copies from a CUDA device into pinned memory, on a stream of their own, beside the training.

What an optimizer's step alone changes (parameters, the optimizer's state) is copied while the next forward and backward
go on, and `hold_updates` lets the next step wait for it. What forward changes too (buffers, averaged weights, a
recurrent state) is copied before anything that is enqueued later may run. The host waits for neither.
"""

import torch
from torch import Tensor


class DeviceCopy:
    """Tensors on their way to the host. False while there are none."""

    def __init__(self) -> None:
        self._pairs: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
        self._events: list[torch.cuda.Event] = []
        self._held: list[tuple[torch.device, torch.cuda.Event]] = []

    def __bool__(self) -> bool:
        return any(self._pairs.values()) or bool(self._events)

    def add(self, target: Tensor, source: Tensor, *, stepped: bool) -> None:
        """Take a tensor along; `stepped` if only an optimizer's step changes it."""
        self._pairs[stepped].append((target, source))

    def begin(self) -> None:
        """Enqueue the copies behind what the current streams have been given so far."""
        for stepped, pairs in self._pairs.items():
            for device in {source.device for _, source in pairs}:
                current = torch.cuda.current_stream(device)
                side = _stream_beside(device)
                side.wait_stream(current)
                with torch.cuda.stream(side):
                    for target, source in pairs:
                        if source.device == device:
                            target.copy_(source, non_blocking=True)
                            # Its memory must not be given to others before it has been read.
                            source.record_stream(side)
                    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    done.record(side)
                self._events.append(done)
                if stepped:
                    self._held.append((device, done))
                else:
                    current.wait_event(done)
            # The streams hold what they still need. What was copied from, or to, need not live as long as this does.
            pairs.clear()

    def hold_updates(self) -> None:
        """Let what is enqueued from here on, an optimizer's step, wait until the parameters are copied."""
        for device, done in self._held:
            # Of the tensors' own device: an optimizer's kernels run there, whichever device is the current one.
            torch.cuda.current_stream(device).wait_event(done)

    @property
    def finished(self) -> bool:
        return all(done.query() for done in self._events)  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Wait, on the host, until everything has arrived."""
        for done in self._events:
            done.synchronize()


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]
