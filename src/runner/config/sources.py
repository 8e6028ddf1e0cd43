"""Where configs come from: our own conf/, the user's, and what the command line adds to them."""

from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

from runner.config.internals import loader_over, plugins
from runner.config.names import did_you_mean
from runner.config.places import conf_directory, user_directory
from runner.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sources:
    """The flags of a command line that say which configs are composed."""

    config_path: str | None = None
    config_name: str = "config"
    config_dir: str | None = None

    @classmethod
    def of_flags(cls, flags: list[str]) -> "Sources":
        """Read them off the flags of `words.split_flags`."""
        values = dict(flag.split("=", 1) for flag in flags if "=" in flag)
        return cls(values.get("--config-path"), values.get("--config-name", "config"), values.get("--config-dir"))

    @property
    def directory(self) -> Path:
        """The directory of the primary config, absolute."""
        return conf_directory() if self.config_path is None else Path(self.config_path).resolve()


class UserConf(SearchPathPlugin):
    """Puts the user's ./conf before ours: their files shadow ours, our groups stay within reach."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        directory = user_directory()
        if directory is not None:
            search_path.prepend("user", f"file://{directory}", anchor=SearchPathQuery(provider="main"))


def register_plugins() -> None:
    """Let Hydra find its plugins, and add ours."""
    plugins().register(UserConf)


def config_loader(sources: Sources) -> ConfigLoader:
    """Hydra's loader over everything that `sources` names."""
    register_plugins()
    directory = sources.directory
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no directory of configs; --config-path wants one")
    added = None if sources.config_dir is None else Path(sources.config_dir).resolve()
    if added is not None and not added.is_dir():
        raise ConfigError(f"{added}: no directory of configs; --config-dir wants one")
    return loader_over(directory, added)


def groups(loader: ConfigLoader) -> dict[str, list[str]]:
    """The options of every group of the search path, Hydra's own left out."""
    found: dict[str, list[str]] = {}
    pending = [name for name in loader.list_groups("") if name != "hydra"]
    while pending:
        group = pending.pop(0)
        options = loader.get_group_options(group)
        if options:
            found[group] = options
        pending += [f"{group}/{name}" for name in loader.list_groups(group)]
    return found


def no_such_option(group: str, option: str, options: list[str]) -> str:
    """The message about an option that a group does not have."""
    return f"{group}={option}: {group} has no such option{did_you_mean(option, options)}"
