import io
import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runner.checkpoint.single import save_file
from runner.errors import CheckpointError, DamagedError, FormatError, MismatchError, MissingError, SaveError
from runner.models import ESNModel, classic_esn, headless_esn, linear_esn, ott_esn
from runner.training.module_state import unchanged

HH = "_modules_dict.reservoir.weight_hh"
OUT = "_modules_dict.output.weight"


def small(**options: Any) -> ESNModel:
    """20 units, 2 inputs, 2 outputs."""
    return classic_esn(20, 2, 2, **options)


def x(batch: int = 4) -> Tensor:
    return torch.randn(batch, 10, 2, generator=torch.Generator().manual_seed(0))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file after a user has opened it, changed it and written it back."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


def test_a_file_is_a_dict_of_plain_values(tmp_path: Path) -> None:
    model = small(seed=1).fit(x(), x())
    model.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(content) == ["state_dict", "metadata", "config"]
    assert content["config"] == model.config == json.loads(json.dumps(model.config))
    assert content["metadata"] == {"torch": torch.__version__}
    assert list(content["state_dict"]) == list(model.state_dict())
    model.save(tmp_path / "b.pt", include_states=True)
    states = torch.load(tmp_path / "b.pt", weights_only=True)["reservoir_states"]
    assert list(states) == ["reservoir"]
    assert model.reservoir.state is not None
    assert torch.equal(states["reservoir"], model.reservoir.state)


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    model = small().fit(x(), x())
    model.save(tmp_path / "a.pt")
    other = small()
    assert other.load(tmp_path / "a.pt") is None
    assert same(other, model) and other.fitted
    # Cold, as the file has no state.
    model.reset_reservoirs()
    assert torch.equal(other(x()), model(x()))


def test_a_loaded_model_is_cold_unless_the_state_is_asked_for(tmp_path: Path) -> None:
    model = small()
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    other = small()
    other(x(3))
    other.load(tmp_path / "a.pt")
    assert other.reservoir.state is None
    other.load(tmp_path / "a.pt", load_states=True)
    assert torch.equal(other(x()), model(x()))


def test_a_restored_state_of_another_number_of_sequences_is_refused_and_kept(tmp_path: Path) -> None:
    model = headless_esn(20, 2)
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    other = headless_esn(20, 2)
    other.load(tmp_path / "a.pt", load_states=True)
    message = (
        "the reservoir holds the states of 4 sequences, which were read from a file, and the input has 3; continue "
        "with 4 sequences, or call reset_reservoirs() to begin cold"
    )
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            other(x(3))
        assert str(caught.value) == message
    assert torch.equal(other(x()), model(x()))
    other.load(tmp_path / "a.pt", load_states=True)
    other.reset_reservoirs()
    assert other(x(3)).shape == (3, 10, 20)


def test_a_restored_state_is_still_one_after_an_evaluation(tmp_path: Path) -> None:
    model = headless_esn(20, 2)
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    other = headless_esn(20, 2)
    other.load(tmp_path / "a.pt", load_states=True)
    with unchanged(other):
        other.reset_reservoirs()
        other(x(3))
    with pytest.raises(ValueError, match=r"holds the states of 4 sequences, which were read from a file"):
        other(x(3))
    assert torch.equal(other(x()), model(x()))


def test_a_restored_state_is_gone_on_from_by_a_forecast_too(tmp_path: Path) -> None:
    model = small()
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    other = small(stateful=False)
    other.load(tmp_path / "a.pt", load_states=True)
    assert torch.equal(other.forecast(x(), 5), model.forecast(x(), 5))
    # What is not stateful goes on once.
    assert torch.equal(other(x()), other(x()))


def test_states_that_are_not_there_are_warned_of(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "a.pt", include_states=True)
    for content in ("a cold model's", "none", "a foreign value"):
        if content == "none":
            model.save(tmp_path / "a.pt")
        elif content == "a foreign value":
            changed(tmp_path / "a.pt", lambda saved: saved.update(reservoir_states="none"))
        why = (
            ": it was saved with include_states=True before the model had" if content == "a cold model's" else "; save"
        )
        with pytest.warns(UserWarning, match=rf"a\.pt: no reservoir states found{why} "):
            model.load(tmp_path / "a.pt", load_states=True)
        assert model.reservoir.state is None


def test_states_of_another_size_are_refused(tmp_path: Path) -> None:
    model = small()
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    changed(tmp_path / "a.pt", lambda saved: saved.update(reservoir_states={"reservoir": torch.zeros(4, 19)}))
    with pytest.raises(MismatchError, match=r"size mismatch for the reservoir states: the file has float32 \[4, 19\]"):
        model.load(tmp_path / "a.pt", load_states=True)
    model.load(tmp_path / "a.pt")


