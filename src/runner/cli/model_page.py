"""What `runs show` prints about a file with a model in it that is of no run, for people and as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.checkpoint.contents import TAG
from runner.cli import page, tables
from runner.cli.model_file import ModelFile, TensorSpec, nodes_of
from runner.cli.tables import Column
from runner.config.as_python import as_python, short_name
from runner.config.calls import DOOR, POSITIONAL, not_trusted, unavailable
from runner.quantities import size
from runner.trust_memory import NEVER_REMEMBERED

MOST_ROWS = 20
"""Of tensors in a terminal; piped, all are printed."""


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
    if not file.has_model:
        yield "load", "the file that holds the weights; this one belongs to it"
        return
    if file.model is None:
        yield "load", f"make the model yourself; a run begins with these weights by init_from={file.path}"
        return
    yield "load", str(_load_line(file))
    for root, name in not_trusted(file.model).items():
        if root.partition(".")[0] in NEVER_REMEMBERED:
            yield (
                "careful",
                f"it names {name}, which is no model and may do anything: know what for before you trust it",
            )
    if file.sources:
        yield "source", f"runs show {file.path} --source"


def _load_line(file: ModelFile) -> str | None:
    """What to type in Python; dots stand for what the user has to give."""
    node = file.model
    if node is None or not file.has_model:
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
