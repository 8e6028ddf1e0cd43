import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from runner.errors import ConfigError
from runner.models.gpt import GPT

V, T = 32, 16


def make(**changes: Any) -> GPT:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocabulary_size": V, "context": T, "width": 24, "depth": 3, "heads": 4, "dropout": 0.0, "tie_weights": True,
    }  # fmt: skip
    return GPT(**(options | changes))


def tokens(batch: int = 2, length: int = T) -> Tensor:
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(1))


def test_a_token_sees_nothing_of_what_follows_it() -> None:
    model, first = make(), tokens()
    second = first.clone()
    second[:, 9] = (second[:, 9] + 1) % V
    a, b = model(first), model(second)
    assert a.shape == (2, T, V)
    assert torch.equal(a[:, :9], b[:, :9])
    assert not torch.equal(a[:, 9:], b[:, 9:])


def test_weights_are_born_as_in_gpt2() -> None:
    model = make(vocabulary_size=256, width=192, tie_weights=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            expected = 0.02 / math.sqrt(6) if "project" in name else 0.02
            # A tolerance, because these are random draws.
            assert parameter.std().item() == pytest.approx(expected, rel=0.05)
    # Nothing is known yet: the first loss is that of a uniform guess.
    loss = functional.cross_entropy(model(tokens()).flatten(0, 1), tokens().flatten())
    assert loss.item() == pytest.approx(math.log(256), rel=0.05)


def test_tied_weights_are_one_parameter() -> None:
    tied, untied = make(), make(tie_weights=False)
    assert tied.output.weight is tied.embedding.weight
    assert untied.output.weight is not untied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == V * 24


def test_dropout_acts_in_training_only() -> None:
    model = make(dropout=0.5)
    assert not torch.equal(model(tokens()), model(tokens()))
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))


def test_generation_follows_its_generator_and_leaves_the_modes() -> None:
    model = make(dropout=0.5)
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    start = tokens(length=3)
    first, again, other = (
        model.generate(start, 20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    # Longer than the context: the oldest tokens fall out of sight.
    assert first.shape == (2, 23)
    assert torch.equal(first[:, :3], start)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.requires_grad


def test_temperature_zero_takes_the_most_probable_token() -> None:
    model = make().eval()
    greedy = model.generate(tokens(length=3), 2, temperature=0.0)
    assert torch.equal(greedy[:, 3], model(tokens(length=3))[:, -1].argmax(-1))
    assert torch.equal(model.generate(tokens(length=3), 0), tokens(length=3))


def test_it_learns_a_sequence_by_heart() -> None:
    model, text = make(width=32), tokens(batch=1, length=T + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.equal(model.generate(text[:, :4], T - 3, temperature=0.0), text)


def test_arguments_out_of_range_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make(vocabulary_size=0, width=30, dropout=1.5)
    assert caught.value.problems == (
        "model.vocabulary_size is 0; wanted at least 1",
        "model.dropout is 1.5; wanted 0 or more, and below 1",
        "model.width is 30 and model.heads 4; wanted a width that its heads divide",
    )
    with pytest.raises(ConfigError, match=r"^model.heads is 0; wanted at least 1$"):
        make(heads=0)


def test_too_many_tokens_and_bad_generation_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^17 tokens were given to a model with a context of 16; cut them, or set"):
        make()(tokens(length=17))
    for length, temperature, given in [(-1, 1.0, 3), (1, -1.0, 3), (1, 1.0, 0)]:
        message = rf"^length is {length}, temperature {temperature}, and {given} tokens were given; wanted length 0 or"
        with pytest.raises(ValueError, match=message):
            make().generate(tokens(length=given), length, temperature=temperature)
