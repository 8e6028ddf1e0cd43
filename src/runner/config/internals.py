"""All that is done with what Hydra keeps private: a newer Hydra is this file's work, and a test keeps it so.

Everything else asks `hydra.core`, which Hydra's plugins are written against.
"""

import functools
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.errors import ConfigError

log = logging.getLogger(__name__)

VERSION_BASE = "1.3"
APP_NAME = "runner"


def loader_over(directory: Path, added: Path | None) -> ConfigLoader:
    """Hydra's loader over a directory, and over one more whose files come before its. Registers `now` and `hydra`."""
    version.setbase(VERSION_BASE)
    setup_globals()
    JobRuntime.instance().set("name", APP_NAME)
    search_path = create_config_search_path(str(directory))
    if added is not None:
        search_path.prepend("command-line", f"file://{added}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def run_as_job(node: DictConfig, loader: ConfigLoader, task: Callable[[DictConfig], object]) -> None:
    """Call `task` as a job of Hydra: with its callbacks, and the environment that `hydra.job` sets."""
    failures: list[Exception] = []

    def guarded(config: DictConfig) -> None:
        try:
            task(config)
        except Exception as error:
            # Hydra would put a line of its own before it; it is raised again below.
            failures.append(error)

    callbacks = Callbacks(node)
    callbacks.on_run_start(config=node, config_name=node.hydra.job.config_name)
    job = run_job(
        task_function=guarded,
        config=node,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(config_loader=loader, callbacks=callbacks),
    )
    callbacks.on_run_end(config=node, config_name=node.hydra.job.config_name, job_return=job)
    for error in failures:
        raise error


def directory_before_time(node: DictConfig) -> Path | None:
    """The directory in which every launch makes one of its own: hydra.run.dir up to where the time stands in it.

    None if it has no time in it: then it is one directory.
    """
    mark = "\0"
    bare = OmegaConf.create(OmegaConf.to_container(node, resolve=False))
    OmegaConf.register_new_resolver("now", lambda _: mark, replace=True)
    try:
        before, found, _ = str(OmegaConf.select(bare, "hydra.run.dir")).partition(mark)
    finally:
        setup_globals()
    return Path(os.path.dirname(before)) if found else None  # noqa: PTH120


@functools.cache
def plugins() -> Plugins:
    """Hydra's plugins, found once. A broken one that is merely installed is named in a ConfigError."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Plugins.instance()
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
    return found


def _plugin_that_raised(error: BaseException) -> str | None:
    """The name of the module that Hydra's scan was importing when it failed."""
    trace, name = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_scan_all_plugins":
            name = trace.tb_frame.f_locals.get("modname")
        trace = trace.tb_next
    return name
