import copy
import io
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import runner.models
from runner.errors import ConfigError
from runner.models import ESNModel, classic_esn, headless_esn, linear_esn, ott_esn
from runner.training.module_state import load_transient, transient


def sequences(batch: int = 4, time: int = 30, features: int = 2) -> Tensor:
    return torch.randn(
        batch, time, features, generator=torch.Generator().manual_seed(batch * time), dtype=torch.float64
    )


def small(**options: Any) -> ESNModel:
    """20 units, 2 inputs, 2 outputs, in float64."""
    return classic_esn(20, 2, 2, seed=1, dtype="float64", **options)


def spectral_radius(model: ESNModel) -> float:
    return float(torch.linalg.eigvals(model.reservoir.weight_hh.detach().double()).abs().max())


def near(one: Tensor, other: Tensor) -> bool:
    """Equal but for the rounding of sums in another order."""
    return bool(((one - other).abs() <= 1e-12 * (1.0 + other.abs())).all())


@pytest.mark.parametrize("leak_rate", [1.0, 0.3])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "identity"])
def test_the_states_follow_the_rule(activation: str, leak_rate: float) -> None:
    model = headless_esn(20, 2, seed=1, dtype="float64", activation=activation, leak_rate=leak_rate, driver_size=3)
    x, u = sequences(), sequences(features=3)
    states = model({"input": x, "driver": u})
    functions: Mapping[str, Any] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}
    f = functions.get(activation, lambda value: value)
    inner = model.reservoir
    assert inner.weight_input is not None and inner.bias_h is not None
    for b in range(4):
        h = torch.zeros(20, dtype=torch.float64)
        for t in range(30):
            pre = inner.weight_feedback @ x[b, t] + inner.weight_input @ u[b, t] + inner.weight_hh @ h + inner.bias_h
            h = (1 - leak_rate) * h + leak_rate * f(pre)
            assert near(states[b, t], h)


@pytest.mark.parametrize("size", [1, 2, 50, 200])
@pytest.mark.parametrize(("radius", "connectivity"), [(0.9, 1.0), (0.9, 0.2), (1.25, 0.2), (0.0, 1.0)])
def test_the_recurrent_weights_have_the_spectral_radius(size: int, radius: float, connectivity: float) -> None:
    model = headless_esn(size, 1, spectral_radius=radius, connectivity=connectivity, seed=3)
    # What is left is the rounding of each weight to float32.
    assert spectral_radius(model) == pytest.approx(radius, abs=2e-6)


def test_the_default_spectral_radius_is_exactly_0_9() -> None:
    assert spectral_radius(headless_esn(100, 2, dtype=torch.float64)) == pytest.approx(0.9, abs=1e-12)


def test_connectivity_is_the_share_of_recurrent_weights_that_are_not_zero() -> None:
    model = headless_esn(300, 1, connectivity=0.05, seed=0)
    share = float((model.reservoir.weight_hh != 0).double().mean())
    assert share == pytest.approx(0.05, abs=0.005)
    assert bool((headless_esn(300, 1, seed=0).reservoir.weight_hh != 0).all())


def test_too_few_recurrent_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.connectivity is 1e-09: of 5 x 5 recurrent weights so few are not"):
        headless_esn(5, 1, connectivity=1e-9)


def test_the_other_weights_are_uniform_between_their_bounds() -> None:
    inner = headless_esn(400, 30, driver_size=30, driver_scaling=0.5, bias=2.0, seed=0).reservoir
    assert inner.weight_input is not None and inner.bias_h is not None
    for weight, bound in ((inner.weight_feedback, 1.0), (inner.weight_input, 0.5), (inner.bias_h, 2.0)):
        assert float(weight.abs().max()) <= bound
        assert float(weight.max()) > 0.98 * bound and float(weight.min()) < -0.98 * bound
        # A uniform distribution between -b and b deviates by b / sqrt(3).
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    scaled = headless_esn(400, 30, input_scaling=0.3, seed=0).reservoir.weight_feedback
    assert float(scaled.abs().max()) == pytest.approx(0.3, rel=0.01)
    assert headless_esn(4, 1, bias=0.0).reservoir.bias_h is None


