"""One attempt: what is saved when something fails in it, and what a checkpoint says of where it comes from."""

from pathlib import Path

import pytest

import runner

DATA = """
import torch
from runner import Data
from runner.errors import DataError

class Images(torch.utils.data.Dataset):
    def __init__(self, error, at):
        self.error, self.at, self.read = error, at, 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.read += 1
        if self.read == self.at:
            raise {"data": DataError, "value": ValueError}[self.error](f"image {index} is torn")
        return torch.zeros(64), index % 10

def images(error, at):
    return Data(Images(error, at), validation=Images(error, 10_000))
"""
OWN_DATA = ("model.in_features=64", "data.batch_size=8", "data._target_=torn_images.images", "+data.at=20")


@pytest.mark.parametrize(("error", "raised"), [("data", runner.DataError), ("value", ValueError)])
def test_data_that_fail_in_the_middle_cost_no_whole_step(
    short, tmp_path: Path, error: str, raised: type[Exception]
) -> None:
    (tmp_path / "torn_images.py").write_text(DATA)
    with pytest.raises(raised, match=r"image \d+ is torn"):
        short(*OWN_DATA, f"+data.error={error}", "hydra.run.dir=here")
    checkpoint = runner.Checkpoint.open("here")
    assert (checkpoint.step, checkpoint.reasons) == (2, ("exception",))
    run = runner.run(["+resume=here", "data.at=10000"])
    assert (run.outcome, run.checkpoint().step) == ("finished", 5)


def test_a_checkpoint_says_where_it_comes_from(short) -> None:
    run = short("hydra.run.dir=here")
    facts = run.checkpoint().manifest.facts
    assert (facts["attempt"], facts["code"], facts["device"]) == (1, "code/001", "cpu")
    assert facts["versions"].keys() >= {"python", "torch", "numpy", "runner"}
    assert facts["data"]
    again = runner.run(["+resume=here", "trainer.max_epochs=2"]).checkpoint()
    assert again.manifest.facts["attempt"] == 2
    assert again.manifest.seconds > run.checkpoint(5).manifest.seconds > 0


def test_the_records_up_to_a_step_are_on_the_disk_before_its_checkpoint(short, tmp_path: Path) -> None:
    (tmp_path / "witness.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "rename = os.rename\n"
        "seen = []\n"
        "def watched(source, target, **rest):\n"
        "    if Path(target).name.startswith('step-'):\n"
        "        seen.append((Path(target).name, Path('here/metrics.jsonl').read_text()))\n"
        "    return rename(source, target, **rest)\n"
        "class Witness:\n"
        "    def __init__(self): os.rename = watched\n"
        "    def observe(self, record): pass\n"
        "    def close(self): os.rename = rename\n"
    )
    run = short("+observers.witness._target_=witness.Witness", "hydra.run.dir=here")
    import witness

    ((name, metrics),) = witness.seen
    assert name == run.checkpoint().path.name
    assert '"event": "step", "step": 5' in metrics and '"event": "evaluation", "step": 5' in metrics


def test_what_is_read_back_and_differs_is_damage(short, tmp_path: Path) -> None:
    (tmp_path / "flipping.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "fdatasync = os.fdatasync\n"
        "def flipped(descriptor):\n"
        "    fdatasync(descriptor)\n"
        "    file = Path(os.readlink(f'/proc/self/fd/{descriptor}'))\n"
        "    if file.name == 'model.safetensors':\n"
        "        content = bytearray(file.read_bytes()); content[-1] ^= 1; file.write_bytes(content)\n"
        "class Flips:\n"
        "    def __init__(self): os.fdatasync = flipped\n"
        "    def observe(self, record): pass\n"
        "    def close(self): os.fdatasync = fdatasync\n"
    )
    with pytest.raises(runner.DamagedError, match=r"was not saved: what was read back is not.*model.safetensors"):
        short("+observers.flips._target_=flipping.Flips", "checkpoint.read_back=true")
    assert [path.name for path in tmp_path.rglob("step-*")] == []


def test_a_launch_with_a_device_that_is_not_there_is_refused_and_leaves_nothing(short, tmp_path: Path) -> None:
    with pytest.raises(runner.ConfigError, match=r"runtime\.device is 'abacus'"):
        short("runtime.device=abacus")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_steps_that_are_left_out_are_said_at_the_first_and_counted_at_the_end(
    short, messages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nan_data.py").write_text(
        "import torch, runner\n"
        "from torch.utils.data import TensorDataset\n"
        "def data():\n"
        "    x = torch.zeros(32, 64)\n"
        "    x[[3, 20]] = float('nan')\n"
        "    y = torch.zeros(32).long()\n"
        "    return runner.Data(TensorDataset(x, y), TensorDataset(x[:1], y[:1]))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = short("data._target_=nan_data.data", "data.batch_size=8", "data.shuffle=false", "trainer.nonfinite=skip")
    said = [message for message in messages() if "finite" in message]
    assert said == [
        "after step 0 (epoch 0, batch 1): loss or gradients are not finite, so the step is left out; "
        "the end of the run says how often",
        "left out     2 steps, because loss or gradients were not finite",
    ]
    assert [record["step"] for record in run.records if record.get("skipped")] == [0, 1]


def test_a_change_in_the_users_own_source_is_said_when_the_run_goes_on(
    short, messages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "edited_net.py"
    module.write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = short("model._target_=edited_net.net")
    module.write_text(module.read_text() + "# edited\n")
    runner.run([f"+resume={run.directory}", "trainer.max_epochs=2"])
    (said,) = [message for message in messages() if "edited_net.py" in message]
    assert said.startswith("not exact: edited_net.py: has changed since; what was trained with is ")
