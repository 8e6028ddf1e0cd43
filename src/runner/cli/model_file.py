"""What a file with a model in it says, that is of no run: a door's, an echo state network's, another program's.

Nothing that the file names is imported.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.checkpoint.contents import FROZEN, MODEL, STATE, model_names, parse_document, parse_state
from runner.checkpoint.damage import read_header
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.header import TORCH_NAMES, Entry
from runner.cli import tables
from runner.config.calls import DOOR, METADATA, SOURCE
from runner.config.decoding import check_extent
from runner.errors import CheckpointError, FormatError


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is, without its numbers."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class ModelFile:
    """What a file says of a model."""

    path: Path
    what: str
    config: Mapping[str, Any]
    """Its nodes are calls with encoded arguments; empty where the file does not tell."""
    tensors: Sequence[TensorSpec]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in a file of another program."""
    notes: Sequence[str] = ()
    has_model: bool = True
    """Whether the weights of a model are in it; some files hold what belongs to those of another."""
    sources: Sequence[str] = ()
    """The documents that hold the source of the model's class."""

    @property
    def model(self) -> Mapping[str, Any] | None:
        """The call that makes the model."""
        return next((node for key, node in nodes_of(self.config) if key == "model"), None)


def nodes_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The calls in the config of a file, by their keys."""
    for key, node in config.items():
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            yield key, node


def of_door(checkpoint: Checkpoint) -> ModelFile | None:
    """What a door's file says; None for a checkpoint of a run. Reads no tensor."""
    config = checkpoint.config
    if DOOR not in config:
        return None
    files = checkpoint.manifest.files
    has_model = "model" in parse_state(checkpoint.document(STATE), checkpoint.path / STATE)
    metadata = parse_document(checkpoint.document(METADATA), checkpoint.path / METADATA) if METADATA in files else {}
    return ModelFile(
        checkpoint.path,
        f"saved by {config[DOOR]}" + ("" if has_model else ", without the model's weights"),
        _checked(config, checkpoint.path),
        list(_specs(checkpoint)),
        metadata=metadata if isinstance(metadata, dict) else {},
        has_model=has_model,
        sources=[name for name in files if name.startswith(SOURCE)],
    )


def of_weights(path: Path) -> ModelFile:
    """What is in a file that is no checkpoint. Reads all of it, and builds nothing."""
    from torch import Tensor

    from runner.runs.saved import read_saved

    saved = read_saved(path)
    specs = [
        TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape), value.nbytes)
        for name, value in saved.tensors.items()
    ]

    def described(value: Any) -> Any:
        if isinstance(value, Tensor):
            return f"tensor of {value.dtype}, {tuple(value.shape)}"
        if isinstance(value, Mapping):
            return {str(key): described(item) for key, item in value.items()}
        if isinstance(value, list):
            return [described(item) for item in value]
        return value if isinstance(value, str | int | float | bool | None) else f"<{type(value).__name__}>"

    where = saved.what.removesuffix(str(path)).strip().replace("the file", "a file of torch.save")
    kind = "weights alone" if saved.target is None else "an echo state network" if _is_esn(saved.target) else "a model"
    return ModelFile(
        path,
        f"{kind}: {where}",
        described(_checked(saved.config, path)),
        specs,
        metadata=described(_checked(saved.metadata, path)),
        beside=described(_checked(saved.beside, path)),
        notes=saved.notes,
    )


def _checked(values: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What a file says, if it is not so deep or so large that nobody could have meant it."""
    try:
        check_extent(values)
    except ValueError as error:
        raise FormatError(f"{path}: tells of its model something {error}; do not use it") from error
    return values


def _is_esn(target: str) -> bool:
    return target.startswith("runner.models.") and "esn" in target.lower()


def _specs(checkpoint: Checkpoint) -> Iterator[TensorSpec]:
    entries: dict[str, Entry] = {}
    for name in (MODEL, FROZEN):
        if name in checkpoint.manifest.files:
            with checkpoint.place.opened(name, checkpoint.manifest.files[name]) as member:
                entries |= read_header(member).entries
    for name, stored in model_names(checkpoint.document(STATE), checkpoint.path / STATE).items():
        if stored in entries:
            entry = entries[stored]
            yield TensorSpec(name, TORCH_NAMES.get(entry.dtype, entry.dtype), entry.shape, entry.end - entry.begin)


def show_source(checkpoint: Checkpoint, *, terminal: bool) -> None:
    """Print the source of the model's class as it was saved, to a terminal so that nothing in it can steer that.

    Raises CheckpointError if there is none.
    """
    names = [name for name in checkpoint.manifest.files if name.startswith(SOURCE)]
    if not names:
        raise CheckpointError(f"{checkpoint.path}: keeps no source of its model{_kept_elsewhere(checkpoint)}")
    for name in names:
        if len(names) > 1:
            print(f"# ---- {name.removeprefix(SOURCE)} ----")
        text = checkpoint.document(name).decode("utf-8", "replace")
        if terminal:
            text = "".join(f"{tables.printable(line.expandtabs())}\n" for line in text.splitlines())
        sys.stdout.write(text)


def _kept_elsewhere(checkpoint: Checkpoint) -> str:
    code = checkpoint.manifest.facts.get("code")
    run = next((above for above in checkpoint.path.absolute().parents if (above / "run.json").is_file()), None)
    if run is None or not isinstance(code, str) or ".." in Path(code).parts or not (run / code / "source").is_dir():
        node = checkpoint.config.get("model")
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str) or target.startswith(("torch.", "runner.")):
            return "; a class of torch's or of this program's has none of one's own"
        return f"; that of {target} was left out when it was saved, or stands in no file of its own"
    return f"; that of its run is in {run / code / 'source'}"
