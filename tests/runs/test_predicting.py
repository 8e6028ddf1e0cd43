"""What a trained model gives for the samples in a file, in another file: all of it, or what was there before."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runner
from runner.data.digits import digits
from runner.runs.predicting import Form, Predicted, predict
from runner.runs.saved import opened

Short = Callable[..., runner.Run]
RUN = ("hydra.run.dir=here", "trainer.max_steps=2")
AS_IT_IS = Form(batch_size=256, shape=None, dtype=None)
IMAGES = digits().test.tensors[0]

OWN = """
import torch

class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(300, 10)
    def forward(self, x):
        return self.embedding(x.long().flatten(1)).sum(1)

class Output(dict):
    pass

class Logits(torch.nn.Linear):
    def __init__(self, answer):
        super().__init__(64, 10)
        self.answer = answer
    def forward(self, x):
        y = super().forward(x.flatten(1))
        if self.training or self.answer == "logits":
            return y
        return {
            "mapping": {"logits": y, "loss": y.mean()},
            "object": type("Output", (), {"logits": y})(),
            "unknown": {"scores": y},
            "tuple": (y, y),
            "mean": y.mean(),
            "half": y[: len(y) // 2],
            "labels": y.argmax(1),
            "image": y[:, :, None].expand(-1, -1, 2),
            "bf16": y.bfloat16(),
        }[self.answer]
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    np.save(tmp_path / "x.npy", IMAGES.numpy())
    np.savetxt(tmp_path / "x.csv", IMAGES.flatten(1).numpy(), delimiter=",")


def predicted(source: str, target: str, *overrides: str, form: Form = AS_IT_IS, **more: Any) -> Predicted:
    return predict(opened("here"), overrides, Path(source), Path(target), form=form, **more)


def by_hand(x: torch.Tensor = IMAGES, batch_size: int = 256, **how: Any) -> np.ndarray:
    model = runner.load("here", **how)
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(batch_size)]).numpy()


def test_it_is_what_the_model_gives_in_eval_mode(short: Short) -> None:
    short(*RUN)
    assert predicted("x.npy", "y.npy") == Predicted((267, 10), "float32", ())
    y = np.load("y.npy")
    assert np.array_equal(y, by_hand()) and y.dtype == np.float32
    predicted("x.csv", "z.csv")
    # A text of a float32 in a .csv file, and that read as float64, are the same float32 again.
    assert np.array_equal(np.loadtxt("z.csv", delimiter=",", dtype=np.float32), y)


@pytest.mark.parametrize("size", [1, 100, 267, 1000])
def test_batches_of_any_size_cover_every_sample_in_order(size: int, short: Short) -> None:
    short(*RUN)
    predicted("x.npy", "y.npy", form=Form(size, None, None))
    assert np.array_equal(np.load("y.npy"), by_hand(batch_size=size))


def test_averaged_weights_and_overrides(short: Short) -> None:
    short(*RUN, "trainer.ema_decay=0.5")
    predicted("x.npy", "y.npy", weights="averaged")
    predicted("x.npy", "z.npy", "model.activation=gelu", "trainer.precision=bf16")
    assert np.array_equal(np.load("y.npy"), by_hand(weights="averaged"))
    model = runner.load("here", overrides=["model.activation=gelu"])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = torch.cat([model(part) for part in IMAGES.split(256)]).float().numpy()
    assert np.array_equal(np.load("z.npy"), expected) and np.load("z.npy").dtype == np.float32


def test_a_sample_may_have_another_shape_than_in_the_file(short: Short) -> None:
    short(*RUN, "model=cnn")
    with pytest.raises(runner.DataError, match=r"x\.csv: CNN cannot take a batch of float32 \(256, 64\): .*--shape"):
        predicted("x.csv", "y.npy")
    predicted("x.csv", "y.npy", form=Form(256, (1, 8, 8), None))
    assert np.array_equal(np.load("y.npy"), by_hand())
    with pytest.raises(runner.ConfigError, match=r"has shape \(64,\), which is 64 numbers; the shape \(1, 3\) has 3"):
        predicted("x.csv", "z.npy", form=Form(256, (1, 3), None))
    assert not Path("z.npy").exists()


def test_numbers_are_the_models_own_unless_others_are_asked_for(short: Short) -> None:
    short(*RUN)
    np.save("f8.npy", IMAGES.double().numpy())
    np.save("big_endian.npy", IMAGES.numpy().astype(">f4"))
    for name in ("f8.npy", "big_endian.npy"):
        predicted(name, f"of_{name}")
        assert np.array_equal(np.load(f"of_{name}"), by_hand())
    whole = (IMAGES * 16).round()
    np.save("u1.npy", whole.numpy().astype(np.uint8))
    with pytest.raises(runner.DataError, match=r"MLP cannot take a batch of int64 \(256, 1, 8, 8\): .*--dtype other"):
        predicted("u1.npy", "y.npy")
    predicted("u1.npy", "y.npy", form=Form(256, None, "float32"))
    assert np.array_equal(np.load("y.npy"), by_hand(whole))


