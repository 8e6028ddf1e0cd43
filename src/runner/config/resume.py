"""Going on with a run: the launch is rewritten, so that Hydra composes again what was trained.

    saved overrides + pins where conf/ has drifted + this launch's overrides + hydra.run.dir

If the saved overrides no longer compose, the saved config itself takes the place of the primary config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.checkpoint.handle import Checkpoint
from runner.config.composing import Composition, Config, compose, parse
from runner.config.diff import NOT_THERE, STRUCTURAL, Difference, differences
from runner.config.documents import BUILT as BUILT_FILE
from runner.config.documents import COMPOSED, SavedConfig, saved_config, written
from runner.config.finding import Found, find
from runner.config.identity import BEGINNING
from runner.config.interpolation import leaves, replaced
from runner.config.names import shown
from runner.config.replay import Combined, Pin, as_text, combined, packages, pins, repeatable
from runner.config.schema import SCHEMAS
from runner.config.secrets import redact
from runner.config.sources import Sources, config_loader
from runner.config.targets import GROUP_LEVEL, target_nodes
from runner.config.words import Words
from runner.errors import CheckpointError, ConfigError, ResumeError, TrustError
from runner.trust import check_targets
from runner.trust_memory import TrustMemory

ALLOWABLE = ("model",)
RESETTABLE = ("optimizer", "scheduler")
_NOW = "${now:"
_PRIMARY = "runner_saved_config"


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


@dataclass(frozen=True)
class Replay:
    """A run composed again, not checked yet."""

    found: Found
    saved: SavedConfig
    composition: Composition
    argv: tuple[str, ...]
    overrides: tuple[str, ...]
    notes: tuple[str, ...]


def prepare_resume(
    words: Words, overrides: Sequence[str], *, sources: Sources, memory: TrustMemory, outputs: Path = Path("outputs")
) -> Replay:
    """Find the run, compose it again, and let nothing through that this user does not trust. Changes nothing."""
    assert words.resume is not None
    unknown = [name for name in words.allow if name not in ALLOWABLE]
    if unknown:
        raise ConfigError(f"+allow=[{','.join(unknown)}]: wanted one of {', '.join(ALLOWABLE)}")
    unknown = [name for name in words.reset if name not in RESETTABLE]
    if unknown:
        raise ConfigError(f"+reset=[{','.join(unknown)}]: wanted one of {', '.join(RESETTABLE)}")
    found = find(words.resume, outputs=outputs)
    saved, where = _saved(found)
    replay = compose_again(found, saved, overrides, sources=sources)
    _check_trust(replay, words, memory, where=where, sources=sources)
    return replay


def _saved(found: Found) -> tuple[SavedConfig, Path]:
    """The config that the checkpoint was made with; that of the first attempt if there is no checkpoint."""
    try:
        if found.checkpoint is not None:
            where = found.checkpoint.path
            return saved_config(
                found.checkpoint.document(COMPOSED), found.checkpoint.document(BUILT_FILE), where=where
            ), where
        assert found.run is not None
        where = found.run.hydra
        return saved_config((where / COMPOSED).read_bytes(), (where / BUILT_FILE).read_bytes(), where=where), where
    except (CheckpointError, OSError) as error:
        place = where if found.run is None else found.run.path
        raise ResumeError(f"{place}: its saved config cannot be read ({error})") from error


def compose_again(found: Found, saved: SavedConfig, overrides: Sequence[str], *, sources: Sources) -> Replay:
    """The config of a run as it was, with this launch's overrides on top."""
    loader = config_loader(sources)
    launch = _Launch(found, saved, sources, loader, tuple(parse(overrides, loader)))
    kept, left_out = repeatable(saved.overrides)
    base = launch.as_saved(kept)
    places = {} if base is None else packages(loader, sources.config_name, _texts(kept))
    earlier = OmegaConf.create(saved.composed) if base is None else base.node
    both = combined(
        kept,
        [one for one in launch.typed if not one.is_hydra_override()],
        choices=saved.choices,
        exists=lambda key: OmegaConf.select(earlier, key, default=None) is not None,
        package_of=lambda key: places.get(key, key.replace("/", ".") if loader.get_group_options(key) else None),
    )
    notes = [*found.notes, *left_out]
    rewritten = None if base is None else launch.on_conf(base, both)
    if base is not None and rewritten is not None:
        told = [pin.override for pin in rewritten.pins if not _expected(pin, kept, base)]
        notes += [f"conf/ has changed since; as it was saved: {override}" for override in told]
    else:
        rewritten = launch.on_saved_config(both)
        notes.append("its saved overrides no longer compose with conf/; the saved config itself is used")
    return Replay(found, saved, rewritten.composition, rewritten.argv, tuple(overrides), (*notes, *both.notes))


