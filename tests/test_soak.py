"""A bounded part of scripts/soak.py: a run that is killed again and again ends in the bytes of one that is not."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "scripts" / "soak.py"

pytestmark = pytest.mark.launch


@pytest.mark.parametrize(
    ("kills", "launches"), [(10, 1), pytest.param(200, 20, marks=pytest.mark.long)], ids=["ten", "two-hundred"]
)
def test_a_run_that_is_killed_at_random_ends_in_the_bytes_of_the_uninterrupted_one(kills: int, launches: int) -> None:
    command = [sys.executable, str(SOAK), f"--kills={kills}", f"--launches={launches}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills, {launches} of them of new processes" in done.stdout
