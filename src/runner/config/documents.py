"""The config as it is written: beside every checkpoint, and once an attempt in the run directory.

config.yaml                 as composed, interpolations unresolved, without secrets
config.json                 what was built: resolved; values from the environment keep their interpolation
.hydra/                     config.yaml, overrides.yaml and hydra.yaml of the first attempt, under Hydra's names
.hydra/attempts/NNN/        those of every attempt
"""

import json
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.composing import Config
from runner.config.digests import environment_digests, from_environment
from runner.config.interpolation import leaves, replaced
from runner.config.secrets import redact, redact_overrides
from runner.errors import FormatError
from runner.rundir import RunDir

COMPOSED = "config.yaml"
BUILT = "config.json"
MOST_BYTES = 16 * 1024 * 1024
_ITEMS = "_items_"
_HYDRAS = ("hydra", "defaults")
"""Keys that are Hydra's own, and in no config that the runner has written."""


@dataclass(frozen=True)
class SavedConfig:
    """A config as it was read from where it had been written."""

    where: Path
    """The checkpoint, or the directory `.hydra`, that holds it."""
    composed: dict[str, Any]
    written: dict[str, Any]
    """Resolved, in the form in which it is written."""
    overrides: tuple[str, ...]
    choices: dict[str, str]
    environment: dict[str, str]
    """Digests of what came from the environment."""


def documents(config: Config) -> dict[str, bytes]:
    """The files that every checkpoint holds about the config it was made with."""
    built = {
        "config": _with_text_keys(written(config)),
        "overrides": redact_overrides(config.overrides),
        "choices": config.choices,
        "environment": environment_digests(config),
    }
    return {
        COMPOSED: _yaml(redact(config.composed)),
        BUILT: (json.dumps(built, indent=1, ensure_ascii=False) + "\n").encode(),
    }


def written(config: Config) -> dict[str, Any]:
    """The resolved config as it is saved: no secrets, and what comes from the environment still says so."""
    literal = {path: text.replace("${", "\\${") for path, text in leaves(config.resolved) if _is_literal(text)}
    return cast(dict[str, Any], redact(replaced(config.resolved, literal | from_environment(config))))


def _is_literal(value: Any) -> bool:
    """A text that looks like an interpolation after all of them have been resolved."""
    return isinstance(value, str) and "${" in value


def resolved(config: Mapping[str, Any], keys: Collection[str] | None = None) -> dict[str, Any]:
    """What was built, from the "config" of a config.json; what comes from the environment is read here and now.

    Where `keys` are given, only what stands under them is resolved: the rest may want what is not there any more.
    """
    try:
        made = OmegaConf.create(cast(dict[str, Any], _with_own_keys(config)))
        return {str(key): _plain(made, key) for key in made if keys is None or key in keys}
    except OmegaConfBaseException as error:
        raise FormatError(f"{BUILT}: {str(error).splitlines()[0]}; set what it asks for") from error


def _plain(made: DictConfig, key: Any) -> Any:
    value = "???" if OmegaConf.is_missing(made, key) else made[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def saved_config(composed: bytes, built: bytes, *, where: Path) -> SavedConfig:
    """The config out of the bytes of config.yaml and config.json, which may be anybody's. `where` is for messages."""
    values = _json(built, where / BUILT)
    try:
        config, overrides, choices = values["config"], values["overrides"], values["choices"]
        if not isinstance(config, dict) or not isinstance(choices, dict):
            raise TypeError("config or choices is no mapping")
        if not isinstance(overrides, list) or not all(isinstance(one, str) for one in overrides):
            raise TypeError("overrides is no list of texts")
        written_config = cast(dict[str, Any], _with_own_keys(config))
        # Not in what earlier versions have saved.
        environment = dict(values["environment"]) if "environment" in values else {}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{where / BUILT}: not a saved config ({type(error).__name__}: {error}); use another checkpoint"
        ) from error
    tree = _mapping(composed, where / COMPOSED)
    for key in _HYDRAS:
        # Pinned, or in the place of the primary config, it would say what Hydra itself is to execute.
        if key in tree:
            raise FormatError(f"{where / COMPOSED}: has the key {key!r}, which is Hydra's own; use another checkpoint")
    return SavedConfig(where, tree, written_config, tuple(overrides), choices, environment)


