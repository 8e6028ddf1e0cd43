"""Saving beside the training: what is saved is the state at the call, and what goes wrong is told."""

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.policies import KeepPolicy
from runner.checkpoint.saving import Saving
from runner.checkpoint.store import CheckpointStore
from runner.errors import DamagedError, SaveError
from runner.records import Progress

MakeStore = Callable[..., CheckpointStore]


@pytest.fixture
def begin(make_state: Callable[[int], Any]) -> Callable[..., Saving]:
    """Begins a save of a small state, or of the state given."""

    def begin(store: CheckpointStore, step: int, state: Any = None, **more: Any) -> Saving:
        state = make_state(step) if state is None else state
        return store.save(
            state, progress=Progress(step=step), reasons=("every_steps",), metrics={}, documents={}, facts={}, **more
        )

    return begin


@contextmanager
def held() -> Iterator[tuple[threading.Event, threading.Event]]:
    """`before` of a save that waits: (it has begun, it may go on)."""
    begun, go = threading.Event(), threading.Event()
    try:
        yield begun, go
    finally:
        go.set()


def wait_for(begun: threading.Event, go: threading.Event) -> Callable[[], None]:
    def before() -> None:
        begun.set()
        assert go.wait(60)

    return before


def test_a_state_that_changes_right_after_the_call_is_saved_as_it_was(
    make_store: MakeStore, make_state: Callable[[int], Any], begin: Callable[..., Saving], same: Callable[..., bool]
) -> None:
    store, state = make_store(), make_state(1)
    state["rows"] = [[1, 2], {"deep": [3]}]
    with held() as (begun, go):
        saving = begin(store, 1, state, before=wait_for(begun, go))
        assert begun.wait(60)
        assert saving.staged and not saving.durable and not saving.done and store.busy
        assert saving.path is None and saving.stats is None
        state["model"]["head.weight"].zero_()
        state["optimizer"]["state"]["head.weight"]["exp_avg"].fill_(7)
        state["rng"]["torch"].zero_()
        state["rows"][1]["deep"].append(4)
        state["rows"].append("late")
        state["progress"]["step"] = 99
        del state["model"]["head.bias"]
    saved = saving.wait(60)
    expected = make_state(1) | {"rows": [[1, 2], {"deep": [3]}]}
    assert same(Checkpoint.open(saved.path).state(), expected)
    assert saving.durable and saving.done and saving.path == saved.path and saving.stats == saved.stats


def test_what_a_save_has_cost_is_told(make_store: MakeStore, begin: Callable[..., Saving]) -> None:
    stats = begin(make_store(), 1).wait().stats
    files = Checkpoint.open(make_store().directory).manifest.files.values()
    assert stats.size == stats.written == sum(record.size for record in files)
    assert 0 < stats.stall <= stats.seconds
    assert stats.stall < stats.cost


def test_linked_bytes_are_not_counted_as_written(
    make_store: MakeStore, make_state: Callable[[int], Any], begin: Callable[..., Saving]
) -> None:
    store = make_store()
    begin(store, 1, frozen=["base.weight"]).wait()
    stats = begin(store, 2, frozen=["base.weight"]).wait().stats
    record = store.checkpoints[-1].manifest.files["frozen.safetensors"]
    assert stats.size - stats.written == record.size


def test_the_next_save_waits_for_the_one_before(make_store: MakeStore, begin: Callable[..., Saving]) -> None:
    store, order = make_store(), []
    first = begin(store, 1, before=lambda: order.append(1))
    second = begin(store, 2, before=lambda: order.append(2))
    assert first.done
    second.wait()
    assert order == [1, 2]
    assert [checkpoint.step for checkpoint in store.checkpoints] == [1, 2]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", refuse)

    return fill


