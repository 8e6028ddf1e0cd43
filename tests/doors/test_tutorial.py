"""Each way of PyTorch's tutorial on saving and loading: the pages of docs/saving run as they stand."""

import re
import sys
from pathlib import Path

import pytest

# Test modules are imported each by itself, so what they share is put within their reach here.
sys.path.append(str(Path(__file__).parents[1]))

from snippets import follow

FOLDER = Path(__file__).parents[2] / "docs" / "saving"
INDEX = FOLDER / "README.md"
PAGES = sorted(set(FOLDER.glob("*.md")) - {INDEX})


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", INDEX.read_text(encoding="utf-8")))
    assert named == {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    follow(page, tmp_path)
