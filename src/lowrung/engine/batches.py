"""Hydra's own launchers as an engine: ``hydra/launcher=basic`` and ``hydra/launcher=joblib``."""

import contextlib
import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from lowrung.config import grammar
from lowrung.engine import cores, gpus, hydra_job, worker
from lowrung.engine.base import Ended, Event, Exit, Job, Reported, require_room
from lowrung.engine.hydra_job import HydraTask
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder


class BatchEngine:
    """Gathers jobs, and launches them as one batch when they are waited for.

    A launcher returns when all jobs of its batch have ended. What needs an engine that watches is missing: reports
    arrive when the batch has ended, nothing can be cancelled or stopped, no time limit ends a job, and with
    ``basic`` a job that dies takes the coordinator with it. Each job sees the first GPU alone.

    Args:
        launcher: Hydra's. A batch is as large as ``hydra.launcher.n_jobs``, or one job.
        config: the sweep's composed config, Hydra's node included.
    """

    def __init__(self, launcher: Launcher, config: DictConfig) -> None:
        self._launcher = launcher
        self._config = config
        self._slots = _batch_size(launcher)
        self._jobs: list[Job] = []
        self._locks = contextlib.ExitStack()
        self._is_closed = False
        gpus.see_one()

    @property
    def slots(self) -> int:
        """The size of a batch."""
        return self._slots

    @property
    def threads(self) -> int:
        """An equal share of the cores that this process may use."""
        return max(1, cores.usable_cores() // self._slots)

    def preload(self) -> None:
        """Does nothing; see `lowrung.engine.base.Engine.preload`."""

    def submit(self, job: Job) -> None:
        """Takes a job for the next batch; see `lowrung.engine.base.Engine.submit`."""
        require_room(job.key, [other.key for other in self._jobs], self._slots, is_closed=self._is_closed)
        self._locks.enter_context(atomic.lock(RunFolder(job.folder).lock))
        mailbox.clear(job.folder)
        self._jobs.append(job)

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none: jobs end with their coordinator; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Runs the batch to its end, whatever ``timeout`` says; see `lowrung.engine.base.Engine.wait`."""
        jobs, self._jobs = self._jobs, []
        with self._locks:
            launched = [job for job in jobs if isinstance(job.task, HydraTask)]
            ended = [run_here(job) for job in jobs if job not in launched]
            ended += self._launch(launched)
        reports = [Reported(job.key, report) for job in launched for report in mailbox.Reader(job.folder).read()]
        return [*reports, *ended]

    def _launch(self, jobs: Sequence[Job]) -> list[Ended]:
        tasks = [job.task for job in jobs if isinstance(job.task, HydraTask)]
        if not tasks:
            return []
        functions = {str(hydra_job.output_folder(task.config)): task.task_function for task in tasks}
        self._launcher.setup(
            hydra_context=tasks[0].hydra_context, task_function=_OfItsFolder(functions), config=self._config
        )
        with cores.environment(cores.thread_variables(self.threads)):
            results = self._launcher.launch(
                [_overrides(task.config) for task in tasks], initial_job_idx=tasks[0].config.hydra.job.num
            )
        return [Ended(job.key, Exit.RETURNED, result) for job, result in zip(jobs, results, strict=True)]

    def waiting(self, key: str) -> None:
        """None: jobs begin at once; see `lowrung.engine.base.Engine.waiting`."""

    def tidy(self, folder: Path) -> None:
        """Finds nothing: jobs end with their coordinator; see `lowrung.engine.base.Engine.tidy`."""

    def cancel(self, key: str) -> None:
        """Drops a job that was not launched, without an event: only a sweep that breaks off asks for it."""
        self._jobs = [job for job in self._jobs if job.key != key]

    def close(self) -> None:
        """Drops what was not launched."""
        self._is_closed = True
        self._jobs = []
        self._locks.close()


@dataclasses.dataclass(frozen=True)
class _OfItsFolder:
    """The task function that a launcher calls for all jobs of a batch: each job's own, known by the job's folder."""

    functions: Mapping[str, TaskFunction]

    def __call__(self, composed: DictConfig) -> Any:
        return self.functions[HydraConfig.get().runtime.output_dir](composed)


def run_here(job: Job) -> Ended:
    """Runs a job's task in this process."""
    try:
        return Ended(job.key, Exit.RETURNED, job.task())
    except Exception as error:
        traceback.print_exc()
        return Ended(job.key, Exit.RAISED, error, worker.describe(error))


def _batch_size(launcher: Any) -> int:
    """How many jobs joblib's launcher runs at once (-1 is one for each core); any other runs them one by one."""
    n_jobs = int(getattr(launcher, "joblib", {}).get("n_jobs", 1))
    return n_jobs if n_jobs > 0 else cores.usable_cores()


def _overrides(config: DictConfig) -> list[str]:
    """What the launcher is to compose the job from; the folder as we know it, since it numbers jobs by itself."""
    composed = OmegaConf.to_container(config.hydra.overrides.task)
    assert isinstance(composed, list)
    folder = hydra_job.output_folder(config).relative_to(Path(config.hydra.sweep.dir).absolute())
    return [*map(str, composed), f"hydra.sweep.subdir={grammar.quote(grammar.literal(str(folder)))}"]
