"""Hydra as lowrung uses it, in the tests' own process."""

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from lowrung import schema
from lowrung.layout import ROOT
from lowrung.schema import Config

LORAS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "lora").glob("*.yaml")))
"""The choices of ``lora``, as a message lists them."""


class Composer:
    """Composes from conf/ and sweeps/ of this checkout."""

    def __init__(self, hydra: Hydra) -> None:
        self.hydra = hydra
        self.parser = OverridesParser.create(config_loader=hydra.config_loader)

    def compose(self, overrides: Sequence[str] = (), mode: RunMode = RunMode.RUN) -> DictConfig:
        """With Hydra's own node."""
        return self.hydra.compose_config("config", list(overrides), run_mode=mode, with_log_configuration=False)

    def config(self, *overrides: str) -> Config:
        return schema.resolve(self.compose(overrides))


_COMPOSED: dict[str, DictConfig] = {}


def _remember(loader: ConfigLoader) -> None:
    """Lets a loader give copies of what it composed before: a copy takes 5 ms, to compose 80."""
    load = loader.load_configuration

    def remembered(*arguments: Any, **named: Any) -> DictConfig:
        key = repr((arguments, named))
        if key not in _COMPOSED:
            _COMPOSED[key] = load(*arguments, **named)
        return copy.deepcopy(_COMPOSED[key])

    loader.load_configuration = remembered  # type: ignore[method-assign]


@contextlib.contextmanager
def _calm_garbage_collector() -> Iterator[None]:
    """Composing makes millions of objects: a quarter of the time would go into walking those of all libraries."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def composer() -> Iterator[Composer]:
    """A composer, for as long as the block runs."""
    schema.register()
    with _calm_garbage_collector(), initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        _remember(hydra.config_loader)
        yield Composer(hydra)


def changed(config: Config, key: str, value: Any) -> Config:
    """The config with one setting changed."""
    group, _, name = key.rpartition(".")
    if not group:
        return dataclasses.replace(config, **{name: value})
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})