def test_it_is_called_with_a_tensor_or_a_mapping() -> None:
    x = sequences()
    outputs = small()(x)
    assert outputs.shape == (4, 30, 2)
    assert torch.equal(small()({"input": x}), outputs)


def test_options_are_given_flat_or_for_each_part() -> None:
    flat = classic_esn(20, 2, 3, leak_rate=0.5, trainable=True, readout_trainable=False, readout_bias=False, seed=1)
    for_each = classic_esn(
        *(20, 2, 3),
        reservoir_config={"leak_rate": 0.5, "trainable": True},
        readout_config={"trainable": False, "bias": False},
        seed=1,
    )
    assert flat.config == for_each.config
    assert torch.equal(flat(sequences().float()), for_each(sequences().float()))
    assert flat.reservoir.weight_hh.requires_grad and not flat.readout.weight.requires_grad


def test_what_the_readout_sees_depends_on_the_kind() -> None:
    x = sequences()
    options: Any = {"seed": 1, "dtype": "float64"}
    states = headless_esn(20, 2, **options)(x)
    classic = classic_esn(20, 2, 1, **options)
    seen = classic.features(x)
    assert torch.equal(seen, torch.cat([x, states], dim=-1))
    classic.reset_reservoirs()
    assert classic.readout is not None
    assert torch.equal(classic(x), classic.readout(seen))
    squared = ott_esn(20, 2, 1, **options).features(x)
    assert torch.equal(squared[..., :2], x)
    assert torch.equal(squared[..., 2::2], states[..., ::2] ** 2)
    assert torch.equal(squared[..., 3::2], states[..., 1::2])
    linear = linear_esn(20, 2, 1, bias=0.0, **options)
    once = linear.features(x)
    linear.reset_reservoirs()
    assert near(linear.features(2 * x), 2 * once)


def test_the_names_of_the_weights_are_those_of_the_document() -> None:
    assert list(classic_esn(5, 1, 1).state_dict()) == [
        *("_modules_dict.reservoir.weight_hh", "_modules_dict.reservoir.weight_feedback"),
        *("_modules_dict.reservoir.bias_h", "_modules_dict.output.weight", "_modules_dict.output.bias"),
        "_modules_dict.output.fitted",
    ]
    headless = headless_esn(5, 1)
    assert not any("output" in name for name in headless.state_dict())
    assert headless.readout is None and not headless.fitted


def test_only_the_readout_learns_unless_more_is_asked_for() -> None:
    model = small()
    learning = [name for name, value in model.named_parameters() if value.requires_grad]
    assert learning == ["_modules_dict.output.weight", "_modules_dict.output.bias"]
    # Nothing of the recurrence is recorded, so that a step costs what one of a linear layer does.
    assert not model.features(sequences()).requires_grad
    assert not any(value.requires_grad for value in headless_esn(5, 1).parameters())


