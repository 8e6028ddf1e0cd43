"""A run composed again: the launch is rewritten, so that Hydra composes what was trained, and what is typed on top.

    saved overrides + this launch's overrides + pins where conf/ has drifted + hydra.run.dir

If the saved overrides no longer compose, the saved config itself takes the place of the primary config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from runner.config.composing import Composition, compose, parse
from runner.config.documents import SavedConfig
from runner.config.drift import is_drift, pins_of_launch
from runner.config.finding import Found
from runner.config.replay import Combined, as_text, combined, packages, repeatable
from runner.config.sources import Sources, config_loader
from runner.errors import ConfigError

_PRIMARY = "runner_saved_config"
_QUIET = ({"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"})


@dataclass(frozen=True)
class Replay:
    """A run composed again, not checked yet."""

    found: Found
    saved: SavedConfig
    composition: Composition
    argv: tuple[str, ...]
    """The launch as Hydra gets it."""
    overrides: tuple[str, ...]
    """What was typed at this launch."""
    notes: tuple[str, ...]


def compose_again(found: Found, saved: SavedConfig, overrides: Sequence[str], *, sources: Sources) -> Replay:
    """The config of a run as it was, with this launch's overrides on top."""
    loader = config_loader(sources)
    kept, left_out = repeatable(saved.overrides)
    launch = _Launch(found, saved, sources, loader, tuple(kept), tuple(parse(overrides, loader)))
    base = launch.as_saved()
    both = launch.combined(base)
    rewritten = None if base is None else launch.on_conf(base, both)
    if rewritten is None:
        rewritten = launch.on_saved_config(both)
    notes = (*found.notes, *left_out, *rewritten.notes, *both.notes)
    return Replay(found, saved, rewritten.composition, rewritten.argv, tuple(overrides), notes)


@dataclass(frozen=True)
class _Rewritten:
    composition: Composition
    argv: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Launch:
    """What is rewritten, and the two ways to do that."""

    found: Found
    saved: SavedConfig
    sources: Sources
    loader: ConfigLoader
    kept: tuple[Override, ...]
    """The saved overrides that may be repeated."""
    typed: tuple[Override, ...]

    @property
    def directory(self) -> list[str]:
        """The run's own; none for a run that is still to begin."""
        return [] if self.found.run is None else [f"hydra.run.dir={as_text(str(self.found.run.path))}"]

    def draw(self) -> int:
        """A seed that was drawn stays what it was."""
        seed = self.saved.written.get("seed")
        return seed if isinstance(seed, int) else 0

    def as_saved(self) -> Composition | None:
        """The saved overrides alone on today's conf/; None if they no longer compose."""
        try:
            base = compose(_texts(self.kept), sources=self.sources, draw_seed=self.draw)
        except ConfigError:
            return None
        return base if base.whole else None

    def combined(self, base: Composition | None) -> Combined:
        """The saved overrides and those typed now in one list; `base` is what the saved ones alone compose."""
        places = {} if base is None else packages(self.loader, self.sources.config_name, _texts(self.kept))
        earlier = OmegaConf.create(self.saved.composed) if base is None else base.node

        def package_of(key: str) -> str | None:
            return places.get(key, key.replace("/", ".") if self.loader.get_group_options(key) else None)

        return combined(
            self.kept,
            [one for one in self.typed if not one.is_hydra_override()],
            choices=self.saved.choices,
            exists=lambda key: OmegaConf.select(earlier, key, default=None) is not None,
            package_of=package_of,
        )

    def on_conf(self, base: Composition, both: Combined) -> _Rewritten | None:
        """All overrides on today's conf/, pinned to what it was; None if that cannot be done."""
        hydra = _texts(one for one in self.typed if one.is_hydra_override())
        argv = [*hydra, *both.overrides, *self.directory]
        composition = compose(argv, sources=self.sources, draw_seed=self.draw, recorded=both.overrides)
        pins = pins_of_launch(self.saved, base.config, composition.config, switched=both.switched)
        if not pins or not composition.whole:
            return _Rewritten(composition, tuple(argv))
        # After the saved overrides, so that they win over them; what this launch changes is not pinned.
        argv = [*hydra, *both.overrides, *(pin.override for pin in pins), *self.directory]
        composition = compose(argv, sources=self.sources, draw_seed=self.draw, recorded=both.overrides)
        if not composition.whole:
            return None
        keys = [one.key_or_group for one in self.kept]
        told = [pin.override for pin in pins if is_drift(pin, base.config, typed=keys)]
        notes = (f"conf/ has changed since; as it was saved: {override}" for override in told)
        return _Rewritten(composition, tuple(argv), tuple(notes))

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
        ConfigStore.instance().store(_PRIMARY, {"defaults": ["_self_", *_QUIET], **primary})
        sources = replace(self.sources, config_name=_PRIMARY)
        composition = compose(argv, sources=sources, draw_seed=self.draw, recorded=both.overrides)
        note = "its saved overrides no longer compose with conf/; the saved config itself is used"
        return _Rewritten(composition, (f"--config-name={_PRIMARY}", *argv), (note,))


def _texts(overrides: Iterable[Override]) -> list[str]:
    return [one.input_line or "" for one in overrides]
