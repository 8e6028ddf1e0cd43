"""What Hydra and OmegaConf keep private is used in one file."""

import re
from pathlib import Path

import runner

PACKAGE = Path(runner.__file__).parent
PRIVATE = re.compile(r"\b(?:hydra|omegaconf)(?:\.\w+)*\._\w+|hydra\.core\.singleton|\._(?:get_node|value|metadata)\(")


def test_only_one_file_imports_what_hydra_keeps_private() -> None:
    using = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py") if PRIVATE.search(file.read_text())}
    assert using == {"config/internals.py"}
