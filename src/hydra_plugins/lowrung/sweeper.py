"""Hydra's door to `lowrung.sweep`: ``hydra/sweeper=lowrung``, the default."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional  # noqa: UP035  (as Hydra spells its interface)

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LowrungSweeperConf:
    """The settings of a sweep.

    Attributes:
        n_trials: trials in total; needed with an interval. Without one, every point of the grid is run once, and a
            number stops earlier.
        objectives: metrics that are optimised, each with ``minimize`` or ``maximize``; null is the least eval/loss (a
            dict as the default could be added to on the command line, but not replaced).
        params: the search space of a preset: overrides by key. The command line's come first.
    """

    _target_: str = "hydra_plugins.lowrung.sweeper.LowrungSweeper"
    n_trials: Optional[int] = None  # noqa: UP045
    objectives: Any = None
    params: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006


ConfigStore.instance().store(group="hydra/sweeper", name="lowrung", node=LowrungSweeperConf, provider="lowrung")


class LowrungSweeper(Sweeper):
    """Thin: it keeps what Hydra hands over until `sweep`, and imports the coordinator only there."""

    def __init__(
        self,
        n_trials: Optional[int],  # noqa: UP045
        objectives: Optional[Dict[str, str]],  # noqa: UP006, UP045
        params: Dict[str, Any],  # noqa: UP006
    ) -> None:
        self.n_trials = n_trials
        self.objectives = {"eval/loss": "minimize"} if objectives is None else objectives
        self.params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's `Sweeper`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: List[str]) -> Any:  # noqa: UP006
        """Runs the sweep and returns the exit code that its results call for."""
        from lowrung import sweep

        assert self.hydra_context is not None
        assert self.config is not None
        preset = [f"{key}={'null' if value is None else value}" for key, value in self.params.items()]
        return sweep.run(
            preset + list(arguments),
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.config,
            launcher=self.launcher,
            n_trials=self.n_trials,
            objectives=self.objectives,
        )
