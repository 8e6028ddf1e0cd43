"""Python's garbage collector, paused while many objects are made that stay.

Importing torch and its compiler makes a million; looking at them again and again for garbage takes a sixth of the time
to the first step. A state of thousands of tensors, taken apart for a save, would wait for it longer than for itself.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, nothing is collected; afterwards the collector does what it did before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
