"""``hydra/launcher=local``: jobs in fresh processes on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lowrung.engine.base import Engine


@dataclass
class LocalLauncherConf:
    """What ``hydra.launcher.*`` may hold.

    Attributes:
        workers: how many jobs run at the same time; they share the CPU cores and take turns over the GPUs.
    """

    _target_: str = "hydra_plugins.lowrung.local_launcher.LocalLauncher"
    workers: int = 1


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lowrung")


class LocalLauncher(Launcher):
    """Runs Hydra's jobs on a `lowrung.engine.local.LocalEngine`.

    Args:
        workers: see `LocalLauncherConf`.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra knows of the sweep."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """The engine that this launcher wraps, for a sweeper that does not want to wait for whole batches.

        Args:
            preload: modules that are imported once, rather than by every job.
        """
        from lowrung.engine.local import LocalEngine
        from lowrung.errors import UsageError

        if self._workers < 1:
            raise UsageError(
                f"`hydra.launcher.workers >= 1` must hold, but got {self._workers}. "
                "It counts the jobs that run at the same time."
            )
        return LocalEngine(slots=self._workers, preload=preload)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch of jobs to their ends; the results come in the order of ``job_overrides``."""
        from lowrung.engine import hydra_job

        engine = self.make_engine(preload=["lowrung.engine.hydra_job"])
        try:
            return hydra_job.launch(
                engine, self._hydra_context, self._task_function, self._config, job_overrides, initial_job_idx
            )
        finally:
            engine.close()
