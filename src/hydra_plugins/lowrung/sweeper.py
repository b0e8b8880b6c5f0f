"""Hydra's door to `lowrung.sweeps.entry`: ``hydra/sweeper=lowrung``, the default."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional  # noqa: UP035  (as Hydra spells its interface)

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig, OmegaConf

from hydra_plugins.lowrung.choices import PRUNERS, SAMPLERS


@dataclass
class LowrungSweeperConf:
    """The settings of a sweep.

    Attributes:
        n_trials: trials in total; needed with an interval. Without one, every point of the grid is run once, and a
            number stops earlier.
        timeout: no trial starts after so long: seconds, or a duration such as ``90s``, ``30m`` or ``1h30m``. Runs that
            have started are run to their ends. The same command goes on, with as much time again. null is no limit.
        objectives: metrics that are optimised, each with ``minimize`` or ``maximize``; null is the least eval/loss.
            (A dict as the default could be added to on the command line, but not be replaced.)
        constraints: metrics with bounds that the best trial must keep to, such as
            ``{params/trainable:"<=1e6"}``. tpe, nsga2 and gp learn what breaks them; null is none.
        params: the search space of a preset: overrides by key. The command line's come first.
        sampler: draws the intervals' values, and learns from all points of the grid together:
            ``hydra/sweeper/sampler=NAME``.
        pruner: ends bad trials early: ``hydra/sweeper/pruner=NAME``.
        storage: address of the database that Optuna keeps the study in: ``postgresql://...`` or ``mysql://...`` for one
            that others can read. It must hold no password. null is a SQLite file in the study's folder.
        fresh: starts the study over. Results stay in the store, and a run that has one there is not trained again.
        retries: how often a run whose process was lost (a crash, a kill) is started again, from its last checkpoint. A
            run that is out of memory is tried once more, with half the batch and twice the accumulation. Any other
            failure would come again, so such a run is not tried again.
        max_failures: so many failures one after the other end the sweep: the next trials would most likely fail too.
        dry_run: checks everything, prints what would be run, and runs nothing.
    """

    defaults: List[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])  # noqa: UP006
    _target_: str = "hydra_plugins.lowrung.sweeper.LowrungSweeper"
    n_trials: Optional[int] = None  # noqa: UP045
    timeout: Any = None
    objectives: Any = None
    constraints: Any = None
    params: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    sampler: Any = MISSING
    pruner: Any = MISSING
    storage: Optional[str] = None  # noqa: UP045
    fresh: bool = False
    retries: int = 1
    max_failures: int = 5
    dry_run: bool = False


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/sweeper", name="lowrung", node=LowrungSweeperConf, provider="lowrung")
for _name, _node in SAMPLERS.items():
    _STORE.store(group="hydra/sweeper/sampler", name=_name, node=_node, provider="lowrung")
for _name, _node in PRUNERS.items():
    _STORE.store(group="hydra/sweeper/pruner", name=_name, node=_node, provider="lowrung")


class LowrungSweeper(Sweeper):
    """Thin: it keeps what Hydra hands over until `sweep`, and imports the coordinator only there."""

    def __init__(self, params: Dict[str, Any], **settings: Any) -> None:  # noqa: UP006
        self.params = dict(params)
        self.settings = {
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
        """Runs the sweep; returns its `lowrung.sweeps.results.Results`, or None for a dry run."""
        from lowrung.sweeps import entry
        from lowrung.sweeps.settings import Settings

        assert self.hydra_context is not None
        assert self.config is not None
        absent: Dict[str, Any] = {"objectives": {"eval/loss": "minimize"}, "constraints": {}}  # noqa: UP006
        given: Dict[str, Any] = {name: value for name, value in self.settings.items() if value is not None}  # noqa: UP006
        preset = [f"{key}={'null' if value is None else value}" for key, value in self.params.items()]
        return entry.run(
            preset + list(arguments),
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.config,
            launcher=self.launcher,
            settings=Settings(**{**self.settings, **absent, **given}),
        )