def test_a_trainable_reservoir_learns_in_one_call_after_another() -> None:
    model = small(trainable=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        model(sequences()).square().mean().backward()
        optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_an_input_gets_its_gradient_through_a_frozen_reservoir() -> None:
    x = sequences().requires_grad_()
    small()(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())


def test_a_call_goes_on_from_the_state_of_the_one_before() -> None:
    x = sequences()
    model, whole = small(), small()(x)
    parts = torch.cat([model(x[:, :12]), model(x[:, 12:])], dim=1)
    assert near(parts, whole)
    model.reset_reservoirs()
    # Cold, it gives the same again bit for bit.
    assert torch.equal(model(x), whole)


def test_a_new_model_is_cold() -> None:
    assert small().reservoir.state is None
    assert torch.equal(small()(sequences()), small()(sequences()))


def test_a_model_that_is_not_stateful_begins_each_call_cold() -> None:
    model = small(stateful=False)
    assert torch.equal(model(sequences()), model(sequences()))
    assert model.reservoir.state is None
    assert near(model.forecast(sequences(), 5), small().forecast(sequences(), 5))


def test_another_number_of_sequences_begins_cold_and_says_so() -> None:
    model = small()
    model(sequences())
    message = r"^the reservoir holds the states of 4 sequences, and the input has 3: it begins cold; call reset_res"
    with pytest.warns(UserWarning, match=message):
        outputs = model(sequences()[:3])
    assert torch.equal(outputs, small()(sequences()[:3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(sequences()[:3])


def test_a_state_of_inference_can_be_trained_on_from() -> None:
    model = small(trainable=True)
    with torch.inference_mode():
        model(sequences())
    model(sequences()).sum().backward()


def test_a_seed_gives_the_same_weights_and_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    one, other = small().state_dict(), small().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(classic_esn(20, 2, 2, seed=2).reservoir.weight_hh, small().reservoir.weight_hh)
    single = classic_esn(20, 2, 2, seed=1, dtype="float32").state_dict()
    assert all(torch.equal(single[name], one[name].to(single[name].dtype)) for name in one)


def test_without_a_seed_torch_s_own_generator_decides() -> None:
    def weights() -> Tensor:
        return classic_esn(20, 2, 2).reservoir.weight_hh

    with torch.random.fork_rng():
        torch.manual_seed(5)
        one, other = weights(), weights()
        torch.manual_seed(5)
        assert torch.equal(weights(), one)
        assert not torch.equal(other, one)


def test_fitting_is_ridge_regression_on_what_the_readout_sees() -> None:
    x = sequences(3, 60)
    y = x.roll(-1, 1)
    model = small().fit(x, y, washout=10, alpha=0.01)
    features, targets = small().features(x)[:, 10:].reshape(-1, 22), y[:, 10:].reshape(-1, 2)
    centred, wanted = features - features.mean(0), targets - targets.mean(0)
    weight = torch.linalg.solve(centred.T @ centred + 0.01 * torch.eye(22).double(), centred.T @ wanted).T
    assert model.readout is not None and model.fitted
    assert bool(((model.readout.weight - weight).abs() < 1e-9).all())
    assert model.readout.count is None


def test_fitting_anew_forgets_what_was_fitted_before() -> None:
    x = sequences(3, 60)
    model = small().fit(x, -x)
    model.reset_reservoirs()
    model.fit(x, x.roll(-1, 1))
    again = small().fit(x, x.roll(-1, 1))
    assert model.readout is not None and again.readout is not None
    assert torch.equal(model.readout.weight, again.readout.weight)


def test_every_output_of_a_forecast_is_the_next_input_the_first_too() -> None:
    x = sequences()
    model, by_hand = (small().fit(x, x.roll(-1, 1)) for _ in range(2))
    for one in (model, by_hand):
        one.reset_reservoirs()
    forecast = model.forecast({"input": x}, 6)
    assert forecast.shape == (4, 6, 2)
    outputs = [by_hand(x)[:, -1:]]
    for _ in range(5):
        outputs.append(by_hand(outputs[-1]))
    assert near(forecast, torch.cat(outputs, dim=1))
    # It goes on like any other call: what was fed back has been seen, the last output not yet.
    assert near(model(forecast[:, -1:]), by_hand(outputs[-1]))


def test_a_driven_model_is_driven_while_it_forecasts() -> None:
    x, u = sequences(), sequences(time=34, features=3)
    model, by_hand = small(driver_size=3), small(driver_size=3)
    forecast = model.forecast({"input": x, "driver": u[:, :30]}, 5, driver=u[:, 30:])
    out = by_hand({"input": x, "driver": u[:, :30]})[:, -1:]
    for step in range(5):
        assert near(forecast[:, step : step + 1], out)
        if step < 4:
            out = by_hand({"input": out, "driver": u[:, 30 + step : 31 + step]})
    assert model.forecast({"input": x, "driver": u[:, :30]}, 1).shape == (4, 1, 2)
    with pytest.raises(ValueError, match=r"^the driver of the forecast is None; wanted \(4, 4, 3\), for the model has"):
        model.forecast({"input": x, "driver": u[:, :30]}, 5)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, x: m(x[0]), r"the input is (30, 2); wanted (batch, time of 1 or more, 2); for one sequence x[None]"),
        (lambda m, x: m(x[0, 0]), "the input is (2,); wanted (batch, time of 1 or more, 2)"),
        (lambda m, x: m(x[..., :1]), "the input is (4, 30, 1); wanted (batch, time of 1 or more, 2)"),
        (lambda m, x: m(x[:, :0]), "the input is (4, 0, 2); wanted (batch, time of 1 or more, 2)"),
        (
            lambda m, x: m(x.float()),
            "the input is torch.float32, and the model torch.float64; wanted the same, as by x.to(torch.float64)",
        ),
        (
            lambda m, x: m({"inputs": x}),
            "the input has the keys ['inputs']; wanted 'input', and 'driver' for a model with one",
        ),
        (
            lambda m, x: m({"input": x, "driver": x}),
            "the driver of the input is (4, 30, 2); wanted None, for the model has driver_size=0",
        ),
        (lambda m, x: m(x.tolist()), "the input is a list; wanted a tensor (batch, time, features)"),
        (lambda m, x: m({"input": None}), "the input is a NoneType; wanted a tensor (batch, time, features)"),
        (
            lambda m, x: m.fit(x, x[:, 1:]),
            "the targets are (4, 29, 2); wanted (4, 30, 2), one for each step of the input",
        ),
        (lambda m, x: m.fit(x, x, washout=30), "washout is 30; wanted 0 or more, and fewer than the 30 steps"),
        (lambda m, x: m.fit(x, x, washout=-1), "washout is -1; wanted 0 or more, and fewer than the 30 steps"),
        (lambda m, x: m.forecast(x, 0), "horizon is 0; wanted a whole number of at least 1"),
        (lambda m, x: m.forecast(x, 1.5), "horizon is 1.5; wanted a whole number of at least 1"),
        (
            lambda m, x: classic_esn(5, 2, 1, dtype="float64").forecast(x, 3),
            "the model has 2 inputs and 1 outputs; wanted as many, for each output of a forecast is the next input",
        ),
        (
            lambda m, x: headless_esn(5, 2, dtype="float64").forecast(x, 3),
            "forecast: the model has no readout; build it with an output_size, as classic_esn does",
        ),
        (
            lambda m, x: headless_esn(5, 2, dtype="float64").fit(x, x),
            "fit: the model has no readout; build it with an output_size, as classic_esn does",
        ),
        (
            lambda m, x: ESNModel.load_from_file("a.pt"),
            "model is NoneType; wanted an ESNModel to load into, as in ESNModel.load_from_file(path, "
            "model=classic_esn(100, 1, 1)); runner.load(path) builds one",
        ),
    ],
)
def test_what_does_not_fit_is_said_and_changes_nothing(act: Any, message: str) -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, TypeError)) as caught:
        act(model, sequences())
    assert str(caught.value) == message
    assert model.reservoir.state is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_fit_that_fails_keeps_nothing() -> None:
    model = small()
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.fit(sequences(), sequences() * float("nan"))
    assert model.readout is not None and model.readout.count is None and not model.fitted


