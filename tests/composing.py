"""Hydra as lowrung uses it, in the tests' own process."""

import contextlib
from collections.abc import Iterator, Sequence

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from lowrung import schema
from lowrung.layout import ROOT
from lowrung.schema import Config


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


@contextlib.contextmanager
def composer() -> Iterator[Composer]:
    schema.register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield Composer(hydra)
