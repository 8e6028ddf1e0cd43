"""Where a run comes from: git, the user's own source, and what may change the numbers."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from runner.runs.provenance import LARGEST_DIFF, git_commit, hardware, kept_git, not_exact, software


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "net.py").write_text("width = 1\n")
    git(directory, "init")
    git(directory, "add", ".")
    git(directory, "commit", "-m", "Begin")
    monkeypatch.chdir(directory)
    return directory


def test_commit_status_and_difference_are_kept(repository: Path, tmp_path: Path) -> None:
    (repository / "net.py").write_text("width = 2\n")
    (repository / "new.py").write_text("")
    with kept_git(tmp_path / "code"):
        pass
    kept = {path.name: path.read_text() for path in (tmp_path / "code").iterdir()}
    assert kept["git.commit"].strip() == git(repository, "rev-parse", "HEAD") == software()["git"]
    assert kept["git.status"].splitlines() == [" M net.py", "?? new.py"]
    assert "-width = 1\n+width = 2\n" in kept["git.diff"]


def test_the_difference_is_plain_whatever_the_user_sees(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "color.ui", "always")
    git(repository, "config", "diff.external", f"touch {tmp_path / 'executed'}; true")
    (repository / "net.py").write_text("width = 2\n")
    with kept_git(tmp_path / "code"):
        pass
    diff = (tmp_path / "code" / "git.diff").read_text()
    assert "+width = 2\n" in diff and "\x1b" not in diff
    assert not (tmp_path / "executed").exists()


def test_of_a_large_difference_the_first_mebibyte_is_kept(repository: Path, tmp_path: Path) -> None:
    (repository / "net.py").write_text("x = 1\n" * (LARGEST_DIFF // 4))
    with kept_git(tmp_path / "code"):
        pass
    assert (tmp_path / "code" / "git.diff").stat().st_size == LARGEST_DIFF


def test_outside_a_repository_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with kept_git(tmp_path / "code"):
        pass
    assert not (tmp_path / "code").exists()
    assert git_commit(tmp_path) is None


def test_without_git_and_without_a_commit_nothing_is_kept(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = repository / "empty"
    empty.mkdir()
    git(empty, "init")
    assert git_commit(empty) is None
    monkeypatch.setenv("PATH", str(empty))
    assert git_commit(repository) is None


def test_the_index_of_the_users_git_is_not_touched(repository: Path, tmp_path: Path) -> None:
    os.utime(repository / "net.py", (1, 1))  # So that git would like to refresh its index.
    before = (repository / ".git" / "index").read_bytes()
    with kept_git(tmp_path / "code"):
        pass
    assert (repository / ".git" / "index").read_bytes() == before


def test_every_fact_that_may_change_the_numbers_is_named() -> None:
    now = {**software(), **hardware(torch.device("cpu")), "data": "1234"}
    assert not_exact(now, now) == []
    saved = {**now, "threads": 99, "versions": {**now["versions"], "torch": "2.0.0"}, "data": None}
    assert not_exact(saved, now) == [
        f"threads: 99 then, {torch.get_num_threads()} now",
        f"versions of torch: 2.0.0 then, {torch.__version__} now",
        "the data's fingerprint: none then, 1234 now",
    ]


def test_what_a_run_is_launched_in_is_kept_beside_it(short, tmp_path: Path) -> None:
    (tmp_path / "kept_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.flatten(1))\n"
    )
    git(tmp_path, "init")
    git(tmp_path, "add", "kept_net.py")
    git(tmp_path, "commit", "-m", "Begin")
    run = short("model._target_=kept_net.Net", "model.in_features=64", "+model.out_features=10")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert run.checkpoint().manifest.facts["git"] == commit
    code = run.directory / run.checkpoint().manifest.facts["code"]
    assert (code / "source" / "kept_net.py").read_text() == (tmp_path / "kept_net.py").read_text()
    assert (code / "git.commit").read_text().strip() == commit
