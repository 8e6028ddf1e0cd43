from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.config.check import check
from runner.config.composing import Composition, compose, parse
from runner.config.sources import Sources, config_loader
from runner.config.sweep import check_sweep, jobs
from runner.errors import ConfigError


def problems(*overrides: str, sources: Sources | None = None) -> list[str]:
    def judge(job: Sequence[str]) -> Composition:
        composition = compose(job, sources=sources or Sources(), draw_seed=lambda: 0)
        check(composition.config, known_problems=composition.problems)
        return composition

    try:
        check_sweep(overrides, sources=sources or Sources(), judge=judge)
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=1"], [["seed=1"]]),
        (["seed=0,1,2", "optimizer=sgd,adamw"], [
            ["seed=0", "optimizer=sgd"], ["seed=1", "optimizer=adamw"], ["seed=2", "optimizer=sgd"],
        ]),
        (["seed=range(0,1000000)"], [["seed=0"], ["seed=999999"]]),
        (["optimizer.lr=interval(0.1,0.2)"], [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]),
        (["+optimizer=glob(*)"], [["+optimizer=adamw"], ["+optimizer=ridge"], ["+optimizer=sgd"]]),
        (["optimizer.lr=choice(1,2)", "seed=0"], [["optimizer.lr=1", "seed=0"], ["optimizer.lr=2", "seed=0"]]),
    ],
)  # fmt: skip
def test_every_swept_value_occurs(overrides: list[str], expected: list[list[str]]) -> None:
    assert jobs(parse(overrides, config_loader(Sources()), sweep=True)) == expected


def test_a_wrong_value_anywhere_refuses_the_whole_sweep() -> None:
    assert problems("seed=0,1", "trainer.max_epochs=5,x", "optimizer=adamw,sgdd", "trainr.x=3") == [
        "trainr.x=3: no key 'trainr'; did you mean 'trainer'?",
        "optimizer=sgdd: optimizer has no such option; did you mean 'sgd'?",
        "trainer.max_epochs is 'x'; wanted a whole number or null",
    ]
    assert problems("seed=0,1", "trainer.max_epochs=5,6") == []


def test_a_place_of_the_sweep_that_leads_nowhere_is_told() -> None:
    assert problems("seed=0,1", "hydra.sweep.dir=${nope}", "hydra.sweep.subdir=${nope}") == [
        "hydra.sweep.dir: Interpolation key 'nope' not found; type hydra.sweep.dir=DIRECTORY",
        "hydra.sweep.subdir: Interpolation key 'nope' not found; type hydra.sweep.subdir=DIRECTORY",
    ]
    assert problems("seed=0,1", "hydra.sweep.dir=x-${now:%Y}", "hydra.sweep.subdir=${hydra:job.name}") == []


def test_what_the_sweepers_own_config_sweeps_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      trainer.max_steps: 3,x\n"
    )
    assert problems("experiment=grid", sources=Sources(config_dir=str(tmp_path))) == [
        "trainer.max_steps is 'x'; wanted a whole number or null"
    ]
