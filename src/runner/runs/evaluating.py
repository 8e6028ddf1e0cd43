"""The scores of a checkpoint on a split of its run's data, measured as the training measured them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.interop import check_kind
from runner.config.build_evaluation import EvaluationSettings, compiled, evaluation_batches, evaluation_settings
from runner.config.calls import DOOR
from runner.config.for_use import config_for_use
from runner.config.nodes import build_data, build_model, device_of, instantiate
from runner.config.words import split_words
from runner.errors import CheckpointError, ConfigError
from runner.records import World
from runner.runs import provenance
from runner.runs.environment import process_settings
from runner.runs.saved import fit
from runner.runs.source_code import changed_source
from runner.training import generators
from runner.training.evaluate import PREFIXES, EvaluationBatches, measure
from runner.training.module_state import load_transient
from runner.training.state import Stateful

if TYPE_CHECKING:
    import torch
    from torch import nn

    from runner.data.batches import AnyBatches
    from runner.data.data import Data
    from runner.training.objective import Objective

KEYS = ("model", "data", "objective", "trainer", "runtime", "seed")
"""What of a config an evaluation depends on."""

_STATE = ("model", "transient", "averaged", "own", "generators")

Watch = Callable[[int | None], Callable[[], None]]
"""Is told how many batches there are, if that is known, and gives what is called after each of them."""


@dataclass(frozen=True)
class Measured:
    """What came of an evaluation."""

    checkpoint: Checkpoint
    split: str
    weights: str
    """`raw` or `averaged`."""
    device: str
    overrides: tuple[str, ...]
    metrics: Mapping[str, float]
    recorded: Mapping[str, float]
    """What the checkpoint carries under the same names."""
    as_trained: bool
    """The config and the weights are those by which the training evaluated."""
    not_exact: tuple[str, ...]
    """By what the numbers may not be those of the training, a line each."""
    seconds: float

    @property
    def equal(self) -> bool | None:
        """Whether these are the training's own numbers, bit for bit; None where there are none to compare with."""
        if not self.recorded or not self.as_trained:
            return None
        return all(_same(self.metrics[name], value) for name, value in self.recorded.items())


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    overrides: Sequence[str] = (),
    *,
    split: str = "validation",
    weights: str | None = None,
    trust: Sequence[str] = (),
    watch: Watch = lambda _: lambda: None,
) -> Measured:
    """Build model, data and objective from the config in a checkpoint, with `overrides` on top, and measure a split.

    `weights` is `raw`, `averaged`, or None for those by which the training evaluates. Generators and everything else
    that is of the whole process are afterwards what they were. Raises ConfigError, CheckpointError, TrustError.
    """
    if DOOR in checkpoint.config:
        raise ConfigError(
            f"{checkpoint.path}: was saved by {checkpoint.config[DOOR]}, which keeps no data and no objective to "
            "measure it by; runs predict gives its outputs, and runner.load the model"
        )
    if split not in PREFIXES:
        raise ConfigError(f"split is {split!r}; wanted {' or '.join(PREFIXES)}")
    if weights is not None:
        check_kind(weights)
    config = config_for_use(checkpoint, KEYS, overrides, trusted=trust)
    settings = evaluation_settings(config)
    began = time.perf_counter()
    with process_settings(settings.runtime, deterministic=settings.trainer.deterministic):
        built = _Built.of(config, settings)
        usual = _usual_weights(settings)
        used = usual if weights is None else weights
        batches = built.batches(split, settings, checkpoint)
        try:
            built.restore(checkpoint, used, overrides)
            metrics = measure(
                # As a training does: of the averaged weights there is no compiled form.
                compiled(built.model) if settings.runtime.compile and used == "raw" else built.model,
                built.objective,
                _Watched(batches, watch(batches.num_batches)),
                split=split,
                device=built.device,
                precision=settings.trainer.precision,
                interrupted=lambda: False,
            )
        finally:
            batches.close()
        assert metrics is not None, "nothing interrupts it"
        not_exact = _not_exact(checkpoint, built)
    return Measured(
        checkpoint=checkpoint,
        split=split,
        weights=used,
        device=str(built.device),
        overrides=tuple(overrides),
        metrics=metrics,
        recorded={name: checkpoint.metrics[name] for name in metrics if name in checkpoint.metrics},
        as_trained=not split_words(overrides)[1] and used == usual,
        not_exact=tuple(not_exact),
        seconds=time.perf_counter() - began,
    )


def _not_exact(checkpoint: Checkpoint, built: "_Built") -> list[str]:
    then = checkpoint.manifest.facts
    now = {**provenance.software(), **provenance.hardware(built.device), "data": built.data.fingerprint}
    run = next((above for above in checkpoint.path.parents if (above / "run.json").exists()), None)
    return provenance.not_exact(then, now) + ([] if run is None else changed_source(run / str(then.get("code"))))


def _usual_weights(settings: EvaluationSettings) -> str:
    """The weights by which the training evaluates."""
    return "raw" if settings.trainer.ema_decay is None else settings.trainer.evaluate.weights


@dataclass(frozen=True)
class _Built:
    """What is evaluated, and with what."""

    model: "nn.Module"
    data: "Data"
    objective: "Objective"
    device: "torch.device"

    @classmethod
    def of(cls, config: Mapping[str, Any], settings: EvaluationSettings) -> "_Built":
        """Built in the order of a training, with the same draws: a data set may be split at random."""
        generators.seed_all(settings.seed)
        device = device_of(settings.runtime.device)
        model = build_model(config).to(device)
        data = build_data(config)
        return cls(model, data, instantiate(config["objective"], "objective"), device)

    def batches(self, split: str, settings: EvaluationSettings, checkpoint: Checkpoint) -> "AnyBatches":
        samples = getattr(self.data, split)
        if samples is None:
            there = [name for name in PREFIXES if getattr(self.data, name) is not None]
            advice = f"there is {' and '.join(there)}" if there else "give Data(validation=...)"
            raise ConfigError(f"{checkpoint.path}: its data have no {split} split; {advice}")
        return evaluation_batches(
            samples,
            data=self.data,
            batching=settings.batching,
            limits=settings.trainer.limits,
            runtime=settings.runtime,
            device=self.device,
            seed=settings.seed,
            world=World(),
        )

    def restore(self, checkpoint: Checkpoint, weights: str, overrides: Sequence[str]) -> None:
        """Put everything of the state into the parts that an evaluation depends on, the generators last."""
        state = checkpoint.state(_STATE)
        if weights == "averaged" and state["averaged"] is None:
            raise CheckpointError(f"{checkpoint.path}: has no averaged weights; use the raw ones")
        of_model = {"model": state["model"], "transient": state["transient"]} if weights == "raw" else state["averaged"]
        fit(self.model, of_model["model"], where=checkpoint.path, checkpoint=checkpoint, overrides=overrides)
        load_transient(self.model, of_model["transient"], self.device)
        if isinstance(self.objective, Stateful) and "objective" in state["own"]:
            self.objective.load_state_dict(state["own"]["objective"])
        generators.restore(state["generators"])


class _Watched:
    """Batches, with somebody told after each."""

    def __init__(self, batches: EvaluationBatches, after_each: Callable[[], None]) -> None:
        self._batches = batches
        self._after_each = after_each

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for batch in self._batches.epoch(epoch, start):
            yield batch
            self._after_each()


def _same(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
