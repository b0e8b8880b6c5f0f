"""What lowrung's launchers have in common: each wraps an engine, and runs a batch of Hydra's jobs on it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lowrung.engine.base import Engine


class EngineLauncher(Launcher):
    """Runs Hydra's jobs on an engine. A class that makes one is a launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra knows of the sweep."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    @abstractmethod
    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """The engine that this launcher wraps, for a sweeper that does not want to wait for whole batches.

        Args:
            preload: modules that are imported once, rather than by every job.

        Raises:
            UsageError: with every setting that is wrong, or that there is no room for.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch of jobs to their ends; the results come in the order of ``job_overrides``."""
        from lowrung.commands import train
        from lowrung.engine import hydra_job

        train.require_our_sweeper(self._config.hydra)
        engine = self.make_engine(preload=["lowrung.engine.hydra_job"])
        try:
            return hydra_job.launch(
                engine, self._hydra_context, self._task_function, self._config, job_overrides, initial_job_idx
            )
        finally:
            engine.close()


def time_problems(time_limit: object) -> list[str]:
    """What is wrong with ``hydra.launcher.time_limit``."""
    from lowrung.engine import durations

    if time_limit is None or durations.seconds(time_limit) is not None:
        return []
    return [
        "hydra.launcher.time_limit must be seconds or a duration in h, m and s, and above 0, but is "
        f"{time_limit!r}. For an hour and a half write hydra.launcher.time_limit=1h30m; null is no limit."
    ]
