"""A config composed, checked and built, as a launch does it."""

import pytest

from runner.config.build import Training, build
from runner.config.check import check
from runner.config.composing import compose
from runner.config.fitting import fitted
from runner.config.sources import Sources
from runner.errors import ConfigError


def built(*overrides: str) -> Training:
    composition = compose(overrides, sources=Sources(), draw_seed=lambda: 0)
    config, _ = fitted(composition)
    settings = check(config, known_problems=composition.problems)
    return build(config.resolved, settings, seed=settings.seed)


def refused(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        built(*overrides)
    return error.value.problems
