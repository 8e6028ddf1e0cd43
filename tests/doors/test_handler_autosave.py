"""Files that the handler saves by itself: after which epochs, under which names, and which of them stay."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import runner
from runner import NNHandler
from runner.checkpoint.handle import Checkpoint
from runner.errors import ConfigError, SaveError

sys.path.append(str(Path(__file__).parent))

from handler_nets import Net, assert_equal, give_data, made, train


def saving(interval: int | None, folder: Path, name: str = "{epoch}", **settings: Any) -> NNHandler:
    handler = made()
    handler.auto_save(interval, folder, name, **settings)
    return handler


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("interval", "at_end", "epochs"),
    [
        (2, True, ["2", "4", "5"]),
        (2, False, ["2", "4"]),
        (5, False, ["5"]),
        (1, True, ["1", "2", "3", "4", "5"]),
        (9, True, ["5"]),
        (-1, True, ["5"]),
        (-1, False, []),
        (None, True, []),
        (0, True, []),
    ],
)
def test_it_saves_after_epochs_that_the_interval_divides_and_the_last(
    tmp_path: Path, interval: int | None, at_end: bool, epochs: list[str]
) -> None:
    train(saving(interval, tmp_path), 5, save_on_last_epoch=at_end)
    assert there(tmp_path) == [f"{epoch}.pth" for epoch in epochs]


def test_epochs_are_counted_over_all_trainings(tmp_path: Path) -> None:
    handler = saving(2, tmp_path)
    train(handler, 3, save_on_last_epoch=False)
    train(handler, 3, save_on_last_epoch=False)
    assert there(tmp_path) == ["2.pth", "4.pth", "6.pth"]


@pytest.mark.parametrize(("at_end", "expected"), [(True, ["2.pth", "3.pth"]), (False, ["2.pth"])])
def test_a_training_that_stops_early_saves_its_last_epoch(tmp_path: Path, at_end: bool, expected: list[str]) -> None:
    handler = saving(2, tmp_path)
    handler.set_early_stopping(2, min_delta=100.0)
    train(handler, 9, save_on_last_epoch=at_end)
    assert handler.epoch == 3
    assert there(tmp_path) == expected


def test_a_name_holds_all_that_was_measured(tmp_path: Path) -> None:
    name = "e{epoch:03d}-{loss:.3f}-{accuracy:.2f}-{val_loss:.3f}-{val_accuracy:.2f}-{lr:.0e}-s{step}"
    handler = train(saving(-1, tmp_path, name), 2)
    row = handler.history[-1]
    expected = (
        f"e002-{row['loss']:.3f}-{row['accuracy']:.2f}-{row['val_loss']:.3f}-{row['val_accuracy']:.2f}-5e-02-s8.pth"
    )
    assert there(tmp_path) == [expected]
    metrics = Checkpoint.open(tmp_path / expected).metrics
    assert {name: metrics[name] for name in ("accuracy", "val_accuracy")} == {
        name: row[name] for name in ("accuracy", "val_accuracy")
    }


@pytest.mark.parametrize(
    ("name", "file"),
    [("final", "final.pth"), ("final.pth", "final.pth"), ("final.pt", "final.pt.pth"), ("a/b{epoch}", "a/b1.pth")],
)
def test_the_ending_is_appended_unless_it_is_there(tmp_path: Path, name: str, file: str) -> None:
    train(saving(1, tmp_path, name), 1)
    assert (tmp_path / file).is_file()


def test_what_was_not_measured_is_said_once_and_leaves_no_braces(tmp_path: Path) -> None:
    handler = saving(1, tmp_path, "{epoch}-{val_loss:.4f}-{f1}")
    with pytest.warns(UserWarning, match="auto_save") as told:
        train(handler, 2, validate_every=2)
    # At the line that trains.
    assert {Path(one.filename).name for one in told} == {"handler_nets.py"}
    assert there(tmp_path)[0] == "1-none-none.pth"
    assert there(tmp_path)[1] == f"2-{handler.val_losses[0]:.4f}-none.pth"
    assert sorted(str(one.message).split("; ")[0].split(" and ")[-1] for one in told) == [
        "f1 was not measured at the step of a checkpoint",
        "val_loss was not measured at the step of a checkpoint",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": -2}, "interval=-2): wanted epochs, -1 for the last one only, None for never"),
        ({"interval": 2.0}, "interval=2.0): wanted epochs"),
        ({"name": ""}, "wanted the name of a file, such as 'model_epoch{epoch:02d}'"),
        ({"name": "../x"}, "wanted the name of a file"),
        ({"name": "/x"}, "wanted the name of a file"),
        ({"name": "a{}"}, "{} names nothing; wanted a field, such as {epoch}"),
        ({"name": "{epoch"}, "name='{epoch'): expected '}' before end of string"),
        ({"name": "{loss:d}"}, "{loss:d} has a format that does not suit it; wanted one such as {loss:.4f}"),
        ({"name": "{epoch:9000000d}"}, "has a format that does not suit it; wanted one such as {epoch:09d}"),
        ({"name": "{loss!r}"}, "{loss!r} converts; wanted a field and a format"),
    ],
)
def test_what_no_file_can_be_named_by_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NNHandler(Net).auto_save(**{"interval": 1, **settings})
    assert message in str(caught.value)


def test_nothing_that_is_there_is_overwritten_where_all_are_kept(tmp_path: Path) -> None:
    handler = saving(1, tmp_path, "model")
    with pytest.warns(UserWarning, match=r"stands there already, and overwrite is False; saved as model_[23]\.pth"):
        train(handler, 3)
    assert there(tmp_path) == ["model.pth", "model_2.pth", "model_3.pth"]
    assert [NNHandler.load(tmp_path / name).epoch for name in there(tmp_path)] == [1, 2, 3]


def test_only_the_newest_stays_also_across_a_file_and_in_another_place(tmp_path: Path) -> None:
    whole = train(saving(1, tmp_path / "whole", overwrite=True), 3)
    assert there(tmp_path / "whole") == ["3.pth"]
    (tmp_path / "parts").mkdir()
    bystander = tmp_path / "parts" / "0.pth"
    train(made(), 1).save(bystander)
    train(saving(1, tmp_path / "parts", overwrite=True), 2)
    assert there(tmp_path / "parts") == ["0.pth", "2.pth"]
    (tmp_path / "parts").rename(tmp_path / "moved")
    handler = NNHandler.load(tmp_path / "moved" / "2.pth")
    give_data(handler)
    handler.auto_save(1, tmp_path / "moved", "{epoch}", overwrite=True)
    assert_equal(whole, train(handler, 1))
    assert there(tmp_path / "moved") == ["0.pth", "3.pth"]


def test_a_copy_that_is_kept_elsewhere_stays_though_it_is_gone_on_from(tmp_path: Path) -> None:
    train(saving(1, tmp_path / "newest", overwrite=True), 1)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "1.pth").write_bytes((tmp_path / "newest" / "1.pth").read_bytes())
    handler = NNHandler.load(tmp_path / "kept" / "1.pth")
    handler.auto_save(1, tmp_path / "newest", "{epoch}", overwrite=True)
    give_data(handler)
    train(handler, 2)
    assert there(tmp_path / "kept") == ["1.pth"]
    assert there(tmp_path / "newest") == ["3.pth"]


def test_its_settings_are_in_the_file(tmp_path: Path) -> None:
    train(saving(2, tmp_path), 2)
    handler = NNHandler.load(tmp_path / "2.pth")
    give_data(handler)
    train(handler, 2)
    assert there(tmp_path) == ["2.pth", "4.pth"]


@pytest.mark.parametrize(
    ("interval", "overwrite", "told"),
    [
        (
            1,
            True,
            "every epoch, to {}, overwriting: the file before, this one too, is removed once the next is complete",
        ),
        (2, False, "every 2 epochs, to {}, keeping all"),
        (-1, False, "at the end of a training, to {}, keeping all"),
        (None, True, None),
    ],
)
def test_that_it_goes_on_is_said_where_a_file_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, interval: int | None, overwrite: bool, told: str | None
) -> None:
    caplog.set_level("INFO", "runner.doors")
    file = tmp_path / "a.pth"
    train(saving(interval, tmp_path, "a", overwrite=overwrite), 2, save_on_last_epoch=True).save(file)
    NNHandler.load(file)
    expected = (
        []
        if told is None
        else [
            (
                "WARNING" if overwrite else "INFO",
                f"{file}: auto_save goes on when it is trained: {told.format(file)}; auto_save(None) ends that",
            )
        ]
    )
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == expected


def test_a_file_has_nothing_written_elsewhere(tmp_path: Path) -> None:
    train(saving(1, tmp_path / "a", overwrite=True), 1)
    (tmp_path / "a" / "1.pth").rename(tmp_path / "b.pth")
    handler = NNHandler.load(tmp_path / "b.pth")
    give_data(handler)
    with pytest.warns(UserWarning, match="nothing is saved automatically: .*/a, where that file is not"):
        train(handler, 1)
    handler.auto_save(None)
    train(handler, 1)
    assert there(tmp_path / "a") == []


def test_the_old_file_goes_only_when_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = saving(1, tmp_path, overwrite=True)
    train(handler, 1)
    rename = os.rename

    def refused(source: Any, target: Any, **places: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(SaveError, match="Input/output error"):
            train(handler, 1)
    assert os.rename is rename
    assert there(tmp_path) == ["1.pth"]
    # What was trained is not lost, and the next save takes the place of the last.
    assert handler.epoch == 2
    train(handler, 1)
    assert there(tmp_path) == ["3.pth"]


def test_what_a_kill_between_save_and_removal_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = saving(1, tmp_path, overwrite=True)
    train(handler, 1)
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "1.pth":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            train(handler, 1)
    assert there(tmp_path) == ["1.pth", "2.pth"]
    loaded = NNHandler.load(tmp_path / "2.pth")
    give_data(loaded)
    train(loaded, 1)
    assert there(tmp_path) == ["3.pth"]


@pytest.mark.parametrize("code", [True, False])
def test_the_source_of_the_model_is_in_the_file_if_asked(tmp_path: Path, code: bool) -> None:
    train(saving(1, tmp_path, "a", save_model_code=code), 1)
    checkpoint = Checkpoint.open(tmp_path / "a.pth")
    assert ("source.handler_nets.py" in checkpoint.manifest.files) == code
    if code:
        assert b"class Net(nn.Module):" in checkpoint.document("source.handler_nets.py")


def test_a_file_saved_by_itself_is_one_that_every_reader_opens(tmp_path: Path) -> None:
    handler = train(saving(1, tmp_path, "a"), 1)
    assert runner.load(tmp_path / "a.pth").first.weight.equal(handler.model.first.weight)
    assert_equal(handler, NNHandler.load(tmp_path / "a.pth"))
