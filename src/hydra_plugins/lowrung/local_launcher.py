"""``hydra/launcher=local``: jobs in fresh processes on this machine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.lowrung.launching import EngineLauncher, time_problems

if TYPE_CHECKING:
    from lowrung.engine.base import Engine


@dataclass
class LocalLauncherConf:
    """The settings of the default launcher, which runs each job in a fresh process on this machine.

    Attributes:
        workers: how many jobs run at the same time. They share the CPU cores and take turns over the GPUs. null keeps
            every visible GPU busy: ``workers_per_gpu`` jobs for each ``gpus_per_trial`` GPUs; without a GPU it is one
            job, which uses all cores. ``auto`` is the same on GPUs, and on a CPU as many as have room by the plan: a
            core each, and 0.7 of the memory together. A run's result follows from its threads in its last bits, so
            ``auto`` gives results of their own on machines of other memory; a study keeps its first number.
        workers_per_gpu: how many jobs share a GPU (or a group of ``gpus_per_trial`` GPUs) and its memory where
            ``workers`` is no number. One, since a job that fills the GPU gains nothing from a second one beside it.
            ``auto`` is as many as have room by the plan in 0.7 of its memory, with a core each.
        gpus_per_trial: how many of the visible GPUs each job sees. One, since a model that fits on one GPU gains
            nothing from more; ``model.device_map=auto`` spreads a larger model over them. If the visible GPUs cannot be
            divided evenly, the rest is not used. Without a GPU, jobs run on the CPU and this must be 1.
        time_limit: how long a job may run: seconds, or a duration such as ``90s``, ``30m`` or ``1h30m``. A job that
            runs longer is stopped and has failed; the others go on. null is no limit.
    """

    _target_: str = "hydra_plugins.lowrung.local_launcher.LocalLauncher"
    workers: Any = None
    workers_per_gpu: Any = 1
    gpus_per_trial: int = 1
    time_limit: Any = None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lowrung")


class LocalLauncher(EngineLauncher):
    """Runs Hydra's jobs on a `lowrung.engine.local.LocalEngine`.

    Args:
        workers: see `LocalLauncherConf`.
        workers_per_gpu: see `LocalLauncherConf`.
        gpus_per_trial: see `LocalLauncherConf`.
        time_limit: see `LocalLauncherConf`.
    """

    def __init__(self, workers: Any, workers_per_gpu: Any, gpus_per_trial: int, time_limit: Any) -> None:
        self._workers = workers
        self._workers_per_gpu = workers_per_gpu
        self._gpus_per_trial = gpus_per_trial
        self._time_limit = time_limit

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """See `EngineLauncher`; also where this machine's GPUs do not allow what was set."""
        from lowrung.engine import durations
        from lowrung.engine.local import LocalEngine
        from lowrung.errors import UsageError

        if problems := self.problems():
            raise UsageError(problems)
        return LocalEngine(
            slots=self._slots(),
            preload=preload,
            gpus_per_job=self._gpus_per_trial,
            time_limit=durations.seconds(self._time_limit),
        )

    def problems(self) -> list[str]:
        """What is wrong with the settings, or asks for what this machine has not."""
        from lowrung.engine import gpus

        return [
            *_worker_problems(self._workers, self._workers_per_gpu),
            *_gpu_problems(self._gpus_per_trial),
            *time_problems(self._time_limit),
            *gpus.problems(),
        ]

    def _slots(self) -> int:
        """As many as workers were asked for, else as many as the visible GPUs take, or one on the CPU.

        Where the plan is to say how many, a sweep asks it after the preflight.
        """
        from lowrung.engine import gpus

        if self._workers not in (None, "auto"):
            return int(self._workers)
        groups = gpus.groups(gpus.visible(), self._gpus_per_trial)
        return len(groups) * (1 if self._workers_per_gpu == "auto" else self._workers_per_gpu) or 1


def _worker_problems(workers: Any, workers_per_gpu: Any) -> Iterator[str]:
    """What is wrong with ``hydra.launcher.workers`` and ``workers_per_gpu``."""
    if workers not in (None, "auto") and not (_is_whole(workers) and workers >= 1):
        yield (
            f"hydra.launcher.workers must be auto or a whole number >= 1, but is {workers!r}. "
            "It counts the jobs that run at the same time; null is one for each GPU, and one on the CPU."
        )
    if workers_per_gpu != "auto" and not (_is_whole(workers_per_gpu) and workers_per_gpu >= 1):
        yield (
            f"hydra.launcher.workers_per_gpu must be at least 1 or auto, but is {workers_per_gpu!r}. "
            "It counts the jobs that share a GPU; leave it at 1 to give each its own."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _gpu_problems(gpus_per_trial: int) -> Iterator[str]:
    """What is wrong with ``hydra.launcher.gpus_per_trial`` on this machine."""
    from lowrung.engine import gpus

    visible = len(gpus.visible())
    if gpus_per_trial < 1:
        yield (
            f"hydra.launcher.gpus_per_trial must be at least 1, but is {gpus_per_trial}. "
            "It counts the GPUs that each trial sees; without GPUs leave it at 1."
        )
    elif gpus_per_trial > max(1, visible):
        yield (
            f"hydra.launcher.gpus_per_trial must not exceed the number of visible GPUs, but is {gpus_per_trial}, and "
            f"{gpus.source()} {visible or 'none'}. Lower it (without GPUs to 1), or make more of them visible."
        )