def test_arguments_out_of_range_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ESNModel(
            *(-5, 2.0, 0),  # type: ignore[arg-type]
            **{"leak_rate": 0.0, "spectral_radius": float("nan"), "connectivity": 1.5, "input_scaling": -1},
            **{"driver_size": -1, "driver_scaling": "1", "bias": float("inf"), "trainable": "no", "squared": 1},
            **{"stateful": None, "readout_bias": 2, "readout_trainable": 0, "seed": -1, "activation": "tahn"},
        )
    assert caught.value.problems == (
        "model.reservoir_size is -5; wanted a whole number of at least 1",
        "model.input_size is 2.0; wanted a whole number of at least 1",
        "model.output_size is 0; wanted a whole number of at least 1, or null for no readout",
        "model.leak_rate is 0.0; wanted more than 0, and at most 1",
        "model.spectral_radius is nan; wanted a finite number of 0 or more",
        "model.connectivity is 1.5; wanted more than 0, and at most 1",
        "model.input_scaling is -1; wanted a finite number of 0 or more",
        "model.driver_size is -1; wanted a whole number of 0 or more",
        "model.driver_scaling is '1'; wanted a finite number of 0 or more",
        "model.bias is inf; wanted a finite number of 0 or more",
        "model.squared is 1; wanted true or false",
        "model.trainable is 'no'; wanted true or false",
        "model.stateful is None; wanted true or false",
        "model.readout_bias is 2; wanted true or false",
        "model.readout_trainable is 0; wanted true or false",
        "model.seed is -1; wanted a whole number of 0 or more, or null",
        "model.activation is 'tahn'; wanted one of identity, relu, sigmoid, tanh; did you mean 'tanh'?",
    )


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: classic_esn(5, 1, 1, leakrate=0.5), ["there is no option 'leakrate'; did you mean 'leak_rate'?"]),
        (
            lambda: classic_esn(5, 1, 1, reservoir_config={"spectral_radus": 1}, readout_config={"biass": True}),
            [
                "reservoir_config has 'spectral_radus'; did you mean 'spectral_radius'?",
                "readout_config has 'biass'; did you mean 'bias'?",
            ],
        ),
        (
            lambda: classic_esn(5, 1, 1, readout_config={"alpha": 1e-6}),
            ["readout_config has 'alpha'; wanted one of bias, trainable"],
        ),
        (
            lambda: classic_esn(5, 1, 1, leak_rate=0.5, reservoir_config={"leak_rate": 0.5}),
            ["reservoir_config has 'leak_rate', and leak_rate=0.5 is given, too; keep one"],
        ),
        (
            lambda: classic_esn(5, 1, 1, reservoir_config=0.9),
            ["reservoir_config is 0.9; wanted a mapping of options, as in reservoir_config={'trainable': False}"],
        ),
        (
            lambda: headless_esn(5, 1, readout_bias=True),
            [
                "there is no option 'readout_bias'; wanted one of activation, leak_rate, spectral_radius, "
                "connectivity, input_scaling, driver_size, driver_scaling, bias, trainable, stateful, seed, dtype"
            ],
        ),
        (
            lambda: linear_esn(5, 1, 1, reservoir_config={"activation": "tanh"}),
            [
                "reservoir_config has 'activation'; wanted one of leak_rate, spectral_radius, connectivity, "
                "input_scaling, driver_size, driver_scaling, bias, trainable, stateful"
            ],
        ),
        (
            lambda: classic_esn(5, 1, 1, dtype="float"),
            ["model.dtype is 'float'; wanted one of float16, bfloat16, float32, float64, or null for torch's default"],
        ),
    ],
)
def test_options_that_are_none_are_named_with_the_nearest(make: Any, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.problems == tuple(problems)


def test_the_config_builds_such_a_model() -> None:
    model = ott_esn(20, 2, 3, leak_rate=0.5, seed=1, dtype="float64")
    node = model.config
    assert node.pop("_target_") == "runner.models.esn.ESNModel"
    again = ESNModel(**node)
    assert again.config == model.config
    assert torch.equal(again(sequences()), model(sequences()))
    assert model.float().config["dtype"] == "float32"


@pytest.mark.parametrize("way", ["torch.save", "pickle", "deepcopy"])
def test_a_whole_model_can_be_saved(way: str) -> None:
    x = sequences()
    model = small().fit(x, x.roll(-1, 1))
    if way == "torch.save":
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        twin = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))  # noqa: S301
    assert twin.fitted and twin.config == model.config
    # With the state, so that it goes on in the same way.
    assert torch.equal(twin(x), model(x))