def write_hydra_files(run: RunDir, attempt: int, config: Config) -> None:
    """Write what Hydra would write about this attempt, without secrets, over nothing that is there."""
    files = {
        **documents(config),
        "overrides.yaml": _yaml(redact_overrides(config.overrides)),
        "hydra.yaml": _yaml({"hydra": _without_help(redact(_redacted_lists(config.hydra)))}),
    }
    for directory in (run.hydra, run.hydra / "attempts" / f"{attempt:03d}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if not (directory / name).exists():
                (directory / name).write_bytes(data)


@contextmanager
def sweep_file_redacted() -> Iterator[None]:
    """Inside, the multirun.yaml that a sweeper of Hydra makes of its whole config is written without secrets.

    Sweepers write it with `OmegaConf.save` and start the first job at once, or hand it to a cluster that starts it
    tomorrow: nothing of ours comes between, so the saving itself is taken over.
    """
    save = OmegaConf.save

    def save_redacted(config: Any, f: Any, resolve: bool = False) -> None:
        if not isinstance(f, str | Path) or Path(f).name != "multirun.yaml":
            save(config, f, resolve)
            return
        clean = redact(OmegaConf.to_container(config, resolve=resolve))
        Path(f).write_bytes(_yaml({**clean, "hydra": _redacted_lists(clean["hydra"])}))

    OmegaConf.save = staticmethod(save_redacted)  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.save = staticmethod(save)  # type: ignore[method-assign]


def _mapping(data: bytes, where: Path) -> dict[str, Any]:
    """YAML that may be anybody's. Aliases are refused: a few hundred bytes of them expand into gigabytes."""
    _check_size(data, where)
    try:
        value = yaml.load(data, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"{where}: not readable YAML ({reason}); use another checkpoint") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: holds a {type(value).__name__}; wanted a mapping; use another checkpoint")
    return value


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as `_yaml` writes it. Without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            at = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read", at)
        return super().compose_node(parent, index)


def _json(data: bytes, where: Path) -> dict[str, Any]:
    _check_size(data, where)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not readable JSON ({error}); use another checkpoint") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: holds a {type(value).__name__}; wanted a mapping; use another checkpoint")
    return value


def _check_size(data: bytes, where: Path) -> None:
    if len(data) > MOST_BYTES:
        raise FormatError(
            f"{where}: {len(data)} bytes, and no config has more than {MOST_BYTES}; use another checkpoint"
        )


def _yaml(value: Any) -> bytes:
    return OmegaConf.to_yaml(OmegaConf.create(value)).encode()


def _redacted_lists(hydra: Mapping[str, Any]) -> dict[str, Any]:
    """The node `hydra` without the secrets in the overrides that it repeats."""
    overrides = {name: redact_overrides(words) for name, words in hydra["overrides"].items()}
    job = {**hydra["job"], "override_dirname": "???"}
    return {**hydra, "overrides": overrides, "job": job}


def _without_help(hydra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hydra.items() if key not in ("help", "hydra_help")}


def _with_text_keys(value: Any) -> Any:
    """JSON has texts for keys only; a mapping with others is written as a list of pairs."""
    if isinstance(value, Mapping):
        items = {key: _with_text_keys(inner) for key, inner in value.items()}
        return items if all(isinstance(key, str) for key in items) else {_ITEMS: [[k, v] for k, v in items.items()]}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list) else value


def _with_own_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_ITEMS}:
            pairs = cast(list[tuple[Hashable, Any]], value[_ITEMS])
            return {key: _with_own_keys(inner) for key, inner in pairs}
        return {key: _with_own_keys(inner) for key, inner in value.items()}
    return [_with_own_keys(inner) for inner in value] if isinstance(value, list) else value
