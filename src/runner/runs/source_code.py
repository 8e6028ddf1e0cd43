"""The user's own source, kept once an attempt and compared when the run goes on. Never imported by loading.

code/001/source/mynets.py, code/001/source/mypackage/nets.py: by the names of the modules, wherever they came from.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LARGEST_SOURCE = 1 << 20
"""Bytes of a module above which it is not kept."""


def keep_source(into: Path) -> None:
    """Copy the user's own modules that have been imported by now to `into`/source."""
    for name, data in _own_modules():
        target = into / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def changed_source(kept: Path) -> list[str]:
    """A line for each module that was kept in `kept`/source and has another text now."""
    now = dict(_own_modules())
    files = sorted(path for path in (kept / "source").rglob("*.py") if path.is_file())
    names = [str(file.relative_to(kept / "source")) for file in files]
    notes = []
    for name, file in zip(names, files, strict=True):
        try:
            if name in now and now[name] != file.read_bytes():
                notes.append(f"{name}: has changed since; what was trained with is {file}")
        except OSError as error:
            notes.append(f"{name}: may have changed since; {file} cannot be read ({error.strerror})")
    return notes


def is_own(path: Path) -> bool:
    """Whether a source file belongs to no installed package."""
    return (
        path.suffix == ".py"
        and path.is_absolute()
        and path.is_file()
        and not str(path).startswith(_foreign())
        and not str(path.resolve()).startswith(_foreign())
    )


@cache
def _foreign() -> tuple[str, ...]:
    """Where installed packages are, and this one."""
    installed = [sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (str(Path(__file__).resolve().parents[1]) + os.sep, *installed)


def _own_modules() -> Iterator[tuple[str, bytes]]:
    """The python modules that belong to no installed package, as (path made of the module's name, text)."""
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # Texts first: there are thousands of modules, and nearly all of them are somebody else's. Some modules of torch
        # name files that do not exist.
        if not file or not file.endswith(".py") or file.startswith(_foreign()):
            continue
        path = Path(file)
        if is_own(path) and path.stat().st_size <= LARGEST_SOURCE:
            inside = "/__init__.py" if path.name == "__init__.py" else ".py"
            yield name.replace(".", "/") + inside, path.read_bytes()
