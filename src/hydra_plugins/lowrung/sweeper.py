"""Hydra's door to `lowrung.sweeps.entry`: ``hydra/sweeper=lowrung``, the default."""

from dataclasses import dataclass, field
from typing import Any, Dict, List  # noqa: UP035  (as Hydra spells its interface)

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.lowrung.choices import PRUNERS, SAMPLERS
from lowrung.config import truth
from lowrung.config.sweeper_schema import SweeperConf


@dataclass  # with what Hydra reads beside them: which groups are the defaults, and what is made of it all
class LowrungSweeperConf(SweeperConf):
    """The settings of a sweep."""

    defaults: List[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])  # noqa: UP006
    _target_: str = "hydra_plugins.lowrung.sweeper.LowrungSweeper"


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/sweeper", name="lowrung", node=truth.structured(LowrungSweeperConf), provider="lowrung")
for _name, _node in SAMPLERS.items():
    _STORE.store(group="hydra/sweeper/sampler", name=_name, node=truth.structured(_node), provider="lowrung")
for _name, _node in PRUNERS.items():
    _STORE.store(group="hydra/sweeper/pruner", name=_name, node=truth.structured(_node), provider="lowrung")


class LowrungSweeper(Sweeper):
    """Thin: it keeps what Hydra hands over until `sweep`, and imports the coordinator only there."""

    def __init__(self, **settings: Any) -> None:
        self.settings: Dict[str, Any] = {  # noqa: UP006
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: List[str]) -> Any:  # noqa: UP006
        """Runs the sweep; returns its `lowrung.sweeps.results.Results`."""
        from lowrung.commands import train
        from lowrung.config import grammar
        from lowrung.sweeps import entry, stages
        from lowrung.sweeps.settings import Settings

        context, config = self.hydra_context, self.config
        assert context is not None
        assert config is not None
        absent: Dict[str, Any] = {  # noqa: UP006
            "objectives": {"eval/loss": "minimize"},
            "constraints": {},
            "prefer": ["params/trainable"],
        }
        given: Dict[str, Any] = {name: value for name, value in self.settings.items() if value is not None}  # noqa: UP006
        written: Any = OmegaConf.to_container(config.hydra.sweeper)
        asked = stages.read(written, self.settings, list(map(grammar.as_typed, arguments)))
        return train.kept(
            lambda: entry.run(
                asked,
                hydra_context=context,
                task_function=self.task_function,
                config=config,
                launcher=self.launcher,
                settings=Settings(**{**self.settings, **absent, **given}),
            )
        )