@pytest.mark.parametrize("strict", [True, False])
def test_other_sizes_are_refused_by_name_and_change_nothing(tmp_path: Path, strict: bool) -> None:
    small().save(tmp_path / "a.pt")
    larger = classic_esn(30, 2, 2, seed=1)
    larger(x())
    state = larger.reservoir.state
    with pytest.raises(RuntimeError) as caught:
        larger.load(tmp_path / "a.pt", strict=strict)
    assert str(caught.value) == (
        f"{tmp_path / 'a.pt'}: does not fit the model: "
        f"size mismatch for {HH}: the file has float32 [20, 20], the model float32 [30, 30]; "
        "size mismatch for _modules_dict.reservoir.weight_feedback: the file has float32 [20, 2], the model "
        "float32 [30, 2]; "
        "size mismatch for _modules_dict.reservoir.bias_h: the file has float32 [20], the model float32 [30]; "
        f"size mismatch for {OUT}: the file has float32 [2, 22], the model float32 [2, 32]; "
        "build the model with the sizes of the file, reservoir_size=20, input_size=2, output_size=2, driver_size=0"
    )
    assert same(larger, classic_esn(30, 2, 2, seed=1))
    assert larger.reservoir.state is state


def test_missing_and_unexpected_names_are_refused_or_with_strict_false_told(tmp_path: Path) -> None:
    headless_esn(20, 2, seed=1).save(tmp_path / "headless.pt")
    model = small(seed=2)
    message = f"headless.pt: does not fit the model: missing: {OUT}; missing: _modules_dict.output.bias; build the"
    with pytest.raises(RuntimeError, match=message):
        model.load(tmp_path / "headless.pt")
    assert same(model, small(seed=2))
    with pytest.warns(UserWarning, match=rf"headless.pt: not all was loaded: missing: {OUT}; missing: _modules_dict"):
        model.load(tmp_path / "headless.pt", strict=False)
    assert torch.equal(model.state_dict()[HH], headless_esn(20, 2, seed=1).state_dict()[HH])
    assert torch.equal(model.state_dict()[OUT], small(seed=2).state_dict()[OUT])

    model.save(tmp_path / "whole.pt")
    headless = headless_esn(20, 2)
    with pytest.raises(RuntimeError, match=f"whole.pt: does not fit the model: unexpected: {OUT}; unexpected: "):
        headless.load(tmp_path / "whole.pt")
    with pytest.warns(UserWarning, match=rf"whole.pt: not all was loaded: unexpected: {OUT}"):
        headless.load(tmp_path / "whole.pt", strict=False)


def test_a_file_of_which_nothing_fits_is_refused_without_strict_too(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "a.pt")
    with pytest.raises(MismatchError, match=rf"a.pt: does not fit the model: missing: {HH}; .*unexpected: weight; bui"):
        small().load(tmp_path / "a.pt", strict=False)