@dataclass(frozen=True)
class _Rewritten:
    composition: Composition
    argv: tuple[str, ...]
    """The line that Hydra gets."""
    pins: Sequence[Pin] = ()


@dataclass(frozen=True)
class _Launch:
    """What is rewritten, and the two ways to do that."""

    found: Found
    saved: SavedConfig
    sources: Sources
    loader: ConfigLoader
    typed: tuple[Override, ...]

    @property
    def directory(self) -> list[str]:
        """The run's own; none for a run that is still to begin."""
        return [] if self.found.run is None else [f"hydra.run.dir={as_text(str(self.found.run.path))}"]

    def draw(self) -> int:
        """A seed that was drawn stays what it was."""
        seed = self.saved.written.get("seed")
        return seed if isinstance(seed, int) else 0

    def as_saved(self, kept: Sequence[Override]) -> Composition | None:
        """The saved overrides alone on today's conf/; None if they no longer compose."""
        try:
            base = compose(_texts(kept), sources=self.sources, draw_seed=self.draw)
        except ConfigError:
            return None
        return base if base.whole else None

    def on_conf(self, base: Composition, both: Combined) -> _Rewritten | None:
        """All overrides on today's conf/, pinned to what it was; None if that cannot be done."""
        hydra = _texts(one for one in self.typed if one.is_hydra_override())
        argv = [*hydra, *both.overrides, *self.directory]
        composition = compose(argv, sources=self.sources, draw_seed=self.draw, recorded=both.overrides)
        held = _pins(self.saved, base, composition, both.switched)
        if not held or not composition.whole:
            return _Rewritten(composition, tuple(argv))
        # After the saved overrides, so that they win over them; what this launch changes is not pinned.
        argv = [*hydra, *both.overrides, *(pin.override for pin in held), *self.directory]
        composition = compose(argv, sources=self.sources, draw_seed=self.draw, recorded=both.overrides)
        return _Rewritten(composition, tuple(argv), held) if composition.whole else None

    def on_saved_config(self, both: Combined) -> _Rewritten:
        """The saved config in the place of the primary one. A group that is chosen anew is taken out of it first."""
        primary = dict(self.saved.composed)
        there = OmegaConf.create(primary)
        argv = []
        for one in self.typed:
            text, key = one.input_line or "", one.key_or_group
            options = [] if one.is_delete() or one.is_hydra_override() else self.loader.get_group_options(key)
            if options:
                if one.value() in options:
                    primary.pop(key, None)
                argv.append(f"+{text.lstrip('+')}")
            elif one.is_add() and OmegaConf.select(there, key, default=None) is not None:
                argv.append(f"+{text}")
            else:
                argv.append(text)
        argv += self.directory
        quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
        ConfigStore.instance().store(_PRIMARY, {"defaults": ["_self_", *quiet], **primary})
        sources = replace(self.sources, config_name=_PRIMARY)
        composition = compose(argv, sources=sources, draw_seed=self.draw, recorded=both.overrides)
        return _Rewritten(composition, (f"--config-name={_PRIMARY}", *argv))


def _texts(overrides: Iterable[Override]) -> list[str]:
    return [one.input_line or "" for one in overrides]


