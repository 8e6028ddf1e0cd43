"""What a path holds of a model, whoever wrote it: a run, a door's file, an echo state network's, another program's.

One reader for `runner.load` and the Python doors: `read_saved` opens anything, and runs nothing that is in it;
`rebuild` makes the model of it, where the file tells how.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checkpoint.contents import parse_document
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import is_ours, model_tensors, read_weights
from runner.checkpoint.listing import split_choice
from runner.config.calls import DOOR as DOOR
from runner.config.calls import METADATA as METADATA
from runner.config.calls import SOURCE as SOURCE
from runner.config.calls import build_call, target_of
from runner.config.for_use import config_for_use, sources_of
from runner.config.nodes import instantiate
from runner.errors import CheckpointError, ConfigError, FormatError, MissingError, TrustError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SavedModel:
    """What a path holds of a model."""

    where: Path
    config: Mapping[str, Any]
    """How it is made, under `model`; empty where the file does not tell."""
    tensors: "Mapping[str, Tensor]"
    """Its weights, on the CPU, by the names that they have in the file."""
    checkpoint: Checkpoint | None
    """None for a file of another program, or of an echo state network."""
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    """What else was there, and was passed over."""
    what: str = ""
    """Of a file of another program: where in it the weights stand."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What stands beside them, by its keys."""

    @property
    def version(self) -> str | None:
        """The version that its model was saved as."""
        version = self.config.get("version")
        return version if isinstance(version, str) else None

    @property
    def target(self) -> str | None:
        """The import path of the model's class as the file has it."""
        node = self.config.get("model")
        target = node.get("_target_") if isinstance(node, Mapping) else None
        return target if isinstance(target, str) else None


def read_saved(path: str | PathLike[str], which: str | int = "latest", *, weights: str = "raw") -> SavedModel:
    """What is at `path`; `which` and `weights` choose within a run as `runner.load` does.

    Raises MissingError if nothing is there, CheckpointError for what holds no model.
    """
    place, which = chosen(path, which)
    if not place.exists():
        raise MissingError(f"{place}: is not there; give a run, a checkpoint, or a file that holds a model")
    if is_ours(place):
        return of_checkpoint(Checkpoint.open(place, which), weights)
    found = read_weights(place, which, weights=weights)
    config = found.others.get("config")
    metadata = found.others.get("metadata")
    return SavedModel(
        place,
        # Other programs have configs, too; ours say what is called with theirs.
        {"model": config} if isinstance(config, Mapping) and isinstance(config.get("_target_"), str) else {},
        found.tensors,
        None,
        metadata if isinstance(metadata, Mapping) else {},
        found.notes,
        found.what,
        {key: value for key, value in found.others.items() if key not in ("config", "metadata")},
    )


def opened(path: str | PathLike[str], which: str | int = "latest") -> Checkpoint:
    """The checkpoint that a path names, with `RUN@best`, `RUN@step=N` or `RUN@TAG` in it or chosen by `which`."""
    return Checkpoint.open(*chosen(path, which))


def chosen(path: str | PathLike[str], which: str | int) -> tuple[Path, str | int]:
    """A path without the `@best` at its end, and what is chosen, there or by `which`. Raises CheckpointError."""
    place, named = split_choice(fspath(path))
    if named != "latest" and which not in ("latest", named):
        raise CheckpointError(f"{path}: chooses {named!r} already, and which is {which!r}; leave one of them out")
    return Path(place), which if named == "latest" else named


def of_checkpoint(checkpoint: Checkpoint, weights: str = "raw") -> SavedModel:
    """The model in a checkpoint."""
    return SavedModel(
        checkpoint.path,
        checkpoint.config,
        model_tensors(checkpoint, weights),
        checkpoint,
        metadata_of(checkpoint),
    )


