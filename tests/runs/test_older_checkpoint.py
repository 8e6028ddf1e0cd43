"""Going on from a checkpoint that is older than the newest."""

from collections.abc import Callable

import runner

EVERY = (
    "trainer.max_epochs=2",
    "checkpoint.save.every_steps=2",
    "checkpoint.keep.last=null",
    "checkpoint.keep.best=null",
)


def test_what_came_after_is_set_aside_and_comes_again_with_its_records(short: Callable[..., runner.Run]) -> None:
    run = short(*EVERY)
    before = {path.name: path for path in (run.directory / "checkpoints").glob("step-*")}
    files = ("model.safetensors", "optimizer.safetensors", "extra.safetensors", "state.json")
    bytes_before = {name: [(path / file).read_bytes() for file in files] for name, path in before.items()}
    losses = [(record["step"], record["loss"]) for record in run.records if record["event"] == "step"]
    again = runner.run([f"+resume={run.directory}@step=4"])
    after = {path.name: path for path in (again.directory / "checkpoints").glob("step-*")}
    assert {name: [(path / file).read_bytes() for file in files] for name, path in after.items()} == bytes_before
    assert [(record["step"], record["loss"]) for record in again.records if record["event"] == "step"] == losses
    aside = {path.name for path in (run.directory / "checkpoints" / "aside" / "2").iterdir()}
    assert aside == {name for name in before if name > "step-000000004"}
