"""What a run was trained with, where the user's own source is another now, or gone: hints for errors. Imports nothing.

The source is kept in the run directory, by the names of its modules: code/001/source/mypackage/nets.py
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.checkpoint.handle import Checkpoint
from runner.config.targets import target_nodes
from runner.trust_memory import NEVER_REMEMBERED, located


def kept_sources(checkpoint: Checkpoint, config: Mapping[str, Any]) -> list[str]:
    """A line for each module of the targets in `config` that is not what `checkpoint` was made with."""
    code = checkpoint.manifest.facts.get("code")
    run = next((parent for parent in checkpoint.path.parents if (parent / "run.json").is_file()), None)
    if run is None or not isinstance(code, str) or ".." in Path(code).parts:
        return []
    names = [target.node["_target_"] for target in target_nodes(config)]
    lines = (_line(name, (run / code).resolve() / "source") for name in names if isinstance(name, str))
    return list(dict.fromkeys(line for line in lines if line is not None))


def _line(target: str, source: Path) -> str | None:
    if target.partition(".")[0] in NEVER_REMEMBERED:
        return None
    kept = next(_files_of(target, source), None)
    if kept is None:
        return None
    file, module = kept
    now = dict(located(target)).get(module)
    if now is None:
        place = file.relative_to(source)
        return (
            f"{module}: cannot be found from here; what was trained with is {file}: copy it to {place} in your project"
        )
    if now.is_file() and now.read_bytes() != file.read_bytes():
        return f"{module}: {now} has changed since; what was trained with is {file}"
    return None


def _files_of(target: str, source: Path) -> Iterator[tuple[Path, str]]:
    """The kept files of the modules that stand in a dotted name, the innermost first."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = source.joinpath(*parts[:length])
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                yield file, ".".join(parts[:length])