@pytest.mark.parametrize("ask", ["saving", "store", "next save"])
def test_a_failure_in_the_background_is_raised_to_the_first_who_asks(
    ask: str,
    make_store: MakeStore,
    begin: Callable[..., Saving],
    full_disk: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store()
    begin(store, 1).wait()
    full_disk()
    saving = begin(store, 2)
    with pytest.raises(SaveError, match=r"step-000000002: could not be saved \(No space left on device\)"):
        {"saving": saving.wait, "store": store.wait, "next save": lambda: begin(store, 3)}[ask]()
    assert saving.done and not saving.durable and saving.stats is None
    # Told once, it does not stand in the way.
    monkeypatch.undo()
    begin(store, 4).wait()
    assert [checkpoint.step for checkpoint in store.checkpoints] == [1, 4]


def test_waiting_has_a_limit(make_store: MakeStore, begin: Callable[..., Saving]) -> None:
    store = make_store()
    with held() as (begun, go):
        saving = begin(store, 7, before=wait_for(begun, go))
        with pytest.raises(SaveError, match="step 7 is still not written after 0 s; those before it are whole"):
            saving.wait(0.01)
        with pytest.raises(SaveError, match="step 7 is still not written"):
            store.wait(0.01)
    assert saving.wait(60).progress.step == 7
    assert store.patience >= 60


def test_what_the_state_may_not_hold_shows_at_the_call(make_store: MakeStore, begin: Callable[..., Saving]) -> None:
    store = make_store()
    with pytest.raises(TypeError, match="object"):
        begin(store, 1, {"model": {}, "strange": object()})
    assert not store.busy


def test_prepared_memory_changes_nothing_but_the_time(
    make_store: MakeStore, make_state: Callable[[int], Any], begin: Callable[..., Saving], tmp_path: Path
) -> None:
    prepared, plain = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    prepared.prepare(make_state(1))
    one, other = begin(prepared, 1).wait(), begin(plain, 1).wait()
    for name in Checkpoint.open(one.path).manifest.files:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_bytes_that_come_back_wrong_are_no_checkpoint(
    make_store: MakeStore, begin: Callable[..., Saving], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = CheckpointStore(
        tmp_path / "checkpoints", run="r", keep=KeepPolicy(None, None, None, None), monitor=None, read_back=True
    )
    begin(store, 1).wait()
    sync = os.fdatasync

    def flip(descriptor: int) -> None:
        sync(descriptor)
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        if file.name == "state.json":
            file.write_bytes(file.read_bytes().swapcase())

    monkeypatch.setattr(os, "fdatasync", flip)
    with pytest.raises(DamagedError, match=r"step-000000002: was not saved: what was read back.*state\.json"):
        begin(store, 2).wait()
    monkeypatch.undo()
    assert [checkpoint.step for checkpoint in store.checkpoints] == [1]
    assert [path.name for path in store.directory.iterdir()] == ["step-000000001"]


def test_names_follow_the_template_and_never_collide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(
        tmp_path / "checkpoints",
        run="r",
        keep=KeepPolicy(None, None, None, None),
        monitor=None,
        name="epoch{epoch:02d}-loss{val_loss:.4f}",
    )

    def save(step: int, **metrics: float) -> str:
        state = {"model": {"w": torch.ones(step)}}
        progress = Progress(step=step, epoch=3)
        return store.save(
            state, progress=progress, reasons=(), metrics=metrics, documents={}, facts={}
        ).wait().path.name  # fmt: skip

    assert save(1, val_loss=0.5) == "epoch03-loss0.5000"
    assert save(2, val_loss=0.5) == "epoch03-loss0.5000-2"
    assert save(3, val_loss=float("nan")) == "epoch03-lossnan"
    assert save(4) == "epoch03-lossnone"
    assert save(5) == "epoch03-lossnone-2"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and "val_loss is nan" in warnings[0] and "was not measured" in warnings[1]
    again = CheckpointStore(store.directory, run="r", keep=KeepPolicy(2, None, None, None), monitor=None)
    assert [checkpoint.step for checkpoint in again.checkpoints] == [1, 2, 3, 4, 5]
    assert again.newest is not None and again.newest.generation == 5


def test_a_closed_store_can_save_again(make_store: MakeStore, begin: Callable[..., Saving]) -> None:
    store = make_store()
    begin(store, 1)
    store.close()
    begin(store, 2).wait()
    assert [checkpoint.step for checkpoint in store.checkpoints] == [1, 2]


def test_a_closed_store_holds_no_memory_for_copies_even_for_who_keeps_the_handle(
    make_store: MakeStore, begin: Callable[..., Saving]
) -> None:
    store = make_store()
    saving = begin(store, 1, {"model": {"weight": torch.zeros(1_234_567)}})
    assert saving.wait().path == saving.path
    assert copies_of(4 * 1_234_567)
    store.close()
    assert saving.staged and saving.durable
    assert not copies_of(4 * 1_234_567)


def copies_of(size: int) -> list[int]:
    """The sizes of all memory for copies of about `size` bytes."""
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.uint8]
    return [one.numel() for one in tensors if size <= one.numel() < size + 100_000]
