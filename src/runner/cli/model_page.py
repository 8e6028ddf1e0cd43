"""What `runs show` prints about a file with a model in it that is of no run: a door's, an echo state network's, another
program's. Nothing that the file names is imported.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.checkpoint.contents import FROZEN, MODEL, STATE, TAG, model_names
from runner.checkpoint.damage import read_header
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.header import TORCH_NAMES, Entry
from runner.cli import page, tables
from runner.cli.tables import Column
from runner.config.as_python import as_python, short_name
from runner.config.calls import DOOR, METADATA, POSITIONAL, SOURCE, not_trusted, unavailable
from runner.config.decoding import check_extent
from runner.errors import CheckpointError, FormatError
from runner.quantities import size
from runner.trust_memory import NEVER_REMEMBERED

MOST_ROWS = 20
"""Of tensors in a terminal; piped, all are printed."""


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
    metadata = json.loads(checkpoint.document(METADATA)) if METADATA in files else {}
    return ModelFile(
        checkpoint.path,
        f"saved by {config[DOOR]}",
        _checked(config, checkpoint.path),
        list(_specs(checkpoint)),
        metadata=metadata if isinstance(metadata, dict) else {},
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


def facts(file: ModelFile) -> dict[str, str]:
    """What it is, in a few words each."""
    version = file.config.get("version")
    return {"what": file.what} | ({} if version is None else {"version": str(version)})


def show_model(console: Console, file: ModelFile) -> None:
    """Print how the model is made, what is kept with it, and its tensors."""
    for key, node in nodes_of(file.config):
        print()
        page.title(console, key)
        _show_call(console, node)
    others = {key: value for key, value in file.config.items() if key not in (*dict(nodes_of(file.config)), DOOR)}
    settings = {key: as_python(value) for key, value in others.items() if key != "version"}
    beside = {key: _in_short(value) for key, value in file.beside.items()}
    for title, values in (("settings", settings), ("metadata", file.metadata), ("beside the weights", beside)):
        if values:
            page.mapping(console, title, {key: _readable(value) for key, value in values.items()})
    _show_tensors(console, file.tensors)
    print()
    page.facts(console, dict(_how_to_load(file)))
    for note in file.notes:
        page.say(console, note, style="yellow")


def model_json(file: ModelFile) -> dict[str, Any]:
    """The same as plain JSON, the arguments as they are typed in Python."""
    node = file.model
    return {
        "path": file.path,
        "what": file.what,
        "door": file.config.get(DOOR),
        "version": file.config.get("version"),
        "model": None if node is None else node["_target_"],
        "arguments": None if node is None else {name: as_python(form) for name, form in _arguments(node)},
        "missing": {} if node is None else unavailable(node),
        "load": _load_line(file),
        "metadata": file.metadata,
        "beside": file.beside,
        "sources": file.sources,
        "tensors": [
            {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "bytes": one.bytes} for one in file.tensors
        ],
    }


def _arguments(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, form) for name, form in node.items() if name != "_target_")


def _show_call(console: Console, node: Mapping[str, Any]) -> None:
    missing = unavailable(node)
    lines = []
    for name, form in _arguments(node):
        if name == POSITIONAL:
            lines += [("", as_python(item), missing.get(name, "")) for item in form]
        else:
            lines.append((f"{name}=", "..." if name in missing else as_python(form), missing.get(name, "")))
    target = short_name(node["_target_"])
    if not lines:
        page.say(console, f"{target}()")
        return
    page.say(console, f"{target}(")
    for name, value, why in lines:
        because = f"  # {tables.printable(why)}" if why else ""
        line = Text.assemble(
            (f"  {tables.printable(name)}", "dim"), tables.printable(_cut(value)), ",", (because, "yellow")
        )
        console.print(line, soft_wrap=True)
    page.say(console, ")")


def _how_to_load(file: ModelFile) -> Iterator[tuple[str, str]]:
    if file.model is None:
        yield "load", f"make the model yourself; a run begins with these weights by init_from={file.path}"
        return
    yield "load", str(_load_line(file))
    for root, name in not_trusted(file.model).items():
        if root in NEVER_REMEMBERED:
            yield (
                "careful",
                f"it names {name}, which is no model and may do anything: know what for before you trust it",
            )
    if file.sources:
        yield "source", f"runs show {file.path} --source"


def _load_line(file: ModelFile) -> str | None:
    """What to type in Python; dots stand for what the user has to give."""
    node = file.model
    if node is None:
        return None
    words = [json.dumps(str(file.path), ensure_ascii=False)]
    if missing := unavailable(node):
        words.append(f"arguments={{{', '.join(f'{json.dumps(name)}: ...' for name in missing)}}}")
    target = node["_target_"]
    if target.startswith("__main__.") or "<locals>" in target:
        words.append(f"moved={{{json.dumps(target)}: ...}}")
    if roots := not_trusted(node):
        words.append(f"trust={json.dumps(list(roots))}")
    return f"runner.load({', '.join(words)})"


def _show_tensors(console: Console, tensors: Sequence[TensorSpec]) -> None:
    shown = tensors[:MOST_ROWS] if console.is_terminal else tensors
    rows = [[one.name, one.dtype, str(one.shape), size(one.bytes)] for one in shown]
    page.section(console, rows, [Column("tensor"), Column("dtype", rank=2), Column("shape"), Column("size", True, 1)])
    if not tensors:
        print("\nno tensors")
        return
    noun = "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    more = f"... {len(shown)} of " if len(shown) < len(tensors) else ""
    print(f"{more}{noun}, {size(sum(one.bytes for one in tensors))}{'; --json has all' if more else ''}")


def _readable(value: Any) -> Any:
    """A value of a mapping, with what is encoded in it as it reads in Python."""
    if isinstance(value, Mapping) and TAG not in value:
        return {key: _readable(item) for key, item in value.items()}
    return as_python(value) if isinstance(value, Mapping | list) else value


def _in_short(value: Any) -> Any:
    """Of much, say the state of an optimizer, only how much it is."""
    count = _count(value)
    return value if count <= MOST_ROWS else f"{count} values"


def _count(value: Any) -> int:
    if isinstance(value, Mapping | list):
        return sum(map(_count, value.values() if isinstance(value, Mapping) else value))
    return 1


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def show_source(checkpoint: Checkpoint) -> None:
    """Print the source of the model's class as it was saved. Raises CheckpointError if there is none."""
    names = [name for name in checkpoint.manifest.files if name.startswith(SOURCE)]
    if not names:
        raise CheckpointError(f"{checkpoint.path}: keeps no source of its model{_kept_elsewhere(checkpoint)}")
    for name in names:
        if len(names) > 1:
            print(f"# ---- {name.removeprefix(SOURCE)} ----")
        text = checkpoint.document(name).decode("utf-8", "replace")
        print("\n".join(tables.printable(line.expandtabs()) for line in text.splitlines()))


def _kept_elsewhere(checkpoint: Checkpoint) -> str:
    code = checkpoint.manifest.facts.get("code")
    run = next((above for above in checkpoint.path.absolute().parents if (above / "run.json").is_file()), None)
    if run is None or not isinstance(code, str) or ".." in Path(code).parts or not (run / code / "source").is_dir():
        return "; a class of torch's or of this program's has none of one's own"
    return f"; that of its run is in {run / code / 'source'}"
