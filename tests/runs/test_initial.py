"""A new run that begins with weights out of a file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import runner
from runner.checkpoint.interop import read_weights

SMALL = ("hydra.run.dir=here", "trainer.max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0")


@pytest.fixture
def weights(short) -> dict[str, Tensor]:
    """What the default experiment has learned."""
    return short("hydra.run.dir=first", "seed=7").checkpoint().tensors()


def begun(short, *overrides: str) -> dict[str, Tensor]:
    """The weights with which a run has begun: its one step changes nothing."""
    return short(*SMALL, *overrides).checkpoint().tensors()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(short, *overrides: str) -> list[str]:
    with pytest.raises(runner.ConfigError) as caught:
        short(*SMALL, *overrides)
    assert not Path("here").exists()
    return list(caught.value.problems)


def test_weights_of_a_file_or_a_run_are_what_the_training_begins_with(short, weights, messages) -> None:
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in weights.items()}}, "a.pt")
    save_file(weights, "b.safetensors")
    for place in ("a.pt", "b.safetensors", "first", "first@best", '"first@step=5"', "first/checkpoints/step-000000005"):
        assert same(begun(short, f"init_from={place}", "hydra.run.dir=${oc.select:_,run}-${now:%f}"), weights), place
    told = next(line for line in messages() if line.startswith("begins with"))
    assert told.startswith("begins with 6 of 6 tensors (") and "'model_state_dict' in the file" in told
    assert not same(begun(short), weights)


def test_averaged_weights_begin_from_them_too(short, weights) -> None:
    save_file(weights, "a.safetensors")
    run = short(*SMALL, "init_from=a.safetensors", "trainer.ema_decay=0.9")
    assert same(run.checkpoint().state()["averaged"]["model"], weights)
    # And the averaged weights of a run of ours are what another one can begin with.
    moved = short("hydra.run.dir=averaging", "trainer.ema_decay=0.9", "init_from=a.safetensors")
    averaged = moved.checkpoint().state()["averaged"]["model"]
    assert not same(averaged, moved.checkpoint().tensors())
    found = begun(short, "init_from=averaging", "init.weights=averaged", "hydra.run.dir=again")
    assert same(found, averaged)


def test_what_does_not_fit_refuses_the_launch_and_leaves_nothing(short, weights) -> None:
    first, *rest = weights
    state = {name: weights[name] for name in rest} | {"extra.w": torch.ones(2)}
    state[rest[0]] = torch.ones(3)
    torch.save(state, "a.pt")
    head, missing, unexpected, mismatched, advice = refused(short, "init_from=a.pt")
    assert head.startswith("init_from=a.pt: the file ") and head.endswith("a.pt: does not fit MLP")
    assert missing == f"missing in the file: {first}" and unexpected == "not in the model: extra.w"
    shape = list(weights[rest[0]].shape)
    assert mismatched == f"does not fit: {rest[0]} is float32 [3] there and float32 {shape} here"
    assert advice == "type init.strict=false to load what fits"


def test_not_strict_loads_what_fits_and_tells_the_rest(short, weights, messages) -> None:
    first, *rest = weights
    torch.save({name: weights[name].double() for name in rest} | {"extra.w": torch.ones(2)}, "a.pt")
    found = begun(short, "init_from=a.pt", "init.strict=false")
    assert same({name: found[name] for name in rest}, {name: weights[name] for name in rest})
    assert not torch.equal(found[first], weights[first])
    told = messages()
    assert any(line.endswith("; 5 of them cast from float64 to float32") for line in told)
    assert f"missing in the file: {first}" in told and "not in the model: extra.w" in told


def test_another_head_is_left_out_by_a_pattern(short, weights, messages) -> None:
    last = list(weights)[-1].rpartition(".")[0]
    save_file(weights, "a.safetensors")
    other = f"{last}.weight", f"{last}.bias"
    torch.save({n: torch.ones(3) if n in other else value for n, value in weights.items()}, "other.pt")
    assert refused(short, "init_from=other.pt")[-1].startswith(f"type 'init.exclude=[{last}.*]' to leave {last} as it")
    found = begun(short, "init_from=other.pt", f"init.exclude={last}.*")
    rest = [name for name in weights if name not in other]
    assert same({name: found[name] for name in rest}, {name: weights[name] for name in rest})
    assert "left as built by init.include and init.exclude: 2 tensors" in messages()
    included = begun(short, "init_from=a.safetensors", f"init.include=[{rest[0]}]", "hydra.run.dir=included")
    assert torch.equal(included[rest[0]], weights[rest[0]]) and not torch.equal(included[other[0]], weights[other[0]])


def test_the_rule_that_renames_is_suggested_and_works(short, weights) -> None:
    torch.save({"state_dict": {f"model.{name}": value for name, value in weights.items()}}, "a.ckpt")
    problems = refused(short, "init_from=a.ckpt")
    assert problems[0].endswith(f"none of its {len(weights)} tensors fits MLP")
    assert problems[-1] == "type 'init.rename={model.:\"\"}', after which most names are the same"
    assert same(begun(short, "init_from=a.ckpt", 'init.rename={model.:""}'), weights)


def test_where_nothing_fits_the_launch_is_refused_strict_or_not(short) -> None:
    torch.save({"x": torch.ones(2), "y": torch.ones(3)}, "a.pt")
    head, missing, unexpected = refused(short, "init_from=a.pt", "init.strict=false")
    assert head.endswith("a.pt: none of its 2 tensors fits MLP")
    assert missing.startswith("missing in the file: layers.") and unexpected == "not in the model: x, y"


def test_what_the_model_itself_refuses_is_told(short, tmp_path: Path) -> None:
    (tmp_path / "picky_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(64, 10)\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.flatten(1))\n"
        "    def _load_from_state_dict(self, state_dict, prefix, meta, strict, missing, unexpected, errors):\n"
        "        errors.append('made by another version')\n"
    )
    torch.save(torch.nn.Linear(64, 10).state_dict(), "a.pt")
    (problem,) = refused(short, "init_from=a.pt", "model._target_=picky_net.Net")
    assert "Net refuses the weights: Error(s) in loading state_dict for Net: made by another version" in problem


def test_mistakes_in_how_it_is_asked_are_told_at_once(short, weights) -> None:
    save_file(weights, "a.safetensors")
    Path("b.pt").write_text("no weights")
    problems = refused(
        short, "init_from=b.pt", "init.rename={0.:x}", "init.include=3", "init.weights=ema", "init.exclude=[1]"
    )
    assert [line.partition("; wanted")[0].partition(" (it begins")[0] for line in problems] == [
        f"init_from=b.pt: {Path.cwd() / 'b.pt'}: holds no weights",
        "init.rename has 0.0: 'x'",
        "init.include is 3",
        "init.exclude is [1]",
        "init.weights is 'ema'",
    ]
    assert refused(short, "init_from=nowhere.pt")[0].startswith(
        f"init_from=nowhere.pt: {Path.cwd() / 'nowhere.pt'}: is"
    )
    assert "init_from is 3; wanted a path, or null" in refused(short, "init_from=3")
    assert "has no checkpoint of step 3" in refused(short, "init_from=first@step=3")[0]
    assert "fits no name" in refused(short, "init_from=a.safetensors", "init.rename={modle.:x.}")[0]
    assert "init.strict is 'maybe'; wanted true or false" in refused(short, "init.strict=maybe")


def test_a_damaged_file_refuses_the_launch(short, weights) -> None:
    torch.save(weights, "a.pt")
    data = bytearray(Path("a.pt").read_bytes())
    data[len(data) // 2] ^= 1
    Path("a.pt").write_bytes(data)
    assert "is damaged or cut short (Bad CRC-32" in refused(short, "init_from=a.pt")[0]


def test_a_resumed_run_goes_on_with_its_own_weights(short, weights, messages) -> None:
    save_file(weights, "a.safetensors")
    whole = short("init_from=a.safetensors", "scheduler=constant", "trainer.max_epochs=2", "hydra.run.dir=whole")
    short("init_from=a.safetensors", "scheduler=constant", "hydra.run.dir=parts")
    Path("a.safetensors").unlink()
    before = len([line for line in messages() if line.startswith("begins with")])
    parts = runner.run(["+resume=parts", "trainer.max_epochs=2"])
    assert same(parts.checkpoint().tensors(), whole.checkpoint().tensors())
    assert len([line for line in messages() if line.startswith("begins with")]) == before == 2


def test_a_resume_cannot_begin_elsewhere(short, weights) -> None:
    save_file(weights, "a.safetensors")
    short("init_from=a.safetensors", "hydra.run.dir=from")
    short("hydra.run.dir=without")
    for run, override in (("from", "init_from=first"), ("without", "init_from=first"), ("from", "init.strict=false")):
        with pytest.raises(runner.ResumeError, match=r"(was .* and is .* now)\nthe run has begun, and weights are not"):
            runner.run([f"+resume={run}", override])
    assert runner.run(["+resume=without", "init.strict=false", "trainer.max_epochs=2"]).outcome == "finished"


def test_the_report_says_what_weights_they_were(short, weights) -> None:
    save_file(weights, "a.safetensors")
    run = short(*SMALL, "init_from=a.safetensors")
    assert run.checkpoint().config["init_from"] == "a.safetensors"
    assert "begins with 6 of 6 tensors" in (run.directory / "runner.log").read_text()
    assert read_weights(run.directory).tensors.keys() == weights.keys()
