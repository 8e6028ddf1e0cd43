"""Going on with a run: find it, compose it again, let nothing through that is not trusted, judge what differs.

prepare_resume()   before the config is checked: what `+resume=` names, composed again (recomposing.py)
resumed()          after that: what differs from what was saved, and whether the run can go on with it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoint.handle import Checkpoint
from runner.config.composing import Config
from runner.config.diff import NOT_THERE, STRUCTURAL, Difference, differences
from runner.config.documents import BUILT, COMPOSED, SavedConfig, saved_config, written
from runner.config.finding import Found, find
from runner.config.identity import BEGINNING
from runner.config.names import shown
from runner.config.own_targets import check_own
from runner.config.recomposing import Replay, compose_again
from runner.config.sources import Sources
from runner.config.words import Words
from runner.errors import CheckpointError, ConfigError, ResumeError
from runner.trust_memory import TrustMemory

ALLOWABLE = ("model",)
RESETTABLE = ("optimizer", "scheduler")


@dataclass(frozen=True)
class Resumption:
    """A checkpoint to go on from, and how the run will differ from what it was."""

    checkpoint: Checkpoint
    argv: tuple[str, ...]
    """The launch as Hydra got it."""
    overrides: tuple[str, ...]
    """What was typed at this launch."""
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]


def prepare_resume(
    words: Words, overrides: Sequence[str], *, sources: Sources, memory: TrustMemory, outputs: Path = Path("outputs")
) -> Replay:
    """Find the run, compose it again, and let nothing through that this user does not trust. Changes nothing."""
    assert words.resume is not None
    return replayed(find(words.resume, outputs=outputs), words, overrides, sources=sources, memory=memory)


def replayed(found: Found, words: Words, overrides: Sequence[str], *, sources: Sources, memory: TrustMemory) -> Replay:
    """The same of what was found already."""
    _check_names("allow", words.allow, ALLOWABLE)
    _check_names("reset", words.reset, RESETTABLE)
    saved = _saved(found)
    replay = compose_again(found, saved, overrides, sources=sources)
    config = replay.composition.config.resolved
    check_own(config, overrides, trusted=words.trust, memory=memory, sources=sources, where=saved.where)
    return replay


def _check_names(word: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"+{word}=[{','.join(unknown)}]: wanted one of {', '.join(known)}")


def _saved(found: Found) -> SavedConfig:
    """The config that the checkpoint was made with; that of the first attempt if there is no checkpoint."""
    try:
        if found.checkpoint is not None:
            where = found.checkpoint.path
            composed, built = found.checkpoint.document(COMPOSED), found.checkpoint.document(BUILT)
        else:
            assert found.run is not None
            where = found.run.hydra
            composed, built = (where / COMPOSED).read_bytes(), (where / BUILT).read_bytes()
        return saved_config(composed, built, where=where)
    except (CheckpointError, OSError) as error:
        raise ResumeError(f"{where}: its saved config cannot be read ({error})") from error


def resumed(replay: Replay, config: Config, words: Words) -> Resumption | None:
    """How the run will differ from what was saved; None where there is no checkpoint to go on from.

    ResumeError if the model is another one, unless that was allowed.
    """
    if replay.found.checkpoint is None:
        return None
    found = differences(replay.saved.written, written(config))
    _check_beginning(replay, config, found)
    refused = [one for one in found if one.kind == STRUCTURAL and one.key.split(".")[0] not in words.allow]
    if refused:
        advice = "the saved state may not fit another model; type +allow=[model] to go on all the same"
        raise ResumeError("\n".join([*map(_line, refused), advice]))
    return Resumption(replay.found.checkpoint, replay.argv, replay.overrides, replay.notes, tuple(found))


def _check_beginning(replay: Replay, config: Config, found: Sequence[Difference]) -> None:
    """Raise ResumeError where another beginning is asked for: ignored in silence, it would be taken for done."""
    beginnings = (tree.get(BEGINNING[0]) for tree in (replay.saved.written, config.resolved))
    changed = [one for one in found if one.key.split(".")[0] in BEGINNING]
    if changed and any(beginning is not None for beginning in beginnings):
        advice = "the run has begun, and weights are not loaded into it again; leave this out, or begin a new run"
        raise ResumeError("\n".join([*map(_line, changed), advice]))


def _line(difference: Difference) -> str:
    return f"{difference.key} was {_shown(difference.saved)} and is {_shown(difference.now)} now"


def _shown(value: Any) -> str:
    return "not there" if value is NOT_THERE else shown(value)
