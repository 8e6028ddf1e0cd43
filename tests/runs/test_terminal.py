"""A terminal that goes away does not end the training."""

import subprocess
from pathlib import Path

import pytest

from runner.rundir import latest_run


@pytest.mark.launch
def test_a_run_whose_output_nobody_reads_goes_on_to_its_end(command, tmp_path: Path) -> None:
    arguments = ["trainer.max_steps=3", "trainer.evaluate.every_epochs=null", "monitor=null"]
    arguments += ["checkpoint.save.on_improvement=false", "checkpoint.keep.best=null"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*command("runner"), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0, (tmp_path / "errors").read_text()
    run = latest_run(tmp_path / "outputs")
    assert run is not None and run.status() == "finished"
