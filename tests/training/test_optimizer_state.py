import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from runner.checkpoint.tree import flatten
from runner.training.optimizer_state import capture, needs_closure, qualified_name, restore, same_groups


class Net(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, nn.Parameter(torch.full((2, 3), float(ord(name)))))


def stepped(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What is captured after two steps, on copies."""
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = parameter.detach() / 10
        optimizer.step()
    return copy.deepcopy(capture(optimizer, model))


def by_name(optimizer: Optimizer, model: nn.Module, key: str) -> dict[str, torch.Tensor]:
    return {name: optimizer.state[p][key] for name, p in model.named_parameters() if key in optimizer.state[p]}


def test_reordered_parameters_find_their_state() -> None:
    model, other = Net("a", "b"), Net("b", "a")
    saved = stepped(model, optimizer := SGD(model.parameters(), lr=0.1, momentum=0.9))
    again = SGD(other.parameters(), lr=0.5, momentum=0.9)
    assert restore(again, other, saved) == []
    expected = by_name(optimizer, model, "momentum_buffer")
    found = by_name(again, other, "momentum_buffer")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert again.param_groups[0]["lr"] == 0.1


def test_an_added_parameter_starts_without_state_and_a_removed_one_is_named() -> None:
    saved = stepped(model := Net("a", "b"), AdamW(model.parameters(), lr=0.1))
    other = Net("a", "c")
    again = AdamW(other.parameters(), lr=0.5)
    assert restore(again, other, saved) == ["the optimizer's state of 'b': it trains no such parameter now"]
    assert by_name(again, other, "exp_avg").keys() == {"a"}
    stepped(other, again)
    assert by_name(again, other, "step")["c"].item() == 2
    assert by_name(again, other, "step")["a"].item() == 4


def test_a_parameter_that_is_frozen_now_keeps_no_state() -> None:
    saved = stepped(model := Net("a", "b"), AdamW(model.parameters(), lr=0.1))
    again = AdamW([model.a], lr=0.5)
    assert restore(again, model, saved) == ["the optimizer's state of 'b': it trains no such parameter now"]
    assert set(again.state) == {model.a}


def test_other_groups_keep_their_own_settings() -> None:
    model = Net("a", "b")
    saved = stepped(model, SGD([{"params": [model.a], "lr": 0.7}, {"params": [model.b]}], lr=0.1, momentum=0.9))
    for groups in (
        [{"params": [model.b]}, {"params": [model.a], "lr": 0.3}],
        [{"params": [model.b, model.a], "lr": 0.3}],
    ):
        again = SGD(groups, lr=0.2, momentum=0.9)
        asked = [group["lr"] for group in again.param_groups]
        assert not same_groups(again, model, saved)
        assert restore(again, model, saved) == []
        assert [group["lr"] for group in again.param_groups] == asked
        assert by_name(again, model, "momentum_buffer").keys() == {"a", "b"}


def test_settings_are_restored_into_the_groups_that_others_hold() -> None:
    saved = stepped(model := Net("a"), AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.6)))
    again = AdamW(model.parameters(), lr=0.9)
    group = again.param_groups[0]
    restore(again, model, saved)
    assert again.param_groups[0] is group
    assert (group["lr"], group["betas"]) == (0.1, (0.5, 0.6))
    assert group["params"][0] is model.a


def test_reduced_parameters_keep_the_full_precision_of_their_state() -> None:
    model = Net("a").bfloat16()
    optimizer = AdamW(model.parameters(), lr=0.1)
    saved = stepped(model, optimizer)
    saved["state"]["a"]["exp_avg"] = torch.full((2, 3), 1 / 3)
    again = AdamW(model.parameters(), lr=0.1)
    restore(again, model, saved)
    assert torch.equal(again.state[model.a]["exp_avg"], torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    ("settings", "device"),
    [({}, "cpu"), ({"fused": False}, "cpu"), ({"fused": True}, "meta"), ({"capturable": True}, "meta")],
)
def test_a_step_count_lies_where_the_kernel_reads_it(settings: dict[str, bool], device: str) -> None:
    model = Net("a")
    saved = stepped(model, AdamW(model.parameters(), lr=0.1))
    # An accelerator that every machine has. Which kernel computes there is as it was built, not as it was saved.
    there = copy.deepcopy(model).to("meta")
    again = AdamW(there.parameters(), lr=0.1)
    again.param_groups[0].update(settings)
    restore(again, there, saved)
    assert again.state[there.a]["step"].device.type == device
    assert again.state[there.a]["exp_avg"].device.type == "meta"


def test_state_is_in_the_memory_order_of_its_parameter() -> None:
    model = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    saved = stepped(model, AdamW(model.parameters(), lr=0.1))
    values = saved["state"]["weight"]["exp_avg"]
    saved["state"]["weight"]["exp_avg"] = values.contiguous()
    again = AdamW(model.parameters(), lr=0.1)
    restore(again, model, saved)
    restored = again.state[model.weight]["exp_avg"]
    assert torch.equal(restored, values)
    assert restored.stride() == model.weight.stride()


class Keeper(SGD):
    """Keeps a state of its own form."""

    count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


def test_an_optimizer_that_keeps_its_own_state_saves_and_loads_it_itself() -> None:
    model = Net("a")
    optimizer, again = Keeper(model.parameters(), lr=0.1), Keeper(model.parameters(), lr=0.1)
    optimizer.count = 7
    saved = capture(optimizer, model)
    assert saved == {"class": qualified_name(optimizer), "own": {"count": 7}}
    assert same_groups(again, model, saved)
    assert restore(again, model, saved) == []
    assert again.count == 7


def test_state_that_belongs_to_no_parameter_is_kept() -> None:
    model = Net("a")
    optimizer, again = SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.1)
    optimizer.state["all"] = {"estimate": 0.25}
    restore(again, model, capture(optimizer, model))
    assert again.state["all"] == {"estimate": 0.25}


def test_nested_state_is_placed_beside_its_parameter() -> None:
    model = Net("a")
    optimizer, again = SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.1)
    optimizer.state[model.a] = {"factors": {"rows": (torch.ones(2), [torch.ones(3), None])}}
    saved = capture(optimizer, model)
    there = model.to("meta")
    again = SGD(there.parameters(), lr=0.1)
    restore(again, there, saved)
    rows, (columns, nothing) = again.state[there.a]["factors"]["rows"]
    assert (rows.device.type, columns.device.type, nothing) == ("meta", "meta", None)


def test_lbfgs_starts_anew_where_its_parameters_are_in_another_order() -> None:
    model, other = Net("a", "b"), Net("b", "a")
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(parameter.square().sum() for parameter in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    saved = capture(optimizer, model)
    flatten(saved)
    again = torch.optim.LBFGS(other.parameters())
    assert restore(again, other, saved) == [
        "the optimizer's state: LBFGS keeps one for all parameters together, and they are others now"
    ]
    assert not again.state
    same = torch.optim.LBFGS(model.parameters())
    assert restore(same, model, saved) == []
    assert same.state[model.a]["n_iter"] == optimizer.state[model.a]["n_iter"]


def test_only_an_optimizer_whose_closure_is_required_needs_one() -> None:
    model = Net("a")
    assert needs_closure(torch.optim.LBFGS(model.parameters()))
    assert not needs_closure(AdamW(model.parameters()))