def test_whole_numbers_are_tokens(short: Short) -> None:
    short(*RUN, "model._target_=own_nets.Tokens")
    tokens = torch.randint(300, (9, 64), generator=torch.Generator().manual_seed(0))
    np.save("tokens.npy", tokens.numpy().astype(np.uint16))
    np.savetxt("tokens.csv", tokens.numpy(), delimiter=",", fmt="%d")
    predicted("tokens.npy", "y.npy")
    predicted("tokens.csv", "z.npy", form=Form(256, None, "int64"))
    assert np.array_equal(np.load("y.npy"), by_hand(tokens)) and np.array_equal(np.load("z.npy"), np.load("y.npy"))
    with pytest.raises(
        runner.DataError, match=r"x\.npy: not every number in it is one of int64; choose another --dtype"
    ):
        predicted("x.npy", "w.npy", form=Form(256, None, "int64"))


@pytest.mark.parametrize("answer", ["mapping", "object", "bf16", "labels", "image"])
def test_what_models_answer_is_written(answer: str, short: Short) -> None:
    short(*RUN, "model._target_=own_nets.Logits", "+model.answer=logits")
    result = predicted("x.npy", "y.npy", f"model.answer={answer}")
    y, logits = np.load("y.npy"), by_hand()
    if answer == "labels":
        assert np.array_equal(y, logits.argmax(1)) and result == Predicted((267,), "int64", ())
    elif answer == "image":
        assert result.shape == y.shape == (267, 10, 2)
        with pytest.raises(runner.ConfigError, match=r"shape \(267, 10, 2\), and a .csv file holds one row"):
            predicted("x.npy", "y.csv", f"model.answer={answer}")
        assert not Path("y.csv").exists()
    else:
        expected = torch.from_numpy(logits).bfloat16().float().numpy() if answer == "bf16" else logits
        assert np.array_equal(y, expected) and y.dtype == np.float32


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "unknown",
            "Logits returned dict with scores; wanted a tensor, or something with one as `logits`; use runner.load",
        ),
        ("tuple", "Logits returned tuple; wanted a tensor"),
        ("mean", r"Logits returned a tensor of shape \(\) for 256 samples; wanted a row for each"),
        ("half", r"Logits returned a tensor of shape \(128, 10\) for 256 samples"),
    ],
)
def test_what_is_no_row_for_each_sample_is_refused(answer: str, message: str, short: Short) -> None:
    short(*RUN, "model._target_=own_nets.Logits", "+model.answer=logits")
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(runner.DataError, match=message):
        predicted("x.npy", "y.npy", f"model.answer={answer}")
    assert sorted(Path.cwd().iterdir()) == before


def test_nothing_is_overwritten_unless_that_is_asked_for(short: Short) -> None:
    short(*RUN)
    Path("y.npy").write_text("mine")
    with pytest.raises(runner.ConfigError, match=r"y\.npy: stands there already; choose another name, or add --force"):
        predicted("x.npy", "y.npy")
    assert Path("y.npy").read_text() == "mine"
    with pytest.raises(runner.DataError, match="MLP cannot take"):
        predicted("x.npy", "y.npy", form=Form(256, None, "float64"), overwrite=True)
    assert Path("y.npy").read_text() == "mine"
    predicted("x.npy", "y.npy", overwrite=True)
    assert np.array_equal(np.load("y.npy"), by_hand())
    assert stat.S_IMODE(Path("y.npy").stat().st_mode) & 0o444
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("gone/y.npy", runner.SaveError, "gone/y.npy: could not be written .No such file"),
        ("y.npz", runner.ConfigError, r"y\.npz: arrays are in files that end in \.npy or \.csv"),
        ("here", runner.ConfigError, "here: arrays are in files"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    target: str, error: type[Exception], message: str, short: Short
) -> None:
    short(*RUN)
    with pytest.raises(error, match=message):
        predicted("x.npy", target)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ((0, None, None), "the batch size is 0; wanted at least 1"),
        ((1, (0, 64), None), r"the shape is \(0, 64\); wanted sizes of at least 1"),
        ((1, (), None), r"the shape is \(\); wanted sizes"),
        ((1, None, "float8"), "the dtype is 'float8'; wanted one of float32, float64"),
    ],
)
def test_a_form_that_cannot_be_is_refused(form: tuple[Any, ...], message: str) -> None:
    with pytest.raises(runner.ConfigError, match=message):
        Form(*form)


def test_a_data_set_or_an_optimizer_that_is_not_there_is_not_wanted(
    short: Short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone_data.py").write_text(
        "import torch, runner\nfrom torch.utils.data import TensorDataset\n"
        "def data():\n    part = TensorDataset(torch.zeros(64, 64), torch.arange(64) % 10)\n"
        "    return runner.Data(train=part, validation=part)\n"
    )
    short(*RUN, "data._target_=gone_data.data", "data.batch_size=32")
    (tmp_path / "gone_data.py").unlink()
    monkeypatch.delitem(sys.modules, "gone_data")
    predicted("x.npy", "y.npy")
    assert np.array_equal(np.load("y.npy"), by_hand())