def metadata_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the user noted beside the state, as JSON has it; {} where nobody did."""
    if METADATA not in checkpoint.manifest.files:
        return {}
    values = parse_document(checkpoint.document(METADATA), checkpoint.path / METADATA)
    return values if isinstance(values, dict) else {}


def rebuild(
    saved: SavedModel,
    *,
    arguments: Mapping[str, Any] | None = None,
    given: Mapping[str, type] | None = None,
    moved: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> "nn.Module":
    """The model, made as the file tells, with its weights in it, on the CPU.

    `arguments` stand in for stored ones; `given` are classes that the caller has in hand; `moved` says where a class of
    the file is now: see config/calls.py. `overrides` change a config first, as in `["model.dropout=0"]`.
    Raises CheckpointError, naming tensors and shapes if they do not fit; ConfigError; TrustError.
    """
    model, _ = build(saved, ("model",), arguments=arguments, given=given, moved=moved, trust=trust, overrides=overrides)
    from runner.runs import fitting

    values = fitting.values_of(model, saved.tensors, saved.checkpoint)
    if is_call(saved):
        hint = "its class is not what it was when it was saved, or its arguments are others"
        fitting.fit(model, values, where=saved.where, as_saved=True, hint=hint)
    else:
        fit(model, values, where=saved.where, checkpoint=saved.checkpoint, overrides=overrides)
    return model


def fit(
    model: "nn.Module",
    tensors: "Mapping[str, Tensor]",
    *,
    where: Path,
    checkpoint: Checkpoint | None,
    overrides: Sequence[str] = (),
) -> None:
    """Load tensors that came from `where` into the model that was built of it with `overrides` on top.

    Their names may have in front what data parallelism and compilation put there. Raises CheckpointError, listing names
    and shapes, if they do not fit.
    """
    from runner.training.loading import load_weights

    try:
        load_weights(model, bare_names(tensors, model.state_dict().keys()))
    except CheckpointError as error:
        on_top = f" with {' '.join(overrides)}" if overrides else ""
        causes = [] if checkpoint is None else sources_of(checkpoint, ["model"])
        raise CheckpointError("\n".join([f"{where}{on_top}: {error}", *causes])) from error


def build(
    saved: SavedModel,
    keys: Sequence[str],
    *,
    arguments: Mapping[str, Any] | None = None,
    given: Mapping[str, type] | None = None,
    moved: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> "tuple[nn.Module, dict[str, Any]]":
    """The model with the weights it is born with, and what stands under `keys` in the config it is of."""
    from torch import nn

    from runner.training.generators import untouched

    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r}: wanted a list of overrides; write [{overrides!r}]")
    if "model" not in saved.config:
        raise CheckpointError(
            f"{saved.where}: does not tell how its model is made; make the model yourself, and load the weights into it"
        )
    try:
        if is_call(saved):
            if overrides:
                raise ConfigError(
                    f"{saved.where}: was not launched from a config, so that nothing can be overridden; "
                    'give arguments={"NAME": VALUE}'
                )
            node = saved.config["model"]
            if not isinstance(node, Mapping):
                raise FormatError(f"{saved.where}: model is {node!r:.80}; wanted a mapping with a _target_")
            with untouched():
                model = build_call(node, where=saved.where, arguments=arguments, given=given, moved=moved, trust=trust)
            config = dict(saved.config)
        else:
            assert saved.checkpoint is not None
            classes = {**(moved or {}), **(given or {})}
            names = {old: new if isinstance(new, str) else target_of(new) for old, new in classes.items()}
            # Whoever says where a class is now trusts what is there.
            trusted = (*trust, *(new.rpartition(".")[0] or new for new in names.values()))
            config = config_for_use(saved.checkpoint, keys, overrides, trusted=trusted, moved=names)
            with untouched():
                model = instantiate(config["model"], "model", **(arguments or {}))
    except (TrustError, CheckpointError) as error:
        # With its own cause: it would stand in the traceback twice.
        raise type(error)("\n".join([str(error), *stored_source(saved)])) from error.__cause__
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{saved.where}: model._target_={saved.target} built a {type(model).__name__}; wanted a torch.nn.Module"
        )
    return model, config


def is_call(saved: SavedModel) -> bool:
    """Whether its model is made by a call with encoded arguments, not by a config of Hydra's."""
    return saved.checkpoint is None or DOOR in saved.config


def stored_source(saved: SavedModel) -> list[str]:
    """A line that says where the source of the model's class is kept, if it is in the file."""
    files = saved.checkpoint.manifest.files if saved.checkpoint is not None else {}
    names = [name for name in files if name.startswith(SOURCE)]
    return [f"the source that it was saved with is in it: runs show {saved.where} --source"] if names else []


def bare_names(tensors: "Mapping[str, Tensor]", wanted: Collection[str]) -> "Mapping[str, Tensor]":
    """Tensors without as much of what wrappers put before every name as makes most of the names `wanted` ones."""
    stages = [tensors]
    while prefix := next((one for one in _WRAPPERS if _all_begin(stages[-1], one)), None):
        stages.append({name.removeprefix(prefix): tensor for name, tensor in stages[-1].items()})
    return max(stages, key=lambda one: len(one.keys() & wanted))


def _all_begin(names: Collection[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


_WRAPPERS = ("module.", "_orig_mod.")
"""What data parallelism and compilation put there."""
