import copy

import pytest
import torch
from torch import Tensor, nn

from runner.training.module_state import (
    fit_transient,
    in_eval_mode,
    load_transient,
    put_in_train_mode,
    transient,
    unchanged,
)

CPU = torch.device("cpu")


class Memory(nn.Module):
    """Buffers of every kind, two modules sharing one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        shared = torch.zeros(3)
        for module in (self, self.inner):
            module.register_buffer("shared", shared, persistent=False)
        self.register_buffer("later", None, persistent=False)
        self.register_buffer("view", torch.ones(1).expand(4), persistent=False)
        self.register_buffer("kept", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.shared.add_(1)
        self.kept.add_(1)
        self.later = x * 2
        torch.rand(())
        return x


def test_only_buffers_that_a_state_dict_leaves_out_are_transient() -> None:
    model = Memory()
    assert transient(model).keys() == {"shared", "inner.shared", "later", "view"}
    assert transient(model)["later"] is None
    model(torch.ones(1, requires_grad=True))
    later = transient(model)["later"]
    assert later is not None
    assert not later.requires_grad


def test_transient_buffers_are_loaded_also_where_there_was_none_or_one_too_many() -> None:
    model, again, fresh = Memory(), Memory(), transient(Memory())
    model(torch.ones(2))
    load_transient(again, transient(model), CPU)
    assert torch.equal(again.later, model.later)
    assert again.shared is again.inner.shared
    assert again.shared[0] == 1
    load_transient(again, fresh, CPU)
    assert again.later is None


def test_whatever_runs_inside_leaves_no_trace() -> None:
    model = Memory()
    model.inner.eval()
    shared, kept, state = model.shared, model.kept, torch.get_rng_state()
    with pytest.raises(KeyError), unchanged(model):
        model.eval()
        model(torch.ones(2))
        raise KeyError("an error")
    assert (model.training, model.inner.training) == (True, False)
    assert model.shared is model.inner.shared is shared
    assert model.kept is kept
    assert torch.equal(shared, torch.zeros(3))
    assert torch.equal(kept, torch.zeros(2))
    assert model.later is None
    assert torch.equal(torch.get_rng_state(), state)


def test_the_buffers_of_averaged_weights_follow_in_shape() -> None:
    model = Memory()
    averaged = copy.deepcopy(model)
    fit_transient(averaged, model)
    assert averaged.later is None
    assert averaged.view.is_contiguous()
    assert averaged.shared is averaged.inner.shared
    for batch in (2, 5):
        model(torch.ones(batch))
        fit_transient(averaged, model)
        assert averaged.later.shape == (batch,)
        assert averaged.later is not model.later
    model.later = None
    fit_transient(averaged, model)
    assert averaged.later is None


def test_submodules_in_eval_mode_stay_in_it() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1)))
    model[1].eval()
    frozen = in_eval_mode(model)
    assert frozen == [model[1], model[1][0]]
    model.eval()
    put_in_train_mode(model, frozen)
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_a_model_that_is_in_eval_mode_as_a_whole_has_nothing_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1)).eval()
    put_in_train_mode(model, in_eval_mode(model))
    assert model[0].training
