"""Going on with a run: find it, compose it again, let nothing through that is not trusted, judge what differs.

prepare_resume()   before the config is checked: what `+resume=` names, composed again (recomposing.py)
resumed()          after that: what differs from what was saved, and whether the run can go on with it
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from runner.checkpoint.handle import Checkpoint
from runner.config.calls import DOOR
from runner.config.check import Settings, check
from runner.config.composing import Config
from runner.config.diff import NOT_THERE, STRUCTURAL, Difference, differences
from runner.config.digests import changed_environment
from runner.config.documents import BUILT, COMPOSED, SavedConfig, saved_config, written
from runner.config.drift import is_setting
from runner.config.finding import OUTPUTS, Found, find
from runner.config.identity import BEGINNING
from runner.config.kept_source import kept_sources
from runner.config.own_targets import check_own
from runner.config.recomposing import Replay, compose_again
from runner.config.replay import as_text
from runner.config.sources import Sources
from runner.config.words import Words
from runner.errors import CheckpointError, ConfigError, ResumeError, TrustError
from runner.training.parts import RESETTABLE
from runner.trust_memory import TrustMemory

ALLOWABLE = ("model",)


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

    @property
    def recorded(self) -> list[dict[str, Any]]:
        """The differences as they are noted with the attempt, and in the checkpoints that it saves."""
        return [
            {"key": one.key, "saved": _plain(one.saved), "now": _plain(one.now), "kind": one.kind}
            for one in self.differences
        ]


def prepare_resume(
    words: Words, overrides: Sequence[str], *, sources: Sources, memory: TrustMemory, outputs: Path = OUTPUTS
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
    try:
        check_own(config, overrides, trusted=words.trust, memory=memory, sources=sources, where=saved.where)
    except TrustError as error:
        kept = [] if found.checkpoint is None else kept_sources(found.checkpoint, config)
        raise TrustError("\n".join([str(error), *kept])) from error
    return replay


def check_again(replay: Replay, config: Config) -> Settings:
    """The settings of a config composed again. ConfigError with every problem, and what may have caused them."""
    try:
        return check(config, known_problems=replay.composition.problems)
    except ConfigError as error:
        if replay.found.checkpoint is None:
            raise
        causes = [*kept_sources(replay.found.checkpoint, config.resolved), *_other_version(replay.found.checkpoint)]
        raise ConfigError([*error.problems, *causes]) from error


def _other_version(checkpoint: Checkpoint) -> list[str]:
    """That another version of the runner has saved a checkpoint."""
    # Here, because only mistakes need it.
    from importlib.metadata import PackageNotFoundError, version

    versions = checkpoint.manifest.facts.get("versions")
    then = versions.get("runner") if isinstance(versions, Mapping) else None
    try:
        now = version("runner")
    except PackageNotFoundError:
        now = "one that is not installed as a package"
    return [] if then in (None, now) else [f"{checkpoint.path}: saved by runner {then}; this is {now}"]


def _check_names(word: str, names: Sequence[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"+{word}=[{','.join(unknown)}]: wanted one of {', '.join(known)}")


def _saved(found: Found) -> SavedConfig:
    """The config that the checkpoint was made with; that of the first attempt if there is no checkpoint."""
    try:
        if found.checkpoint is not None:
            where = found.checkpoint.path
            if DOOR in found.checkpoint.config:
                raise ResumeError(
                    f"{where}: was saved by {found.checkpoint.config[DOOR]}, and is of no run that could go on; "
                    f"init_from={where} begins one with its weights"
                )
            composed, built = found.checkpoint.document(COMPOSED), found.checkpoint.document(BUILT)
        else:
            assert found.run is not None
            where = found.run.hydra
            composed, built = (where / COMPOSED).read_bytes(), (where / BUILT).read_bytes()
        return saved_config(composed, built, where=where)
    except (CheckpointError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "use another checkpoint"
        if found.checkpoint is None:
            advice = "put it back, or launch a new run: this one has saved nothing yet"
        raise ResumeError(f"{where}: its saved config cannot be read ({reason}); {advice}") from error


def resumed(replay: Replay, config: Config, words: Words) -> Resumption | None:
    """How the run will differ from what was saved; None where there is no checkpoint to go on from.

    ResumeError if the model is another one, unless that was allowed.
    """
    if replay.found.checkpoint is None:
        return None
    now = written(config)
    found = [*differences(replay.saved.written, now), *changed_environment(replay.saved.environment, config)]
    added = [one for one in found if _is_new_setting(one, replay.composition.typed)]
    found = [one for one in found if one not in added]
    _check_beginning(replay, config, found)
    refused = [one for one in found if one.kind == STRUCTURAL and one.key.split(".")[0] not in words.allow]
    if refused:
        advice = "the saved state may not fit another model; type +allow=[model] to go on all the same"
        raise ResumeError("\n".join([*map(str, refused), advice]))
    notes = replay.notes
    if added:
        listed = ", ".join(f"{one.key}={as_text(one.now)}" for one in added)
        notes = (*notes, f"settings that were not there when it was saved, as conf/ has them: {listed}")
    return Resumption(replay.found.checkpoint, replay.argv, replay.overrides, notes, tuple(found))


def _is_new_setting(difference: Difference, typed: Sequence[Override]) -> bool:
    """Whether a setting has come since, with a newer runner or by an edit of conf/, and was not typed."""
    key, typed_keys = f"{difference.key}.", [f"{one.key_or_group}." for one in typed]
    is_typed = any(key.startswith(one) or one.startswith(key) for one in typed_keys)
    return difference.saved is NOT_THERE and is_setting(tuple(difference.key.split("."))) and not is_typed


def _check_beginning(replay: Replay, config: Config, found: Sequence[Difference]) -> None:
    """Raise ResumeError where another beginning is asked for: ignored in silence, it would be taken for done."""
    beginnings = (tree.get(BEGINNING[0]) for tree in (replay.saved.written, config.resolved))
    changed = [one for one in found if one.key.split(".")[0] in BEGINNING]
    if changed and any(beginning is not None for beginning in beginnings):
        advice = "the run has begun, and weights are not loaded into it again; leave this out, or begin a new run"
        raise ResumeError("\n".join([*map(str, changed), advice]))


def _plain(value: Any) -> Any:
    """A value that JSON has: not a number and infinity as texts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