def test_the_state_is_transient_and_comes_back_with_a_training_s_state() -> None:
    x = sequences()
    model = small()
    model(x)
    assert model.readout is not None
    model.readout.gather(model.features(x), x)
    assert not any("state" in name or "gram" in name for name in model.state_dict())
    saved = transient(model)
    fresh = small()
    load_transient(fresh, saved, torch.device("cpu"))
    assert fresh.readout is not None
    assert torch.equal(fresh(x), model(x))
    model.readout.solve(1e-6)
    fresh.readout.solve(1e-6)
    assert torch.equal(fresh.readout.weight, model.readout.weight)


def test_the_state_goes_where_the_model_goes() -> None:
    model = small()
    model(sequences())
    model.float()
    assert model.reservoir.state is not None and model.reservoir.state.dtype == torch.float32
    assert model(sequences().float()).dtype == torch.float32
    model.to("meta")
    assert model(sequences().float().to("meta")).shape == (4, 30, 2)


def test_the_recurrence_keeps_its_precision_under_autocast() -> None:
    x = sequences().float()
    plain, mixed = (classic_esn(20, 2, 2, seed=1) for _ in range(2))
    plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixed(x).dtype == torch.bfloat16
        assert mixed.forecast(x, 3).dtype == torch.bfloat16
        mixed.reset_reservoirs()
        mixed(x)
    assert plain.reservoir.state is not None and mixed.reservoir.state is not None
    assert torch.equal(mixed.reservoir.state, plain.reservoir.state)


