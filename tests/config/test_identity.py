import pytest

from runner.config.composing import compose
from runner.config.documents import written
from runner.config.identity import identity
from runner.config.sources import Sources


def identity_of(*overrides: str) -> str:
    config = compose(overrides, sources=Sources(), draw_seed=lambda: 1).config
    return identity(written(config), config.composed)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_epochs=999",
        "trainer.max_steps=5",
        "trainer.max_time='1:00:00'",
        "trainer.log_every=1",
        "runtime.workers=2",
        "runtime.device=cpu",
        "checkpoint.save.every_steps=3",
        "name=other",
        "monitor.metric=val_accuracy",
        "hydra.run.dir=elsewhere",
        "observers=profiler",
        "init.strict=false",
    ],
)
def test_what_does_not_decide_what_is_computed_does_not_count(override: str) -> None:
    assert identity_of(override) == identity_of()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.123",
        "seed=1",
        "model.hidden=[3]",
        "data.batch_size=31",
        "trainer.accumulate=2",
        "scheduler=constant",
        "objective.loss.label_smoothing=0.1",
        "+model.x=1",
        "init_from=a.pt",
    ],
)
def test_what_decides_what_is_computed_counts(override: str) -> None:
    assert identity_of(override) != identity_of()


def test_how_weights_are_loaded_counts_where_some_are() -> None:
    assert identity_of("init_from=a.pt") != identity_of("init_from=a.pt", "init.strict=false")
    assert identity_of("init_from=a.pt") != identity_of("init_from=b.pt")


def test_a_value_that_follows_the_length_counts_as_its_interpolation() -> None:
    follow = "+scheduler.horizon=${trainer.max_epochs}"
    assert identity_of(follow, "trainer.max_epochs=30") == identity_of(follow, "trainer.max_epochs=40")
    assert identity_of(follow) != identity_of("+scheduler.horizon=20")
    indirect = ("+length=${trainer.max_steps}", "+scheduler.horizon=${length}")
    assert identity_of(*indirect, "trainer.max_steps=3") == identity_of(*indirect, "trainer.max_steps=4")


def test_a_value_that_tells_when_and_where_a_run_was_launched_counts_as_its_interpolation() -> None:
    cache = "+data.cache='${hydra:runtime.output_dir}/cache'"
    assert identity_of(cache, "hydra.run.dir=a") == identity_of(cache, "hydra.run.dir=b")
    assert identity_of("+data.stamp='${now:%f}'") == identity_of("+data.stamp='${now:%f}'")
    assert identity_of("+data.stamp='${now:%f}'") != identity_of("+data.stamp='${now:%S}'")


def test_numbers_and_texts_and_truths_are_told_apart() -> None:
    values = (1, 1.0, True, "1", None, [1], {1: 2}, {"1": 2})
    assert len({identity({"model": {"x": value}}, {}) for value in values}) == len(values)


def test_it_is_the_same_in_another_environment_and_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT", "/here")
    here = identity_of("+data.root=${oc.env:ROOT}")
    monkeypatch.setenv("ROOT", "/there")
    assert identity_of("+data.root=${oc.env:ROOT}") == here
    assert identity_of("+data.token=abc") == identity_of("+data.token=def")
