from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from runner.training.objective import Accuracy, LanguageModel, ModelLoss, Supervised, num_samples, to_device

Pair = namedtuple("Pair", ["x", "y"])
META = torch.device("meta")


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(5, 2), 5),
        ((torch.zeros(3, 2), torch.zeros(4)), 3),
        ({"text": ["a", "b"], "ids": torch.zeros(2, 7)}, 2),
        ({"weight": torch.zeros(()), "x": torch.zeros(6)}, 6),
        ([{"deep": (torch.zeros(0, 2),)}], 0),
        (Pair(torch.zeros(2), torch.zeros(2)), 2),
    ],
)
def test_samples_are_counted_by_the_first_tensor_that_has_a_dimension(batch: Any, samples: int) -> None:
    assert num_samples(batch) == samples


@pytest.mark.parametrize("batch", [["a"], {}, torch.zeros(()), 3])
def test_a_batch_without_such_a_tensor_is_refused(batch: Any) -> None:
    with pytest.raises(TypeError) as caught:
        num_samples(batch)
    assert str(caught.value) == (
        f"a batch of {type(batch).__name__} holds no tensor with a dimension, so that its samples cannot be counted; "
        "wanted tensors (B, ...), alone or in tuples, lists or mappings"
    )


def test_supervised_gives_the_criterion_between_scores_and_labels() -> None:
    objective = Supervised(loss=nn.MSELoss(), metrics={})
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    loss, outputs = objective.loss(nn.Identity(), (x, y))
    assert outputs is x
    assert torch.equal(loss, nn.functional.mse_loss(x, y))
    assert objective.count((x, y)) == 4


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_supervised_refuses_a_criterion_that_is_no_mean(reduction: str) -> None:
    with pytest.raises(ValueError) as caught:
        Supervised(loss=nn.MSELoss(reduction=reduction), metrics={})
    assert str(caught.value) == f"objective.loss has reduction={reduction!r}; wanted 'mean', the mean over the samples"


def test_a_language_model_counts_the_positions_that_have_a_target() -> None:
    objective = LanguageModel(ignore_index=-1, metrics={})
    logits_BTC = torch.randn(2, 3, 5)
    targets_BT = torch.tensor([[0, 4, -1], [-1, -1, 2]])
    batch = (logits_BTC, targets_BT)
    assert objective.count(batch) == 3
    loss, outputs = objective.loss(nn.Identity(), batch)
    logs = logits_BTC.log_softmax(dim=-1)
    # Another order of the same sum.
    torch.testing.assert_close(loss, -(logs[0, 0, 0] + logs[0, 1, 4] + logs[1, 2, 2]) / 3)
    assert outputs is logits_BTC


def test_a_language_model_without_any_target_has_no_loss_and_no_gradient() -> None:
    objective = LanguageModel(ignore_index=-1, metrics={})
    logits = torch.randn(1, 2, 5, requires_grad=True)
    batch = (logits, torch.full((1, 2), -1))
    loss, _ = objective.loss(nn.Identity(), batch)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert objective.count(batch) == 0


def test_counting_on_an_accelerator_does_not_wait_for_it() -> None:
    count = LanguageModel(ignore_index=-1, metrics={}).count((torch.zeros(2, 3), torch.zeros(2, 3, device=META)))
    assert isinstance(count, Tensor)
    assert count.device == META


class Own(nn.Module):
    """Returns its loss in the form that it is told to."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        loss = x.mean() if y is None else (x - y).square().mean()
        forms = {
            "mapping": {"loss": loss, "scores": x},
            "object": SimpleNamespace(loss=loss),
            "tensor": loss,
            "no loss": {"scores": x},
            "none": SimpleNamespace(loss=None),
            "scores": x,
            "number": 0.5,
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["mapping", "object", "tensor"])
@pytest.mark.parametrize("batch", [{"x": torch.ones(2), "y": torch.zeros(2)}, (torch.ones(2), torch.zeros(2))])
def test_the_loss_is_the_one_that_the_model_returns(form: str, batch: Any) -> None:
    objective = ModelLoss(metrics={})
    loss, _ = objective.loss(Own(form), batch)
    assert loss.item() == 1.0
    assert objective.count(batch) == 2


def test_a_batch_that_is_one_tensor_is_the_models_only_argument() -> None:
    assert ModelLoss(metrics={}).loss(Own("tensor"), torch.ones(2))[0].item() == 1.0


@pytest.mark.parametrize(
    ("form", "returned"),
    [("no loss", "dict"), ("none", "SimpleNamespace"), ("scores", "Tensor"), ("number", "float")],
)
def test_a_model_that_returns_no_loss_is_refused(form: str, returned: str) -> None:
    with pytest.raises(TypeError) as caught:
        ModelLoss(metrics={}).loss(Own(form), (torch.ones(2),))
    assert str(caught.value) == (
        f"Own returned {returned} without a 0-dim `loss`; objective=model_loss wants a model that returns its own "
        "loss; use objective=supervised for one that returns scores"
    )


def test_accuracy_is_the_share_of_highest_scores_at_the_label() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    correct, count = Accuracy()(outputs, (None, torch.tensor([0, 1, 1])))
    assert (int(correct), count) == (2, 3)


def test_on_the_cpu_a_batch_stays_what_it_is() -> None:
    batch = {"x": [torch.zeros(2)]}
    assert to_device(batch, torch.device("cpu")) is batch


def test_every_tensor_in_a_batch_moves() -> None:
    batch = {"pair": Pair(torch.zeros(2), [torch.zeros(3), "text"]), "tuple": (torch.zeros(1), 7)}
    moved = to_device(batch, META)
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].x.device == moved["pair"].y[0].device == moved["tuple"][0].device == META
    assert moved["pair"].y[1] == "text"
    assert moved["tuple"][1] == 7


def test_a_batch_that_can_move_itself_does() -> None:
    moved = to_device([pack_sequence([torch.zeros(2, 1), torch.zeros(1, 1)])], META)[0]
    assert isinstance(moved, PackedSequence)
    assert moved.data.device == META
    # Which torch wants on the CPU, wherever the data are.
    assert moved.batch_sizes.device.type == "cpu"
