"""Stored tensors into a module that is there: matched by name and shape first, and only then copied."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.matching import Matching, Spec, match, unwrapped
from runner.errors import MismatchError, SaveError
from runner.runs.initial import differences, specs_of, tied
from runner.training.module_state import wrapped_by


def own_state(model: nn.Module, where: Path) -> dict[str, Any]:
    """The state dict of `model` under its own names: without what a compiled or distributed part of it puts in.

    Raises SaveError, naming `where` it was to be written, for tensors that have no values yet.
    """
    state = {}
    own_name = own_names(model)
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and (is_lazy(value) or value.is_meta):
            what = "has no shape yet; run a batch through the model" if is_lazy(value) else "is on the meta device"
            raise SaveError(f"{where}: not written: {name} {what}; wanted tensors with values")
        state[own_name(name)] = value
    return state


def own_names(model: nn.Module) -> Callable[[str], str]:
    """Gives the name that a tensor of `model` has without what a compiled or distributed part of it puts in."""
    wrapped = {
        name: inner
        for name, part in model.named_modules(remove_duplicate=False)
        if (inner := wrapped_by(part)) is not None
    }
    return lambda name: _without(name, wrapped)


def values_of(model: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Checkpoint | None) -> dict[str, Any]:
    """The tensors of a file for `model`, and what else its state dict keeps, from the checkpoint that they are of."""
    values: dict[str, Any] = dict(tensors)
    if checkpoint is not None and not all(isinstance(value, Tensor) for value in model.state_dict().values()):
        stored = checkpoint.state(["model"])["model"]
        values |= {name: value for name, value in stored.items() if not isinstance(value, Tensor)}
    return values


def fit(
    model: nn.Module,
    values: Mapping[str, Any],
    *,
    where: Path,
    strict: bool = True,
    partial: bool = False,
    as_saved: bool = False,
    hint: str = "",
) -> None:
    """Load `values`, by the names of a state dict, into `model`. Nothing is changed where it raises.

    What is missing or unknown is an error, or without `strict` a warning that names it; so is another shape, which only
    `partial` passes over. Where `as_saved`, tensors take the dtypes that they have in the file. Raises MismatchError,
    whose message ends with `hint`.
    """
    live = model.state_dict()
    matching = _matched(model, live, values, where)
    others = {unwrapped(name): name for name in live if not isinstance(live[name], Tensor)}
    theirs = {unwrapped(name): value for name, value in values.items() if not isinstance(value, Tensor)}
    lost = [others[name] for name in others if name not in theirs]
    extra = [name for name in theirs if name not in others]
    lines = differences(
        replace(matching, missing=(*matching.missing, *lost), unexpected=(*matching.unexpected, *extra))
    )
    lines += _overwritten(live, matching, values)
    translates = _translates(model)
    if lines and not translates and not partial and (strict or matching.mismatched):
        raise MismatchError(_refused(model, where, lines, hint))
    chosen = {name: values[source] for name, source in matching.loaded.items()}
    _make_room(model, chosen, as_saved=as_saved)
    chosen |= {others[name]: theirs[name] for name in others if name in theirs}
    if translates:
        # What it does not know may be what it knows by an older name.
        chosen |= {name: values[name] for name in (*matching.unexpected, *extra)}
    try:
        result = model.load_state_dict(chosen, strict=translates and strict and not partial)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise MismatchError(_refused(model, where, [*lines, said], hint)) from error
    if translates and not (result.missing_keys or result.unexpected_keys):
        return
    if lines:
        some = f"{len(matching.loaded)} of {len(live)} tensors were loaded" if matching.loaded else "nothing was loaded"
        warnings.warn(f"{where}: {some} into {type(model).__name__}: {'; '.join(lines)}", stacklevel=4)


def _overwritten(live: Mapping[str, Any], matching: Matching, values: Mapping[str, Any]) -> list[str]:
    """Tensors of other values in the file that are one in the model, so that the last would overwrite the others."""
    lines = []
    for names in tied({name: live[name] for name in matching.loaded if not is_lazy(live[name])}):
        first, *others = (values[matching.loaded[name]] for name in names)
        if any(not _is_same(first, other) for other in others):
            lines.append(f"{' and '.join(names)} are one tensor in the model, and differ in the file")
    return lines


def _is_same(one: Tensor, other: Tensor) -> bool:
    # What is no number is not equal to itself.
    return one is other or bool(((one == other) | ((one != one) & (other != other))).all())


def _refused(model: nn.Module, where: Path, lines: list[str], hint: str) -> str:
    what = f"{where}: cannot be loaded into {type(model).__name__}: {'; '.join(lines)}"
    return f"{what}; {hint or 'load it into the model that it was saved from'}"


def _matched(model: nn.Module, live: Mapping[str, Any], values: Mapping[str, Any], where: Path) -> Matching:
    stored = specs_of(values)
    by_own_name = {unwrapped(name): spec for name, spec in stored.items()}
    # A tensor that waits for its shape takes any.
    waiting = {name for name, value in live.items() if isinstance(value, Tensor) and is_lazy(value)}
    wanted = {name: by_own_name.get(unwrapped(name), Spec((), "float32")) for name in waiting}
    known = {name: value for name, value in live.items() if name not in waiting}
    specs = specs_of(known)
    ordered = {name: specs.get(name, wanted.get(name)) for name in live}
    try:
        return match(
            stored,
            {name: spec for name, spec in ordered.items() if spec is not None},
            rename={},
            tied=tied(known),
        )
    except ValueError as error:
        raise MismatchError(f"{where}: does not fit {type(model).__name__}: {error}") from error


def _translates(model: nn.Module) -> bool:
    """Whether a part of the model that is the user's own changes what is loaded, say for files of an older version."""
    return any(
        not module._load_from_state_dict.__func__.__module__.startswith("torch.")  # type: ignore[attr-defined]
        or (module._load_state_dict_pre_hooks and not type(module).__module__.startswith("torch."))
        for module in model.modules()
    )


def _make_room(model: nn.Module, chosen: Mapping[str, Tensor], *, as_saved: bool) -> None:
    """Give tensors that wait for their shape or for values a place to hold them, and where `as_saved` other dtypes."""
    places = [
        (kept, name, chosen.get(f"{prefix}.{name}" if prefix else name))
        for prefix, module in model.named_modules(remove_duplicate=False)
        for kept in (module._parameters, module._buffers)
        for name in kept
    ]
    made: dict[int, Tensor] = {}
    for kept, name, value in places:
        old = kept[name]
        if old is not None and value is not None and id(old) not in made:
            made[id(old)] = _room_for(old, value, value.dtype if as_saved else None)
    # Tied ones under every name that they have, also where the file has only one.
    for kept, name, _ in places:
        kept[name] = made.get(id(kept[name]), kept[name])


def _room_for(old: Tensor, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if is_lazy(old):
        old.materialize(value.shape, dtype=dtype)
        return old
    wanted = dtype or old.dtype
    if old.is_meta:
        room = torch.empty(old.shape, dtype=wanted, device="cpu")
        return nn.Parameter(room, old.requires_grad) if isinstance(old, nn.Parameter) else room
    if old.dtype != wanted:
        old.data = old.data.to(wanted)
    return old


def _without(name: str, wrapped: Mapping[str, str]) -> str:
    if not wrapped:
        return name
    path: list[str] = []
    own: list[str] = []
    for part in name.split("."):
        if wrapped.get(".".join(path)) != part:
            own.append(part)
        path.append(part)
    return ".".join(own)
