"""Plugins of Hydra that are merely installed and broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            "raise AttributeError('old')\n",
            2,
            "runner: hydra_plugins.broken.plugin: an installed plugin of Hydra that cannot be imported "
            "(AttributeError: old); repair or uninstall it\n",
        ),
        ("import nope_not_there\n", 0, "Error importing 'hydra_plugins.broken.plugin'"),
    ],
)
def test_a_broken_plugin_is_named(tmp_path: Path, text: str, code: int, message: str) -> None:
    package = tmp_path / "hydra_plugins" / "broken"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(text)
    paths = [str(tmp_path), *(entry for entry in sys.path if entry)]
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.launch", "--cfg", "job"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
