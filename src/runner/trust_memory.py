"""What this user has used on this machine: `$XDG_STATE_HOME/runner/trusted.json`, modules with their source files.

    {"format": 1, "modules": {"mynets": ["/home/ada/vision/mynets.py"]}}

A module is remembered when a target in it was typed, stands in the user's own `conf/`, or was handed to a door; never
because a loaded file names it. The standard library, torch outside `torch.nn` and `torch.optim`, Hydra and this package
are never remembered: too much in them runs whatever it is given.
"""

import fcntl
import importlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

log = logging.getLogger(__name__)

NEVER_REMEMBERED = sys.stdlib_module_names | {"torch", "hydra", "omegaconf", "runner", "__main__", "pip", "setuptools"}


class TrustMemory:
    """The modules that this user has used. `path` None: where the system keeps a user's state."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else _default_path()
        self._modules: dict[str, frozenset[Path]] | None = None

    def remembered(self, module: str) -> frozenset[Path]:
        """The source files from which this module was used; empty if it never was."""
        if self._modules is None:
            self._modules = _read(self.path)
        return self._modules.get(module, frozenset())

    def bring_within_reach(self, target: str, *, near: Path) -> None:
        """Let Python find a remembered module that it does not find from here, by adding its place to `sys.path`.

        So a model can be loaded from any directory. Of several places, that above `near` (the file that names the
        target) is meant, also where the module is gone from there: another project's module of the same name would be
        other code. If that does not decide, nothing is added.
        """
        if located(target):
            return
        parts = target.split(".")
        for length in range(len(parts) - 1, 0, -1):
            files = self.remembered(".".join(parts[:length]))
            roots = {file.parents[length - (file.name != "__init__.py")]: file for file in sorted(files)}
            there = {root for root, file in roots.items() if file.is_file()}
            above = {root for root in roots if near.absolute().is_relative_to(root)}
            decided = (above or there) & there
            if len(decided) == 1:
                sys.path.append(str(decided.pop()))
                importlib.invalidate_caches()
                return

    def remember(self, targets: Iterable[str]) -> None:
        """Add the modules of dotted names that the user himself has given. Imports nothing.

        If the memory cannot be written, a warning says so, and everything else goes on.
        """
        new: dict[str, set[Path]] = {}
        for target in targets:
            for module, file in _memorable(target):
                if file not in self.remembered(module):
                    new.setdefault(module, set()).add(file)
        if not new:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(self.path):
                known = _read(self.path)
                self._modules = {
                    module: known.get(module, frozenset()) | new.get(module, set()) for module in {*known, *new}
                }
                _write(self.path, self._modules)
        except OSError as e:
            log.warning(
                "%s: cannot be written (%s), so %s will not be remembered as trusted; make it writable",
                self.path,
                e.strerror,
                ", ".join(sorted(new)),
            )


def located(name: str) -> list[tuple[str, Path | None]]:
    """The modules that stand in a dotted name, outermost first, with their source files. Imports nothing.

    What follows them in the name are attributes. A package without a file of its own has None.
    """
    found: list[tuple[str, Path | None]] = []
    parts = name.split(".")
    places: list[str] | None = None
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        try:
            spec = _spec(module, places)
        except KeyError:
            # A package without a file of its own inside one that has not been imported: Python would look for that one.
            found.append((module, None))
            places = [str(Path(place, parts[length - 1])) for place in places or ()]
            continue
        if spec is None:
            break
        found.append((module, Path(spec.origin).resolve() if spec.has_location and spec.origin else None))
        if spec.submodule_search_locations is None:
            break
        places = list(getattr(spec.submodule_search_locations, "_path", spec.submodule_search_locations))
    return found


def _spec(module: str, places: list[str] | None) -> ModuleSpec | None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__spec__", None)
    specs = (finder.find_spec(module, places) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _memorable(target: str) -> Iterator[tuple[str, Path]]:
    parts = target.split(".")
    if parts[0] in NEVER_REMEMBERED or not all(part.isidentifier() for part in parts):
        return
    modules = located(target)
    # An object may be re-exported by the module through which it is reached.
    value: object = sys.modules.get(modules[-1][0]) if modules else None
    for part in parts[len(modules) :]:
        value = getattr(value, part, None)
    home = getattr(value, "__module__", None)
    if isinstance(home, str) and home.split(".")[0] not in NEVER_REMEMBERED:
        modules += located(home)
    for module, file in modules:
        if file is not None:
            yield module, file


def _default_path() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or ""
    # The specification has relative paths ignored.
    state = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state"
    return state / "runner" / "trusted.json"


def _read(path: Path) -> dict[str, frozenset[Path]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != 1:
            raise ValueError(f"format {value['format']!r}; this runner reads 1")
        return {module: frozenset(Path(file) for file in files) for module, files in value["modules"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        log.warning("%s: cannot be read (%s: %s), so nothing is remembered as trusted", path, type(e).__name__, e)
        return {}


def _write(path: Path, modules: Mapping[str, Iterable[Path]]) -> None:
    value = {"format": 1, "modules": {name: sorted(map(str, files)) for name, files in sorted(modules.items())}}
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time. Where the file system has no locks, two writers may lose what one of them adds."""
    with path.with_name(f"{path.name}.lock").open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
