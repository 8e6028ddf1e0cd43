"""Sizes, lengths of time and scores, as people read them."""


def size(number: float) -> str:
    """Bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.2g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def duration(seconds: float) -> str:
    """A length of time for people: 42 s, 3:07 min, 2:05:00 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def score(value: float) -> str:
    """A loss or metric: 0.9435, and 2.8e-11 where four places would show nothing of it."""
    return f"{value:.4f}" if value == 0.0 or not abs(value) < 1e-3 else f"{value:.3g}"


def epoch_number(epoch: int, batch: int) -> int:
    """The epoch of the last step, counted from 1 as people do; given are the epochs finished, and batches since."""
    return epoch + 1 if batch else epoch


def position(step: int, epoch: int, batch: int) -> str:
    """Where a training stands."""
    return f"step {step}, epoch {epoch_number(epoch, batch)}" + (f", batch {batch}" if batch else "")
