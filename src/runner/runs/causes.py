"""Why a stretch of a run may have come out differently when it was taken again: what differed first tells most."""

_WHERE = {
    "batches": "the data",
    "generators": "the random draws",
    "lr": "the schedule of the learning rate",
    "loss": "the arithmetic",
    "grad_norm": "the arithmetic",
    "epoch": "the arithmetic",
    "evaluation": "the evaluation",
    "state": "what the losses do not show",
}
"""By what differed first. The batches are looked at before the draws, and these before the loss."""
_FROM_ELSEWHERE = {
    "batches": "the data set draws from something else than the random generators of python, numpy and torch, such as "
    "os.urandom, the time, or a generator of its own that is not seeded",
    "generators": "how many random numbers are drawn depends on something that no checkpoint holds, such as the time",
    "evaluation": "validation data, model or metrics depend on something that no checkpoint holds, such as the time, "
    "os.urandom, or a variable of a module",
}
_COMPUTED = (
    "model, objective or optimizer depend on something that no checkpoint holds, such as the time, os.urandom, or a "
    "variable of a module"
)
_NOT_DETERMINISTIC = "; or an algorithm gives other bits every time: trainer.deterministic is false"
_UNKNOWN = {
    "batches": "files or code of the data have changed that nobody took note of (Data(fingerprint=...) would), or the "
    "data depend on the process, such as the order of a set",
    "evaluation": "validation data or metrics have changed that nobody took note of, or depend on the process",
}
_COMPUTED_ELSEWHERE = (
    "code or a file has changed that nobody took note of, or something depends on the process, such as the order of a "
    "set or an environment variable"
)


def likely_cause(first: str, *, repeatable: bool, changed: bool, deterministic: bool) -> str:
    """The likely cause in a sentence.

    `first` is what differed first; `repeatable` whether it comes out the same when it is taken twice here; `changed`
    whether machine, software, data or source are known to be others than they were.
    """
    where = _WHERE[first]
    if not repeatable:
        more = "" if deterministic or first in ("batches", "generators") else _NOT_DETERMINISTIC
        reason = _FROM_ELSEWHERE.get(first, _COMPUTED)
        return f"{where}: taken twice here, it differs from itself, too; {reason}{more}"
    if changed:
        return f"{where}: taken twice here, it is the same; what has changed since is listed"
    return f"{where}: taken twice here, it is the same; {_UNKNOWN.get(first, _COMPUTED_ELSEWHERE)}"
