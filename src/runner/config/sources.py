"""Where configs come from: our own conf/, the user's, and what the command line adds to them."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime, setup_globals
from hydra.plugins.search_path_plugin import SearchPathPlugin

from runner.config.names import did_you_mean
from runner.config.places import conf_directory, user_directory
from runner.errors import ConfigError

log = logging.getLogger(__name__)

VERSION_BASE = "1.3"
APP_NAME = "runner"


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
    """Let Hydra find its plugins, and add ours. A broken plugin that is merely installed is named in a ConfigError."""
    if Plugins not in Singleton._instances:
        _scan_plugins()
    Plugins.instance().register(UserConf)


def _scan_plugins() -> None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Plugins.instance()
    except (Exception, SystemExit) as error:
        # Whatever a plugin does on import comes out here, and every Hydra program would die of it without a name.
        name = _plugin_that_raised(error)
        if name is None:
            raise
        raise ConfigError(
            f"{name}: an installed plugin of Hydra that cannot be imported ({type(error).__name__}: {error}); "
            "repair or uninstall it"
        ) from error
    for warning in caught:
        lines = [line.strip() for line in str(warning.message).strip().splitlines()]
        log.warning("%s", " ".join(lines))


def _plugin_that_raised(error: BaseException) -> str | None:
    """The name of the module that Hydra's scan was importing when it failed."""
    trace, name = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_scan_all_plugins":
            name = trace.tb_frame.f_locals.get("modname")
        trace = trace.tb_next
    return name


def config_loader(sources: Sources) -> ConfigLoaderImpl:
    """Hydra's loader over everything that `sources` names. Registers the resolvers `now` and `hydra`."""
    register_plugins()
    version.setbase(VERSION_BASE)
    setup_globals()
    JobRuntime.instance().set("name", APP_NAME)
    directory = sources.directory
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no directory of configs; --config-path wants one")
    search_path = create_config_search_path(str(directory))
    if sources.config_dir is not None:
        added = Path(sources.config_dir).resolve()
        if not added.is_dir():
            raise ConfigError(f"{added}: no directory of configs; --config-dir wants one")
        search_path.prepend("command-line", f"file://{added}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def groups(loader: ConfigLoaderImpl) -> dict[str, list[str]]:
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
