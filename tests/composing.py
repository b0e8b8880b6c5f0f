"""Hydra as lowrung uses it, in the tests' own process."""

import contextlib
import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

from hydra import initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra._internal.hydra import Hydra
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig

from lowrung.config import structured
from lowrung.config.schema import Config
from lowrung.store.layout import ROOT

LORAS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "lora").glob("*.yaml")))
"""The choices of ``lora``, as a message lists them."""

SWEEPS = ", ".join(sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
"""Those of ``sweeps``."""


class Composer:
    """Composes from conf/ and sweeps/ of this checkout."""

    def __init__(self, hydra: Hydra) -> None:
        self.hydra = hydra
        self.parser = OverridesParser.create(config_loader=hydra.config_loader)

    def compose(self, overrides: Sequence[str] = (), mode: RunMode = RunMode.RUN) -> DictConfig:
        """With Hydra's own node."""
        return self.hydra.compose_config("config", list(overrides), run_mode=mode, with_log_configuration=False)

    def config(self, *overrides: str) -> Config:
        return structured.resolve(self.compose(overrides))


_GIVEN: dict[str, Callable[[], Any]] = {}


def _remembered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which gives copies of what it gave before."""

    def remembered(*arguments: Any, **named: Any) -> Any:
        key = repr((name, arguments, named))
        if key not in _GIVEN:
            _GIVEN[key] = _copier(function(*arguments, **named))
        return _GIVEN[key]()

    return remembered


def _copier(original: Any) -> Callable[[], Any]:
    """Makes copies: by pickle, which takes a seventh of deepcopy's time, but for plugins that Hydra imported twice."""
    try:
        return partial(pickle.loads, pickle.dumps(original))
    except pickle.PicklingError:
        return partial(copy.deepcopy, original)


def _remember(loader: ConfigLoaderImpl) -> None:
    """Reads each file, joins each list of files and composes each config once.

    To read the files takes 30 ms, to join them 40, the rest 45, a copy 1.
    """
    files: Any = loader.repository
    ours, join = _addresses(files), loader._compose_config_from_defaults_list
    files.load_config = _remembered("file", files.load_config)
    files.__deepcopy__ = lambda _: copy.copy(files)  # what is changed in a copy is its list of sources, as a whole

    def joined(defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        if _addresses(repo) != ours:  # with a search path of the command line
            return join(defaults, repo)
        config: DictConfig = _remembered("joined", lambda _: join(defaults, repo))(defaults)
        return config

    loader._compose_config_from_defaults_list = joined  # type: ignore[method-assign]
    loader.load_configuration = _remembered("composed", loader.load_configuration)  # type: ignore[method-assign]


@contextlib.contextmanager
def _lists_remembered(loader: ConfigLoaderImpl) -> Iterator[None]:
    """Lists the files that a choice of groups asks for once, for 60 ms; other overrides do not decide it."""
    ours = _addresses(loader.repository)
    made: dict[str, DefaultsList] = {}

    def listed(
        repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], **how: bool
    ) -> DefaultsList:
        chosen = [one for one in overrides_list if not one.is_sweep_override() and repo.group_exists(one.key_or_group)]
        if _addresses(repo) != ours or any(isinstance(one.value(), dict) for one in chosen):
            return create_defaults_list(repo, config_name, overrides_list, **how)
        key = repr((config_name, [one.input_line for one in chosen], how))
        if key not in made:
            made[key] = create_defaults_list(repo, config_name, chosen, **how)
        others = [one for one in overrides_list if one not in chosen and not one.is_sweep_override()]
        return dataclasses.replace(made[key], config_overrides=others)

    with mock.patch.object(config_loader_impl, "create_defaults_list", listed):
        yield


def _addresses(repository: IConfigRepository) -> list[str]:
    return [source.full_path() for source in repository.get_sources()]


@contextlib.contextmanager
def _hydras_version() -> Iterator[None]:
    """Leaves the version base that Hydra's own tests, in this same process, start from: it outlasts Hydra."""
    before = VersionBase.instance().version_base
    try:
        yield
    finally:
        VersionBase.instance().version_base = before  # asked for again: a job puts copies of all such objects in place


@contextlib.contextmanager
def composer() -> Iterator[Composer]:
    """A composer, for as long as the block runs."""
    structured.register()
    with _hydras_version(), initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        _remember(hydra.config_loader)
        with _lists_remembered(hydra.config_loader):
            yield Composer(hydra)


def changed(config: Config, key: str, value: Any) -> Config:
    """The config with one setting changed."""
    group, _, name = key.rpartition(".")
    if not group:
        return dataclasses.replace(config, **{name: value})
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})
