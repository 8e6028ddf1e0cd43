"""What a command line holds besides overrides: the launch words (`+resume +allow +reset +trust`) and Hydra's flags.

Launch words are taken off as raw text before Hydra sees the line, because paths hold `=`, commas and spaces.
They are never saved as overrides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.names import nearest
from runner.errors import ConfigError

LAUNCH_WORDS = ("resume", "allow", "reset", "trust")
_FLAGS_WITH_VALUE = {
    "--cfg": "--cfg",
    "-c": "--cfg",
    "--package": "--package",
    "-p": "--package",
    "--config-path": "--config-path",
    "-cp": "--config-path",
    "--config-name": "--config-name",
    "-cn": "--config-name",
    "--config-dir": "--config-dir",
    "-cd": "--config-dir",
}
_FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
)
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_REFUSED = "--experimental-rerun"


@dataclass(frozen=True, slots=True)
class Words:
    """The launch words of one command line."""

    resume: str | None = None
    """A run directory, a checkpoint or `latest`, with `@best` or `@step=N` behind it, or `auto`; as it was typed."""
    allow: tuple[str, ...] = ()
    """Structural differences that a resume may have: `model`."""
    reset: tuple[str, ...] = ()
    """Parts of the restored state that start anew."""
    trust: tuple[str, ...] = ()
    """Modules whose targets a config from a file may name."""


def read_line(argv: Sequence[str]) -> tuple[Words, list[str], list[str]]:
    """The launch words, Hydra's flags and the overrides of a command line. ConfigError for what has no sense in it."""
    words, rest = split_words([_quoted(argument) for argument in argv])
    for word, names in (("allow", words.allow), ("reset", words.reset)):
        if names and words.resume is None:
            typed = f"+{word}=[{','.join(names)}]"
            raise ConfigError(f"{typed}: says how to go on with a run; add +resume=RUN, or leave it out")
    return words, *split_flags(rest)


def _quoted(argument: str) -> str:
    """`init_from=RUN@step=3` as an override that Hydra can read: a bare value cannot hold a `=`."""
    name, _, value = argument.partition("=")
    if name.lstrip("+") != "init_from" or "=" not in value or not set("'\"[]{}$\\").isdisjoint(value):
        return argument
    # Of a sweep, each value on its own.
    quoted = (f'"{part}"' if "=" in part else part for part in value.split(","))
    return f"{name}={','.join(quoted)}"


def split_words(argv: Sequence[str]) -> tuple[Words, list[str]]:
    """The launch words of `argv`, and the rest of it in its order. ConfigError for a word without a value."""
    found: dict[str, list[str]] = {word: [] for word in LAUNCH_WORDS}
    rest = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        word = name.removeprefix("+")
        if not name.startswith("+") or word not in LAUNCH_WORDS:
            rest.append(argument)
        elif not equals or not value.strip():
            raise ConfigError(f"+{word}: no value; type +{word}={_EXAMPLES[word]}")
        else:
            found[word].append(value)
    if len(found["resume"]) > 1:
        raise ConfigError(f"+resume is typed {len(found['resume'])} times; one run can be resumed at a time")
    return (
        Words(
            resume=found["resume"][0] if found["resume"] else None,
            allow=_names(found["allow"]),
            reset=_names(found["reset"]),
            trust=_names(found["trust"]),
        ),
        rest,
    )


_EXAMPLES = {"resume": "latest", "allow": "[model]", "reset": "[optimizer]", "trust": "[mypackage]"}


def _names(values: Sequence[str]) -> tuple[str, ...]:
    """`[a,b]`, `a,b` and `a`, typed once or several times, all mean the same."""
    listed = (name.strip(" '\"") for value in values for name in value.strip().strip("[]").split(","))
    return tuple(dict.fromkeys(name for name in listed if name))


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, each as one argument and in long form where it has a value, and the overrides.

    Flags may stand anywhere; argparse, on its own, refuses `a=1 -m b=2`.
    """
    flags: list[str] = []
    overrides: list[str] = []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            overrides += waiting
            break
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name == _REFUSED:
            raise ConfigError(f"{_REFUSED} executes what is pickled in its file; use +resume=RUN to go on with a run")
        elif name in ("--info", "-i"):
            asked = value if equals else waiting.pop(0) if waiting and waiting[0] in _INFO else "all"
            flags.append(f"--info={asked}")
        elif name in _FLAGS_WITH_VALUE:
            if not equals and not waiting:
                raise ConfigError(f"{argument}: no value; type {argument} VALUE")
            flags.append(f"{_FLAGS_WITH_VALUE[name]}={value if equals else waiting.pop(0)}")
        elif argument in _FLAGS:
            flags.append(argument)
        else:
            known = [flag for flag in (*_FLAGS, *_FLAGS_WITH_VALUE, "--info") if flag.startswith("--")]
            near = nearest(name, known)
            advice = f"did you mean {near!r}?" if near else "see runner --help and runner --hydra-help"
            raise ConfigError(f"{argument}: no such flag; {advice}")
    return flags, overrides