def _expected(pin: Pin, kept: Sequence[Override], base: Composition) -> bool:
    """Whether a pin is needed although conf/ is what it was.

    A typed target had arguments of its option left out; a time that was interpolated has passed.
    """
    if pin.saved is NOT_THERE:
        targets = [one.key_or_group for one in kept if one.key_or_group.endswith("._target_")]
        return any(pin.key.startswith(target.removesuffix("_target_")) for target in targets)
    return _NOW in str(_at(base.config.composed, pin.path))


def _pins(saved: SavedConfig, base: Composition, now: Composition, switched: Sequence[str]) -> list[Pin]:
    """What conf/ gives differently today; without what this launch changes itself."""

    def keep_new(path: tuple[str | int, ...]) -> bool:
        # What a newer runner has added to its own sections is needed; anything else would be built differently.
        group = str(path[0])
        return len(path) == 1 or group in SCHEMAS or (group in GROUP_LEVEL and path[1] in GROUP_LEVEL[group])

    as_saved, as_typed = redact(base.config.composed), redact(now.config.composed)
    passed = {path: _at(saved.written, path) for path, text in leaves(saved.composed) if _NOW in str(text)}
    return [
        pin
        for pin in pins(replaced(saved.composed, passed), as_saved, keep_new=keep_new)
        if not any(f"{pin.key}.".startswith(f"{key}.") for key in switched)
        and _at(as_saved, pin.path) == _at(as_typed, pin.path)
    ]


def _at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return NOT_THERE
        tree = tree[part]
    return tree


def _check_trust(replay: Replay, words: Words, memory: TrustMemory, *, where: Path, sources: Sources) -> None:
    """Let through only targets that this user trusts. Those typed now are his own; so are those in his own conf/."""
    memory.remember(_typed_targets(replay.overrides))
    config = replay.composition.config.resolved
    try:
        check_targets(config, trusted=words.trust, memory=memory, where=str(where))
    except TrustError:
        memory.remember(_own_conf_targets(replay.overrides, sources))
        check_targets(config, trusted=words.trust, memory=memory, where=str(where))


def _typed_targets(overrides: Sequence[str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [one.value() for one in parsed if one.key_or_group.endswith("._target_") and not one.is_delete()]
    return [value for value in values if isinstance(value, str) and "." in value]


def _own_conf_targets(overrides: Sequence[str], sources: Sources) -> list[str]:
    """The targets that this launch would have without anything saved: they stand in conf/, ours or the user's own."""
    try:
        fresh = compose(overrides, sources=sources, draw_seed=lambda: 0)
    except ConfigError:
        return []
    names = [target.node["_target_"] for target in target_nodes(fresh.config.resolved)]
    return [name for name in names if isinstance(name, str) and "." in name]


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
        lines = [f"{one.key} was {_shown(one.saved)} and is {_shown(one.now)} now" for one in refused]
        raise ResumeError(
            "\n".join([*lines, "the saved state may not fit another model; type +allow=[model] to go on all the same"])
        )
    return Resumption(replay.found.checkpoint, replay.argv, replay.overrides, replay.notes, tuple(found))


def _check_beginning(replay: Replay, config: Config, found: Sequence[Difference]) -> None:
    """Raise ResumeError where another beginning is asked for: ignored in silence, it would be taken for done."""
    beginnings = (tree.get(BEGINNING[0]) for tree in (replay.saved.written, config.resolved))
    changed = [one for one in found if one.key.split(".")[0] in BEGINNING]
    if changed and any(beginning is not None for beginning in beginnings):
        lines = [f"{one.key} was {_shown(one.saved)} and is {_shown(one.now)} now" for one in changed]
        advice = "the run has begun, and weights are not loaded into it again; leave this out, or begin a new run"
        raise ResumeError("\n".join([*lines, advice]))


def _shown(value: Any) -> str:
    return "not there" if value is NOT_THERE else shown(value)