OTHERS: Mapping[str, tuple[Any, str]] = {
    "leak_rate": (0.5, "leak_rate is 0.5 in the file and 1.0 in the model; build the model with leak_rate=0.5"),
    "activation": ("relu", "activation is 'relu' in the file and 'tanh' in the model; build the model with activation"),
    "spectral_radius": (0.5, "spectral_radius is 0.5 in the file and 0.9 in the model; build the model with spectral"),
    "connectivity": (0.5, "connectivity is 0.5 in the file and 1.0 in the model; build the model with connectivity"),
    "input_scaling": (0.5, "input_scaling is 0.5 in the file and 1.0 in the model; build the model with input_sca"),
    "bias": (0.5, "bias is 0.5 in the file and 1.0 in the model; build the model with bias=0.5"),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_with_what_shapes_do_not_show_is_refused(tmp_path: Path, name: str, strict: bool) -> None:
    value, message = OTHERS[name]
    small(**{name: value}).save(tmp_path / "a.pt")
    model = small(seed=1)
    with pytest.raises(MismatchError, match=f"a.pt: {message}"):
        model.load(tmp_path / "a.pt", strict=strict)
    assert same(model, small(seed=1))
    small(**{name: value}).load(tmp_path / "a.pt")


def test_kinds_whose_shapes_are_the_same_are_told_apart(tmp_path: Path) -> None:
    ott_esn(20, 2, 2).save(tmp_path / "ott.pt")
    linear_esn(20, 2, 2).save(tmp_path / "linear.pt")
    with pytest.raises(MismatchError, match=r"squared is True in the file and False in the model; build the model wit"):
        small().load(tmp_path / "ott.pt")
    with pytest.raises(MismatchError, match=r"activation is 'identity' in the file and 'tanh' in the model"):
        small().load(tmp_path / "linear.pt")


def test_what_changes_no_output_may_differ(tmp_path: Path) -> None:
    model = small(seed=1, trainable=True)
    model.save(tmp_path / "a.pt")
    other = small(seed=2, readout_trainable=False, stateful=False)
    other.load(tmp_path / "a.pt")
    assert same(other, model)
    assert not any(value.requires_grad for value in other.parameters())


def test_a_file_without_a_config_is_loaded_with_a_warning(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "a.pt")
    changed(tmp_path / "a.pt", lambda saved: saved.pop("config"))
    other = small()
    message = (
        r"a.pt: has no config, so that nothing tells whether it was saved with what this model has: squared=False, "
        r"activation='tanh', leak_rate=1.0, spectral_radius=0.9, connectivity=1.0, input_scaling=1.0, "
        r"driver_scaling=1.0, bias=1.0$"
    )
    with pytest.warns(UserWarning, match=message):
        other.load(tmp_path / "a.pt")
    assert same(other, model)


def test_a_file_of_the_documented_system_is_loaded(tmp_path: Path) -> None:
    """It has no `fitted`, no config, and a place without numbers for a driver."""
    model = small().fit(x(), x())
    weights = OrderedDict(model.state_dict())
    del weights["_modules_dict.output.fitted"]
    weights["_modules_dict.reservoir.weight_input"] = torch.empty(20, 0)
    torch.save({"state_dict": weights, "metadata": {}}, tmp_path / "a.pt")
    other = small().fit(x(), x())
    with pytest.warns(UserWarning, match="has no config"):
        other.load(tmp_path / "a.pt")
    assert torch.equal(other.state_dict()[OUT], model.state_dict()[OUT])
    assert not other.fitted


def test_what_a_user_writes_into_a_file_stays_there_and_stops_nothing(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "a.pt")
    metadata = {"version": "1.0", "loss": np.float64(0.5), "path": Path("x"), "when": (2024, 1, 1)}
    changed(tmp_path / "a.pt", lambda saved: saved.update(metadata=metadata, more=[1, 2]))
    other = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load(tmp_path / "a.pt")
    assert same(other, model)
    assert torch.load(tmp_path / "a.pt", weights_only=False)["metadata"] == metadata


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_models_are_those_of_the_model(tmp_path: Path, prefix: str) -> None:
    model = small()
    model.save(tmp_path / "a.pt")
    changed(
        tmp_path / "a.pt",
        lambda saved: saved.update(state_dict={f"{prefix}{name}": v for name, v in saved["state_dict"].items()}),
    )
    other = small()
    other.load(tmp_path / "a.pt")
    assert same(other, model)


def test_a_compiled_part_is_saved_and_loaded_under_its_own_names(tmp_path: Path) -> None:
    model = small()
    # What torch.compile returns for a module, made without importing a compiler.
    model._modules_dict["output"] = torch._dynamo.eval_frame.OptimizedModule(model.readout, torch._dynamo.disable())
    assert "_modules_dict.output._orig_mod.weight" in model.state_dict()
    model.save(tmp_path / "a.pt")
    plain = small()
    plain.load(tmp_path / "a.pt")
    assert torch.equal(plain.state_dict()[OUT], model.state_dict()["_modules_dict.output._orig_mod.weight"])
    model.load(tmp_path / "a.pt")


def test_weights_take_the_dtype_of_the_model(tmp_path: Path) -> None:
    model = small()
    model(x())
    model.save(tmp_path / "a.pt", include_states=True)
    double = small(dtype="float64")
    double.load(tmp_path / "a.pt", load_states=True)
    assert torch.equal(double.state_dict()[HH], model.state_dict()[HH].double())
    assert double(x().double()).dtype == torch.float64


def test_a_model_without_storage_takes_the_weights_of_the_file(tmp_path: Path) -> None:
    model = small().double()
    model.save(tmp_path / "a.pt")
    with torch.device("meta"):
        other = small()
    with pytest.raises(ValueError, match=r"^the model is on the device \"meta\" and has no weights to save; load or d"):
        other.save(tmp_path / "b.pt")
    other.load(tmp_path / "a.pt")
    assert other.state_dict()[HH].dtype == torch.float32
    assert not other.reservoir.weight_hh.requires_grad
    assert other.readout is not None and other.readout.weight.requires_grad
    assert torch.equal(other(x()), model.float()(x()))


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    model = small()
    with pytest.raises(FileNotFoundError) as caught:
        model.load(tmp_path / "a.pt")
    assert isinstance(caught.value, MissingError)
    wanted = "is not there; wanted a file that model.save(path) has written"
    assert str(caught.value) == f"{tmp_path / 'a.pt'}: {wanted}"


def test_a_class_method_loads_into_the_model_it_is_given(tmp_path: Path) -> None:
    model = small()
    model(x())
    model.save(str(tmp_path / "a.pt"), include_states=True)
    other = small()
    assert ESNModel.load_from_file(str(tmp_path / "a.pt"), model=other, strict=True, load_states=True) is other
    assert torch.equal(other(x()), model(x()))
    with pytest.raises(ValueError, match=r"^model is NoneType; wanted an ESNModel to load into, as in "):
        ESNModel.load_from_file(tmp_path / "a.pt")


def test_a_save_that_fails_leaves_the_file_of_before(tmp_path: Path) -> None:
    model = small(seed=1)
    model.save(tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(TypeError, match="pickle_protocl"):
        model.save(tmp_path / "a.pt", pickle_protocl=2)
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "a.pt"):
        with pytest.raises(SaveError):
            model.save(place)
    assert (tmp_path / "a.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "closed", "file"]


def test_folders_are_made_and_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "experiment1" / "model.pt"
    small(seed=1).save(path)
    small(seed=2).save(path)
    model = small()
    model.load(path)
    assert same(model, small(seed=2))
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("arguments", [{"pickle_protocol": 3}, {"_use_new_zipfile_serialization": False}])
def test_arguments_go_to_torch(tmp_path: Path, arguments: dict[str, Any]) -> None:
    model = small()
    model.save(tmp_path / "a.pt", **arguments)
    assert zipfile.is_zipfile(tmp_path / "a.pt") == ("pickle_protocol" in arguments)
    other = small()
    other.load(tmp_path / "a.pt")
    assert same(other, model)


@pytest.mark.parametrize("protocol", [0, 1, 4, pickle.HIGHEST_PROTOCOL])
def test_a_protocol_that_cannot_be_read_safely_is_not_written(tmp_path: Path, protocol: int) -> None:
    model = small()
    message = rf"a.pt: pickle_protocol={protocol} is a format that torch.load reads only by running what is in a file; "
    with pytest.warns(UserWarning, match=rf"{message}saved with 2, which every torch reads$"):
        model.save(tmp_path / "a.pt", pickle_protocol=protocol)
    other = small()
    other.load(tmp_path / "a.pt")
    assert same(other, model)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "harmed"),))

    model = small(seed=1)
    torch.save({"state_dict": model.state_dict(), "config": model.config, "metadata": Harm()}, tmp_path / "a.pt")
    other = small(seed=2)
    with pytest.raises(FormatError, match=r"a\.pt: holds something else than weights .*nothing was run"):
        other.load(tmp_path / "a.pt")
    assert not (tmp_path / "harmed").exists()
    assert same(other, small(seed=2))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    model = small(seed=1)
    model.save(path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[data.index(bytes(model.reservoir.weight_feedback.detach().numpy().data)) + 3] ^= 0x10
    whole = {"cut": data[: len(data) // 2], "flipped": data, "empty": b"", "text": b"hello, this is no such file"}
    path.write_bytes(whole[damage])
    other = small(seed=2)
    with pytest.raises(CheckpointError) as caught:
        other.load(path)
    assert isinstance(caught.value, DamagedError if damage in ("cut", "flipped") else FormatError)
    assert same(other, small(seed=2))


@pytest.mark.parametrize("name", ["model.zip", "model.pt"])
def test_a_checkpoint_with_such_a_model_is_loaded_and_compared(tmp_path: Path, name: str) -> None:
    model = small(leak_rate=0.5).fit(x(), x())
    model.reset_reservoirs()
    for node in (
        model.config,
        {"_target_": "runner.models.esn.ESNModel", "reservoir_size": 20, "leak_rate": 0.5},
        {
            "_target_": "runner.models.esn_kinds.classic_esn",
            "reservoir_size": 20,
            "reservoir_config": {"leak_rate": 0.5},
            "readout_config": None,
        },
    ):
        config = json.dumps({"config": {"model": node}, "overrides": []}).encode()
        save_file(tmp_path / name, {"model": model.state_dict()}, documents={"config.json": config}, facts={})
        other = small(leak_rate=0.5)
        other.load(tmp_path / name)
        assert same(other, model) and other.fitted
        with pytest.raises(MismatchError, match=r"leak_rate is 0.5 in the file and 1.0 in the model"):
            small().load(tmp_path / name)


def test_what_a_function_sets_itself_is_compared_too(tmp_path: Path) -> None:
    node = {"_target_": "runner.models.esn_kinds.ott_esn", "reservoir_size": 20, "reservoir_config": None}
    config = json.dumps({"config": {"model": node}, "overrides": []}).encode()
    model = ott_esn(20, 2, 2)
    save_file(tmp_path / "a.zip", {"model": model.state_dict()}, documents={"config.json": config}, facts={})
    ott_esn(20, 2, 2).load(tmp_path / "a.zip")
    with pytest.raises(MismatchError, match=r"squared is True in the file and False in the model"):
        small().load(tmp_path / "a.zip")


def test_bare_weights_are_loaded(tmp_path: Path) -> None:
    model = small()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = small()
    with pytest.warns(UserWarning, match="has no config"):
        other.load(tmp_path / "weights.pt")
    assert same(other, model)
    # And ours by torch's own means.
    model.save(tmp_path / "a.pt")
    third = small()
    third.load_state_dict(torch.load(tmp_path / "a.pt")["state_dict"])
    assert same(third, model)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        small(seed=1).save(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_model_saves_what_stays_small(tmp_path: Path) -> None:
    model = small()
    model(torch.randn(4, 5000, 2))
    model.save(tmp_path / "a.pt", include_states=True)
    # Not the states of all steps, of which the last is a part.
    assert (tmp_path / "a.pt").stat().st_size < 20_000
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert buffer.getbuffer().nbytes < 30_000


@pytest.mark.parametrize(
    ("states", "there"),
    [
        (torch.ones(4, 20, dtype=torch.int64), r"int64 \[4, 20\]"),
        (torch.ones(4, 20, dtype=torch.complex64), r"complex64 \[4, 20\]"),
        (torch.ones(4, 20, device="meta"), r"float32 \[4, 20\]"),
        (torch.ones(4, 20).to_sparse(), r"float32 \[4, 20\]"),
        (torch.ones(0, 20), r"float32 \[0, 20\]"),
        (torch.ones(20), r"float32 \[20\]"),
    ],
)
def test_states_that_are_none_are_refused_before_anything_is_loaded(tmp_path: Path, states: Tensor, there: str) -> None:
    small().save(tmp_path / "a.pt")
    changed(tmp_path / "a.pt", lambda saved: saved.update(reservoir_states={"reservoir": states}))
    model = small(seed=1)
    with pytest.raises(MismatchError, match=rf"the file has {there}, the model real numbers \(sequences, 20\); load"):
        model.load(tmp_path / "a.pt", load_states=True)
    assert same(model, small(seed=1))


@pytest.mark.parametrize(("value", "shown"), [(torch.ones(3), "tensor"), ([1.0], "[1.0]"), ("x" * 10**6, "'xxx")])
def test_a_config_of_nonsense_is_refused_in_few_words(tmp_path: Path, value: Any, shown: str) -> None:
    small().save(tmp_path / "a.pt")
    changed(tmp_path / "a.pt", lambda saved: saved["config"].update(leak_rate=value))
    with pytest.raises(MismatchError) as caught:
        small().load(tmp_path / "a.pt")
    said = str(caught.value)
    assert f"leak_rate is {shown}" in said and "in the file and 1.0 in the model" in said and len(said) < 500


def test_two_names_of_one_weight_are_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "a.pt")
    changed(tmp_path / "a.pt", lambda saved: saved["state_dict"].update({f"module.{HH}": torch.zeros(20, 20)}))
    with pytest.raises(MismatchError, match=rf"has {HH} and module.{HH}, which are of the same weight; leave one out"):
        small().load(tmp_path / "a.pt")


def test_numbers_of_numpy_are_saved_as_plain_ones(tmp_path: Path) -> None:
    size, rate = np.arange(20, 21)[0], np.linspace(0.5, 1.0, 2)[0]
    model = classic_esn(size, 2, 2, leak_rate=rate, bias=np.float32(0.25), trainable=True)
    model.save(tmp_path / "a.pt")
    config = torch.load(tmp_path / "a.pt", weights_only=True)["config"]
    assert (config["reservoir_size"], config["leak_rate"], config["bias"]) == (20, 0.5, 0.25)
    classic_esn(20, 2, 2, leak_rate=0.5, bias=0.25).load(tmp_path / "a.pt")


def test_weights_that_are_parts_of_a_larger_tensor_are_saved_alone(tmp_path: Path) -> None:
    model = small()
    assert model.readout is not None
    model.readout.weight = nn.Parameter(torch.zeros(1000, 1000)[:2, :22])
    model.save(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 20_000