def test_a_compiler_does_not_write_out_the_steps() -> None:
    sizes = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    model, plain = small(), small()
    compiled = torch.compile(model, backend=backend)
    assert near(compiled(sequences()), plain(sequences()))
    assert sizes and max(sizes) < len(sequences()[0])


def test_nothing_is_drawn_on_the_device_meta() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = classic_esn(100_000, 1, 1, connectivity=0.5)
    assert all(value.is_meta for value in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_averaged_weights_take_the_model_as_it_is() -> None:
    x = sequences()
    model = small()
    model(x)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    model.reset_reservoirs()
    averaged.module.reset_reservoirs()
    assert torch.equal(averaged(x), model(x))


def test_data_parallel_processes_keep_their_own_states_and_sums() -> None:
    # torch's own stand-in for other processes. A group with threads of its own can wait for itself when it goes away.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = small()
        model(sequences())
        assert model.readout is not None
        model.readout.gather(model.features(sequences()), sequences())
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(sequences())
        # What is sent from the first process to the others before each call.
        sent = {id(buffer) for buffer in parallel.modules_buffers}
        names = [name for name, buffer in parallel.named_buffers() if id(buffer) in sent]
        assert names == ["module._modules_dict.output.fitted"]
    finally:
        dist.destroy_process_group()


def test_the_package_exports_the_functions_and_the_class() -> None:
    assert dir(runner.models) == ["ESNModel", "classic_esn", "headless_esn", "linear_esn", "ott_esn"]
    assert runner.models.ESNModel is ESNModel and issubclass(ESNModel, nn.Module)
    with pytest.raises(AttributeError, match=r"^module 'runner.models' has no attribute 'classical_esn'$"):
        _ = runner.models.classical_esn


def test_a_truth_is_no_number() -> None:
    with pytest.raises(ConfigError, match=r"^model.leak_rate is True; wanted more than 0, and at most 1$"):
        classic_esn(5, 1, 1, leak_rate=True)
