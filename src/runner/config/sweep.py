"""A sweep is checked before its first job starts: each of its values once, in as few compositions as that takes."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from runner.config.composing import Composition, hydra_config, parse
from runner.config.sources import Sources, config_loader
from runner.errors import ConfigError


def check_sweep(
    overrides: Sequence[str],
    *,
    sources: Sources,
    judge: Callable[[Sequence[str]], Composition],
) -> None:
    """ConfigError with every problem of every job, each once. `judge` composes one, and raises what is wrong with it.

    Not every combination is tried: the first job takes the first value of each sweep, the second the second, and so on.
    """
    loader = config_loader(sources)
    parsed = parse(overrides, loader, sweep=True)
    problems: dict[str, None] = {}

    def tried(job: list[str]) -> Composition | None:
        try:
            return judge(job)
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
            return None

    first_job = jobs(parsed)[0]
    first = tried(first_job)
    if first is not None:
        problems.update(dict.fromkeys(_place(first)))
        parsed = [*_sweeper_params(first, parsed, loader), *parsed]
    for job in jobs(parsed):
        if job != first_job:
            tried(job)
    if problems:
        raise ConfigError(list(problems))


def jobs(parsed: Sequence[Override]) -> list[list[str]]:
    """Compositions in which every swept value occurs."""
    columns = [values for override in parsed if (values := _values(override))]
    return [[column[at % len(column)] for column in columns] for at in range(max(map(len, columns), default=1))]


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.input_line or ""]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    found = [f"{key}={text}" for text in override.sweep_string_iterator()]
    # What lies between the ends of a range is no worse than they are, and there may be a million of it.
    return found[:1] + found[-1:] if override.is_range_sweep() else found


def _place(composition: Composition) -> Iterator[str]:
    """What is wrong with the directories of the sweep and its jobs."""
    with hydra_config(composition.node):
        for key in ("dir", "subdir"):
            try:
                composition.node.hydra.sweep[key]
            except InterpolationToMissingValueError:
                # As `${hydra.job.num}`, which every job gets.
                continue
            except OmegaConfBaseException as error:
                yield f"hydra.sweep.{key}: {str(error).splitlines()[0]}; type hydra.sweep.{key}=DIRECTORY"


def _sweeper_params(composition: Composition, typed: Iterable[Override], loader: ConfigLoader) -> list[Override]:
    """The sweeps that stand in the config of Hydra's sweeper, where the command line has no other for their keys."""
    params = OmegaConf.select(composition.node, "hydra.sweeper.params")
    if not params:
        return []
    keys = {override.key_or_group for override in typed}
    texts = [f"{key}={value}" for key, value in params.items() if isinstance(value, str) and key not in keys]
    return parse(texts, loader, sweep=True)
