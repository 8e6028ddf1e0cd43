"""The config as it is written: beside every checkpoint, and once an attempt in the run directory.

config.yaml                 as composed, interpolations unresolved, without secrets
config.json                 what was built: resolved; values from the environment keep their interpolation
.hydra/                     config.yaml, overrides.yaml and hydra.yaml of the first attempt, under Hydra's names
.hydra/attempts/NNN/        those of every attempt
"""

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from runner.config.composing import Config
from runner.config.interpolation import derived, leaves, replaced
from runner.config.secrets import redact, redact_overrides
from runner.errors import FormatError
from runner.rundir import RunDir

COMPOSED = "config.yaml"
BUILT = "config.json"
MOST_BYTES = 16 * 1024 * 1024
_ENVIRONMENT = re.compile(r"\$\{\s*(?:oc\.)?env\s*:")
_ITEMS = "_items_"


@dataclass(frozen=True)
class SavedConfig:
    """A config as it was read from where it had been written."""

    composed: dict[str, Any]
    written: dict[str, Any]
    """Resolved, in the form in which it is written."""
    overrides: tuple[str, ...]
    choices: dict[str, str]


def documents(config: Config) -> dict[str, bytes]:
    """The files that every checkpoint holds about the config it was made with."""
    built = {
        "config": _with_text_keys(written(config)),
        "overrides": redact_overrides(config.overrides),
        "choices": config.choices,
    }
    return {
        COMPOSED: _yaml(redact(config.composed)),
        BUILT: (json.dumps(built, indent=1, ensure_ascii=False) + "\n").encode(),
    }


def written(config: Config) -> dict[str, Any]:
    """The resolved config as it is saved: no secrets, and what comes from the environment still says so."""
    from_environment = derived(config.composed, lambda text: _ENVIRONMENT.search(text) is not None)
    literal = {path: text.replace("${", "\\${") for path, text in leaves(config.resolved) if _is_literal(text)}
    return cast(dict[str, Any], redact(replaced(config.resolved, literal | from_environment)))


def _is_literal(value: Any) -> bool:
    """A text that looks like an interpolation after all of them have been resolved."""
    return isinstance(value, str) and "${" in value


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """What was built, from the "config" of a config.json, with what comes from the environment as it is here and now."""
    try:
        made = OmegaConf.create(cast(dict[str, Any], _with_own_keys(config)))
        return cast(dict[str, Any], OmegaConf.to_container(made, resolve=True))
    except OmegaConfBaseException as error:
        raise FormatError(f"{BUILT}: {str(error).splitlines()[0]}; set what it asks for") from error


def read_documents(directory: Path) -> SavedConfig:
    """The config that a checkpoint was made with. FormatError if it is not there or not readable."""
    built = _read_json(directory / BUILT)
    try:
        config, overrides, choices = built["config"], built["overrides"], built["choices"]
        if not isinstance(config, dict) or not all(isinstance(one, str) for one in overrides):
            raise TypeError("config is no mapping, or overrides are no texts")
        composed = read_yaml(directory / COMPOSED)
        return SavedConfig(composed, cast(dict[str, Any], _with_own_keys(config)), tuple(overrides), dict(choices))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{directory / BUILT}: not a saved config ({type(error).__name__}: {error})") from error


def write_hydra_files(run: RunDir, attempt: int, config: Config) -> None:
    """Write what Hydra would write about this attempt, without secrets, over nothing that is there."""
    files = {
        COMPOSED: _yaml(redact(config.composed)),
        "overrides.yaml": _yaml(redact_overrides(config.overrides)),
        "hydra.yaml": _yaml({"hydra": _without_help(redact(_redacted_lists(config.hydra)))}),
        **{name: data for name, data in documents(config).items() if name == BUILT},
    }
    for directory in (run.hydra, run.hydra / "attempts" / f"{attempt:03d}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if not (directory / name).exists():
                (directory / name).write_bytes(data)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that may be anybody's. FormatError for what is no plain mapping; aliases are refused.

    Aliases, because a few hundred bytes of them expand into gigabytes.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path}: larger than {MOST_BYTES} bytes; no config is")
        value = yaml.load(path.read_bytes(), Loader=_plain_loader())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); it belongs to the checkpoint") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not readable YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: holds a {type(value).__name__}; wanted a mapping")
    return value


def _plain_loader() -> Any:
    """OmegaConf's loader, which reads 1e-3 as a number, without aliases."""

    class PlainLoader(get_yaml_loader()):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                at = self.peek_event().start_mark
                raise yaml.constructor.ConstructorError(None, None, "aliases are not read", at)
            return super().compose_node(parent, index)

    return PlainLoader


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path}: larger than {MOST_BYTES} bytes; no config is")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); it belongs to the checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: holds a {type(value).__name__}; wanted a mapping")
    return value


def _yaml(value: Any) -> bytes:
    return OmegaConf.to_yaml(OmegaConf.create(value)).encode()


def _redacted_lists(hydra: Mapping[str, Any]) -> dict[str, Any]:
    """The node `hydra` without the secrets in the overrides that it repeats."""
    overrides = {name: redact_overrides(words) for name, words in hydra["overrides"].items()}
    job = {key: value for key, value in hydra["job"].items() if key != "override_dirname"}
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
