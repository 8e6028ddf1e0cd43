"""Python's garbage collector, paused while many objects are made that stay.

Importing torch and its compiler makes a million; looking at them again and again for garbage takes a sixth of the time
to the first step. A state of thousands of tensors, taken apart for a save, would wait for it longer than for itself.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_resting() -> Iterator[None]:
    """Inside, what exists by now is not looked at: it stays, and to look through all of it takes 0.1 to 0.3 s.

    What is made inside is collected as ever. Does nothing where somebody has done the same before.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
