"""A run composed again: the launch is rewritten, so that Hydra composes what was trained, and what is typed on top.

    saved overrides + pins where conf/ has drifted + this launch's overrides + hydra.run.dir

If the saved overrides no longer compose, the saved config itself takes the place of the primary config.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from runner.config.check import unread
from runner.config.composing import Composition, compose, parse
from runner.config.documents import SavedConfig
from runner.config.drift import is_drift, pins_of_launch, with_new_settings, without_pins
from runner.config.finding import Found
from runner.config.replay import Chosen, Combined, chosen, combined, in_directory, repeatable, texts
from runner.config.saved_primary import NAME, saved_as_primary
from runner.config.sources import Sources, config_loader
from runner.errors import ConfigError


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
    base, reasons = launch.as_saved()
    rewritten = None if base is None else launch.on_conf(base)
    if rewritten is None:
        rewritten = launch.on_saved_config(reasons)
    composition = _without_unread(rewritten.composition, saved)
    notes = (*found.notes, *left_out, *rewritten.notes)
    return Replay(found, saved, composition, rewritten.argv, tuple(overrides), notes)


def _without_unread(composition: Composition, saved: SavedConfig) -> Composition:
    """Without values that conf/ has got since for its other values, where those stay as they were."""
    config, typed = composition.config, [one.key_or_group.partition(".")[0] for one in composition.typed]
    gone = [key for key in unread(config.composed) if key not in saved.composed and key not in typed]
    kept, resolved = (
        {key: value for key, value in tree.items() if key not in gone} for tree in (config.composed, config.resolved)
    )
    return replace(composition, config=replace(config, composed=kept, resolved=resolved))


@dataclass(frozen=True)
class _Rewritten:
    composition: Composition
    argv: tuple[str, ...]
    notes: tuple[str, ...]


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

    def as_saved(self) -> tuple[Composition | None, Sequence[str]]:
        """The saved overrides alone on today's conf/; or None, and why they no longer compose."""
        try:
            base = self._composed(texts(self.kept))
        except ConfigError as error:
            return None, error.problems
        return (base, ()) if base.whole else (None, base.problems)

    def on_conf(self, base: Composition) -> _Rewritten | None:
        """All overrides on today's conf/, pinned to what it was; None if that cannot be done."""
        switched = self._switched(base) if self._typed_groups else {}
        both = self._combined(base.node, switched)
        line = [*self._for_hydra, *both.overrides, *self._directory]
        composition = self._composed(line, recorded=both.overrides)
        pins = pins_of_launch(self.saved, base.config, composition.config, switched=switched)
        if not pins:
            return _Rewritten(composition, tuple(line), both.notes)
        if not all(pin.typeable for pin in pins):
            return None
        # After the saved overrides, so that they win over them; before the new ones, which may change what they add.
        pinned = [*both.repeated, *(text for pin in pins for text in pin.line)]
        line = [*self._for_hydra, *pinned, *both.added, *self._directory]
        composition = self._composed(line, recorded=[*both.repeated, *without_pins(both.added, pins, base.config)])
        if not composition.whole and not self._composed(pinned).whole:
            return None
        typed = [one.key_or_group for one in self.kept]
        told = [pin.override for pin in pins if is_drift(pin, base.config, typed=typed)]
        notes = (f"conf/ has changed since; as it was saved: {override}" for override in told)
        return _Rewritten(composition, tuple(line), (*notes, *both.notes))

    def on_saved_config(self, reasons: Sequence[str]) -> _Rewritten:
        """The saved config in the place of the primary one; `reasons` are why that has to be."""
        saved = self._with_new_settings()
        primary = saved_as_primary(saved, self.saved.choices, self._new, loader=self.loader)
        switched = {package: self._cause(group) for group, package in primary.switched.items()}
        both = self._combined(OmegaConf.create(dict(saved)), switched)
        line = [*self._for_hydra, *primary.line, *self._directory]
        composition = compose(
            line, sources=replace(self.sources, config_name=NAME), draw_seed=self._draw, recorded=both.overrides
        )
        anew = {group: option for group, option in composition.config.choices.items() if group in primary.switched}
        config = replace(composition.config, choices={**self.saved.choices, **anew})
        composition = replace(composition, config=config, problems=(*primary.problems, *composition.problems))
        why = f" ({reasons[0].partition(';')[0]})" if reasons else ""
        note = f"its saved overrides no longer compose with conf/{why}; the saved config itself is used"
        return _Rewritten(composition, (f"--config-name={NAME}", *line), (note, *both.notes))

    def _with_new_settings(self) -> Mapping[str, Any]:
        """The saved config, completed with what a newer runner wants, if conf/ has it."""
        with suppress(ConfigError):
            return with_new_settings(self.saved.composed, self._composed([]).config.composed)
        return self.saved.composed

    def _combined(self, earlier: DictConfig, switched: Mapping[str, str]) -> Combined:
        return combined(
            self.kept,
            self._new,
            switched=switched,
            is_group=self._is_group,
            exists=lambda key: OmegaConf.select(earlier, key, default=None) is not None,
        )

    def _switched(self, base: Composition) -> dict[str, str]:
        """The keys under which another option stands now, also because a chosen one has chosen it; and who did that."""
        places = chosen(self.loader, self.sources.config_name, texts(self.kept))
        try:
            now = chosen(self.loader, self.sources.config_name, self._combined(base.node, {}).overrides)
        except HydraException:
            # What is wrong with an option is told when it is composed.
            now = {**places, **{group: Chosen("", group) for group in self._typed_groups}}
        found = {}
        for group in dict.fromkeys([*places, *now]):
            before, after = places.get(group), now.get(group)
            if before is None or after is None or before.option != after.option:
                found[(before or after or Chosen("", group)).package] = self._cause(group)
        return found

    def _cause(self, group: str) -> str:
        """What was typed that has another option of a group chosen."""
        own = [one for one in self._new if one.key_or_group == group]
        return " ".join(texts(own or [one for one in self._new if one.key_or_group in self._typed_groups]))

    @property
    def _typed_groups(self) -> list[str]:
        return [one.key_or_group for one in self._new if self._is_group(one.key_or_group)]

    def _is_group(self, key: str) -> bool:
        return bool(self.loader.get_group_options(key))

    @property
    def _new(self) -> list[Override]:
        return [one for one in self.typed if not one.is_hydra_override()]

    @property
    def _for_hydra(self) -> list[str]:
        """What was typed for Hydra itself; it is not saved."""
        return texts(one for one in self.typed if one.is_hydra_override())

    @property
    def _directory(self) -> list[str]:
        """The run's own; none for a run that is still to begin."""
        return [] if self.found.run is None else [in_directory(str(self.found.run.path))]

    def _composed(self, line: Sequence[str], *, recorded: Sequence[str] | None = None) -> Composition:
        return compose(line, sources=self.sources, draw_seed=self._draw, recorded=recorded)

    def _draw(self) -> int:
        """A seed that was drawn stays what it was."""
        seed = self.saved.written.get("seed")
        return seed if isinstance(seed, int) else 0
