"""Where the directories of configs are: ours and the user's. Imports nothing."""

from pathlib import Path


def conf_directory() -> Path:
    """Our own conf/: inside the package once installed, else at the top of the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def user_directory() -> Path | None:
    """The `conf/` of the current directory, if it has one that is not ours."""
    own = Path.cwd() / "conf"
    return own if own.is_dir() and own.resolve() != conf_directory() else None
