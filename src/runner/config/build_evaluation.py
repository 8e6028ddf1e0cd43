"""What an evaluation needs of a config, in a training or apart from it: its settings, and the batches of a split."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runner.config.composing import compose
from runner.config.drift import with_new_settings
from runner.config.schema import Batching, Runtime, typed
from runner.config.sources import Sources
from runner.config.targets import GROUP_LEVEL
from runner.errors import ConfigError
from runner.records import World
from runner.training.plan import Limits, Trainer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from runner.data.batches import AnyBatches
    from runner.data.data import Data

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationSettings:
    """What a config says about how it is evaluated."""

    seed: int
    batching: Batching
    trainer: Trainer
    runtime: Runtime


def evaluation_settings(config: Mapping[str, Any]) -> EvaluationSettings:
    """The settings in `data`, `trainer`, `runtime` and `seed` of a resolved config. ConfigError with every problem.

    What a newer runner wants and an older config does not have is taken from conf/.
    """
    trainer, wrong = _section(Trainer, "trainer", config)
    runtime, more = _section(Runtime, "runtime", config)
    own = {key: config["data"][key] for key in GROUP_LEVEL["data"] if key in config["data"]}
    batching, most = typed(Batching, "data", own)
    problems = [*wrong, *more, *most]
    seed = config.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        problems.append(f"seed is {seed!r}; wanted a whole number; type seed=0")
    if trainer is None or runtime is None or batching is None or problems:
        raise ConfigError(problems)
    return EvaluationSettings(int(str(seed)), batching, trainer, runtime)


def settings_of_today(overrides: Sequence[str], keys: Collection[str], *, where: Path) -> dict[str, Any]:
    """Some sections of the config that a run would have that is launched here and now, for a file that has none.

    Raises ConfigError for overrides (of the file `where`) that are of anything else, and for mistakes in them.
    """
    for word in overrides:
        if word.lstrip("+~").split(".")[0] not in keys:
            told = " and ".join(f"{key}.*" for key in keys)
            raise ConfigError(f"{where}: is of no run, so that {word} has no place in it; only {told} can be set")
    composition = compose(overrides, sources=Sources(), draw_seed=lambda: 0)
    if not composition.whole:
        raise ConfigError(composition.problems)
    return {key: composition.config.resolved[key] for key in keys}


def section(schema: type[T], name: str, config: Mapping[str, Any]) -> T:
    """One section alone, in the same way."""
    made, problems = _section(schema, name, config)
    if made is None:
        raise ConfigError(problems)
    return made


def _section(schema: type[T], name: str, config: Mapping[str, Any]) -> tuple[T | None, list[str]]:
    made, problems = typed(schema, name, config.get(name))
    if not isinstance(config.get(name), Mapping) or not any(": not there" in problem for problem in problems):
        return made, problems
    today = compose([], sources=Sources(), draw_seed=lambda: 0).config.resolved
    completed = with_new_settings({name: config[name]}, {name: today.get(name)})
    return typed(schema, name, completed[name])


def evaluation_batches(
    split: Any,
    *,
    data: "Data",
    batching: Batching,
    limits: Limits,
    runtime: Runtime,
    device: "torch.device",
    seed: int,
    world: World,
) -> "AnyBatches":
    """The batches of a split of `data` that an evaluation reads: all of it, in its own order."""
    from runner.data.batches import make_batches

    return make_batches(
        split,
        batch_size=batching.evaluation_batch_size,
        shuffle=False,
        drop_last=False,
        seed=seed,
        workers=runtime.workers,
        collate=data.collate,
        world=world,
        pin_memory=device.type == "cuda",
        limit=limits.evaluation_batches,
        resumable=False,
    )


def compiled(model: "nn.Module") -> "nn.Module":
    """The compiled form of a model, whose parameters are the model's own."""
    import torch

    return cast("nn.Module", torch.compile(model))
