"""An optimizer that is given the model itself, in place of groups of its parameters."""

import sys
from pathlib import Path

import pytest

from runner.training.ridge import Ridge

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parent))

from whole_builds import built, refused

OWN = (
    "import torch\n"
    "class Whole(torch.optim.SGD):\n"
    "    def __init__(self, model, lr):\n"
    "        super().__init__(model.layers[1].parameters(), lr)\n"
    "        self.model = model\n"
)
SMALL = ("experiment=lorenz_esn", "model.reservoir_size=10", "data.length=10", "observers=none")


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole_optimizer.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_optimizer_whose_first_parameter_is_called_model_is_given_the_model() -> None:
    state = built("optimizer._target_=whole_optimizer.Whole").state
    assert state.optimizer.model is state.model
    assert len(state.optimizer.param_groups[0]["params"]) == 2


def test_a_closed_form_is_built_from_the_experiment() -> None:
    state = built(*SMALL).state
    assert isinstance(state.optimizer, Ridge)
    assert state.optimizer.readout is state.model.readout
    # What the reservoir holds is frozen; the readout is not, though no gradient ever changes it.
    assert all("reservoir" in name for name in state.frozen_names())


def test_its_model_is_not_to_be_given_and_its_other_arguments_are_checked() -> None:
    assert refused(*SMALL, "+optimizer.model=mlp", "+optimizer.alfa=1") == (
        "optimizer.model: the runner fills this in; leave it out",
        "optimizer.alfa: runner.training.ridge.Ridge takes no argument 'alfa'; did you mean 'optimizer.alpha'?",
    )


def test_groups_are_refused_where_the_whole_model_is_taken() -> None:
    assert refused(*SMALL, "+optimizer.groups=[{match: '*.bias', alpha: 0}]") == (
        "optimizer.groups: runner.training.ridge.Ridge takes the whole model, and no groups; leave them out",
    )


def test_a_model_that_cannot_be_solved_for_says_what_can() -> None:
    (problem,) = refused("optimizer=ridge", "scheduler=constant")
    assert problem == (
        "optimizer._target_=runner.training.ridge.Ridge: could not be built: MLP has no readout that can be solved "
        "for; wanted a model such as runner.models.ott_esn, or another optimizer, as optimizer=adamw"
    )
