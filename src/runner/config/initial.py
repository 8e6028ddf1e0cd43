"""What `init_from` names: weights that a new run begins with. Looked for before the run directory is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.listing import expanded, split_choice
from runner.config.composing import Config
from runner.config.names import shown
from runner.errors import CheckpointError

KEY = "init_from"
SECTION = "init"


@dataclass
class Init:
    """`init`: how the weights of `init_from` are loaded."""

    strict: bool
    rename: Any
    """Rules by which names in the file become the model's: {prefix or pattern: text}, or None."""
    include: Any
    """Patterns for the model's names: only these are loaded; None for all."""
    exclude: Any
    weights: str
    """`raw` or `averaged`: which ones, of a run of ours."""

    def __post_init__(self) -> None:
        problems = []
        self.rename = {} if self.rename is None else self.rename
        if not isinstance(self.rename, Mapping):
            problems.append(f"init.rename is {shown(self.rename)}; wanted {{encoder.:backbone.}} or its like, or null")
        else:
            problems += [f"init.rename {problem}" for problem in map(_rule_problem, self.rename.items()) if problem]
        for name in ("include", "exclude"):
            value = getattr(self, name)
            patterns = [value] if isinstance(value, str) else value
            if patterns is not None and not (
                isinstance(patterns, list) and all(isinstance(one, str) and one for one in patterns)
            ):
                problems.append(f"init.{name} is {shown(value)}; wanted patterns, such as [head.*], or null")
            setattr(self, name, patterns)
        if self.weights not in ("raw", "averaged"):
            problems.append(f"init.weights is {shown(self.weights)}; wanted raw or averaged")
        if problems:
            raise ValueError("\n".join(problems))


def _rule_problem(rule: tuple[Any, Any]) -> str | None:
    left, right = rule
    if not isinstance(left, str) or not isinstance(right, str):
        return f"has {shown(left)}: {shown(right)}; wanted names on both sides; write 0.*:x.* for what begins with 0."
    # Here, because few runs have rules, and starting is to be quick.
    from runner.checkpoint.matching import rule_problem

    return rule_problem(left, right)


@dataclass(frozen=True)
class Initial:
    """Weights to begin with."""

    text: str
    """As it stands in the config."""
    path: Path
    """Absolute: the current directory may be another one when the weights are read."""
    which: str | int
    init: Init


def initial(config: Config, init: Init | None) -> tuple[Initial | None, list[str]]:
    """What a config names to begin with, if anything, and what is wrong with how it is named."""
    text = config.resolved.get(KEY)
    if text is None:
        return None, []
    if not isinstance(text, str) or not text.strip():
        return None, [f"{KEY} is {shown(text)}; wanted a path, or null"]
    if init is None:
        return None, []
    path, which = _located(text, config)
    return Initial(text, path, which, init), []


def not_there(config: Config) -> list[str]:
    """What can be seen to be wrong with what a new run is to begin with, before anything is made."""
    text = config.resolved.get(KEY)
    if not isinstance(text, str) or not text.strip():
        # The check tells.
        return []
    path, which = _located(text, config)
    try:
        from runner.checkpoint.interop import look

        look(path, which)
    except CheckpointError as error:
        return [f"{KEY}={text}: {error}"]
    except OSError as error:
        return [f"{KEY}={text}: cannot be looked at ({error.strerror}); name what you may read"]
    return []


def _located(text: str, config: Config) -> tuple[Path, str | int]:
    # A job may have gone into its own directory by now; Hydra notes where it was launched.
    path, which = split_choice(str(Path(config.hydra["runtime"]["cwd"]) / expanded(text)))
    return Path(path), which
