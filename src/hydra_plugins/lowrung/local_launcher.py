"""``hydra/launcher=local``: jobs in fresh processes on this machine."""

import os
from collections.abc import Iterator, Sequence
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
        gpus_per_trial: how many of the visible GPUs each job sees. One, since a model that fits on one GPU gains
            nothing from more; ``model.device_map=auto`` spreads a larger one over them. What is left over when the
            visible GPUs are divided by it is not used. Without a GPU jobs run on the CPU, and only 1 will do.
    """

    _target_: str = "hydra_plugins.lowrung.local_launcher.LocalLauncher"
    workers: int = 1
    gpus_per_trial: int = 1


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lowrung")


class LocalLauncher(Launcher):
    """Runs Hydra's jobs on a `lowrung.engine.local.LocalEngine`.

    Args:
        workers: see `LocalLauncherConf`.
        gpus_per_trial: see `LocalLauncherConf`.
    """

    def __init__(self, workers: int, gpus_per_trial: int) -> None:
        self._workers = workers
        self._gpus_per_trial = gpus_per_trial

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra knows of the sweep."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """The engine that this launcher wraps, for a sweeper that does not want to wait for whole batches.

        Args:
            preload: modules that are imported once, rather than by every job.

        Raises:
            UsageError: with every setting that this machine's GPUs do not allow.
        """
        from lowrung.engine.local import LocalEngine
        from lowrung.errors import UsageError

        problems = [*_setting_problems(self._workers, self._gpus_per_trial), *_listing_problems()]
        if problems:
            raise UsageError(problems)
        return LocalEngine(slots=self._workers, preload=preload, gpus_per_job=self._gpus_per_trial)

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


def _setting_problems(workers: int, gpus_per_trial: int) -> Iterator[str]:
    """What is wrong with ``hydra.launcher.*`` on this machine."""
    from lowrung.engine import gpus

    visible = len(gpus.visible())
    if workers < 1:
        yield (
            f"`hydra.launcher.workers >= 1` must hold, but got {workers}. It counts the jobs that run at the same time."
        )
    if gpus_per_trial < 1:
        yield (
            f"`hydra.launcher.gpus_per_trial >= 1` must hold, but got {gpus_per_trial}. "
            "It counts the GPUs that each trial sees; without GPUs leave it at 1."
        )
    elif gpus_per_trial > max(1, visible):
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        source = "this machine has" if listed is None else f"CUDA_VISIBLE_DEVICES={listed!r} lists"
        yield (
            f"hydra.launcher.gpus_per_trial must not exceed the number of visible GPUs, but is {gpus_per_trial}, and "
            f"{source} {visible or 'none'}. Lower it (without GPUs to 1), or make more of them visible."
        )


def _listing_problems() -> Iterator[str]:
    """What is wrong with ``CUDA_VISIBLE_DEVICES``."""
    from lowrung.engine import gpus

    if absent := gpus.absent():
        yield (
            "CUDA_VISIBLE_DEVICES must list GPUs that exist, but is "
            f"{os.environ['CUDA_VISIBLE_DEVICES']!r}, and there is no GPU {' or '.join(absent)}. "
            "CUDA would hide what follows it too. `nvidia-smi -L` shows the numbers."
        )
