"""Hydra as the command line sets it up, inside a process that may use Hydra itself."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import OmegaConf

from lowrung.config import structured
from lowrung.errors import UsageError
from lowrung.store.layout import ROOT

CONFIG_NAME, VERSION_BASE, JOB_NAME = "config", "1.3", "train"
"""What ``@hydra.main`` is given; Hydra derives the job's name from the name of the main function's module."""


@contextlib.contextmanager
def hydra_app(config_dir: str | Path | None = None, config_path: str | None = None) -> Iterator[Hydra]:
    """Sets Hydra up while the block runs, and then puts back what was set up before.

    Args:
        config_dir: a folder of the user's with groups and files beside lowrung's own, as with ``--config-dir``.
        config_path: a folder that is used instead of lowrung's own, as with ``--config-path``; absolute.

    Raises:
        UsageError: when it is no folder.
    """
    structured.register()
    search_path = create_config_search_path(config_path or str(ROOT / "conf"))
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{_folder(config_dir)}", SearchPathQuery(provider="schema"))
    with _state_put_back():
        GlobalHydra.instance().clear()
        JobRuntime.instance().conf = OmegaConf.create()
        version.setbase(VERSION_BASE)
        hydra = Hydra(JOB_NAME, _Loader(search_path))
        GlobalHydra.instance().initialize(hydra)
        yield hydra


def show_help(arguments: Sequence[str]) -> bool:
    """Prints what ``--help`` or ``--hydra-help`` asks for, as Hydra does; returns whether one of them was there."""
    parser = get_args_parser()
    typed = parser.parse_args(arguments)
    if not (typed.help or typed.hydra_help) or typed.config_path is not None:  # Hydra knows what that is relative to
        return False
    with hydra_app(typed.config_dir) as hydra:
        show = hydra.app_help if typed.help else hydra.hydra_help
        show(typed.config_name or CONFIG_NAME, parser, typed)
    return True


class _Loader(ConfigLoaderImpl):
    """Hydra's, but it lists a group without a deep copy of every config: 5 ms each, and ``--help`` lists 96 groups."""

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """See Hydra's `ConfigLoader`. Only a root config or an override can change where it searches."""
        if config_name is None and not overrides:
            return self.repository.get_group_options(group_name, results_filter)
        return super().get_group_options(group_name, results_filter, config_name, overrides)


def _folder(config_dir: str | Path) -> Path:
    folder = Path(config_dir).expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"config-dir must be a folder with configs, but {folder} is not a folder.")
    return folder


@contextlib.contextmanager
def _state_put_back() -> Iterator[None]:
    """Keeps what Hydra's global objects hold. They are asked for again at the end: a job puts copies in their place."""
    state: list[tuple[Any, str]] = [
        (GlobalHydra, "hydra"),
        (HydraConfig, "cfg"),
        (JobRuntime, "conf"),
        (VersionBase, "version_base"),
    ]
    before = [getattr(singleton.instance(), name) for singleton, name in state]
    try:
        yield
    finally:
        for (singleton, name), value in zip(state, before, strict=True):
            setattr(singleton.instance(), name, value)
