"""The runs of a sweep: answered from the store, waited for where somebody trains them already, or given a slot."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lowrung.config.schema import Config
from lowrung.engine import hydra_job
from lowrung.engine.base import Ended, Engine, Exit, Job, Reported
from lowrung.errors import StoreError
from lowrung.report.progress import Progress
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome, prepare_folder
from lowrung.runs.task import Assignment, Ran
from lowrung.store import layout, mailbox
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps.plan import Plan
from lowrung.track import recording

CHECK_SECONDS = 1.0
"""How often to look whether a run that somebody else trains has ended."""


@dataclasses.dataclass
class Run:
    """One point of the search space, trained with one seed.

    Attributes:
        trial: number of the trial that it belongs to.
        key: names it in the engine and on the screen.
        title: what a person knows it by.
        overrides: the job's, as Hydra overrides.
        composed: what Hydra makes of them, its own node included.
        config: the job's.
        folder: the run's.
        steps: optimiser steps of the whole run.
        tracked: the tracker's id of the run; None as long as it has not started.
        losses: how often its process was lost.
        stopped_as: what it was asked to end as, or None.
        is_elsewhere: whether another sweep was found to train it.
        is_halved: whether its batches are half as large as was asked for.
        is_open: whether this start of the sweep has opened it in the tracker.
    """

    trial: int
    key: str
    title: str
    overrides: Sequence[str]
    composed: DictConfig
    config: Config
    folder: RunFolder
    steps: int
    tracked: str | None = None
    losses: int = 0
    stopped_as: Status | None = None
    is_elsewhere: bool = False
    is_halved: bool = False
    is_open: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A run reported metrics at a step."""

    run: Run
    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run has its outcome.

    Attributes:
        run: the run.
        outcome: how it ended.
        is_reused: whether it was not trained for it.
        is_tracked: whether the tracker has all of it but its end.
    """

    run: Run
    outcome: Outcome
    is_reused: bool = False
    is_tracked: bool = False


class Runs:
    """Runs on their way to their outcomes, as many at once as the engine has slots.

    Args:
        engine: where they run.
        plan: the sweep's.
        hydra_context: Hydra's.
        task_function: the function below ``@hydra.main``.
        track: opens a run in the tracker, before its first start.
        progress: where it is shown what runs.
        retries: how often a run whose process was lost is started again.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        *,
        track: Callable[[Run], str],
        progress: Progress,
        retries: int,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._make_task = hydra_job.task_maker(hydra_context, task_function)
        self._track = track
        self._progress = progress
        self._retries = retries
        self._running: dict[str, Run] = {}
        self._queue: list[Run] = []
        self._waiting: list[Run] = []
        self._look_again = 0.0
        self._is_winding_down = False

    @property
    def has_room(self) -> bool:
        """Whether a further run would start at once."""
        return len(self._running) + len(self._queue) < self._engine.slots

    @property
    def running(self) -> int:
        """How many have a slot."""
        return len(self._running)

    @property
    def open(self) -> list[Run]:
        """All that have no outcome yet."""
        return [*self._running.values(), *self._queue, *self._waiting]

    def add(self, run: Run) -> Outcome | None:
        """Takes a run; gives its outcome where the store has it, else `wait` will."""
        job = JobFolder(hydra_job.output_folder(run.composed))
        layout.point_to(job.run, run.folder.path)
        outcome = kept_outcome(run.folder)
        if outcome is not None:
            hydra_job.leave_files(run.composed)
        elif any(other.folder == run.folder for other in self._running.values()):
            self._waiting.append(run)
        elif len(self._running) >= self._engine.slots:
            self._queue.append(run)
        else:
            self._submit(run, job)
        return outcome

    def wait(self, timeout: float) -> list[Evaluated | Finished]:
        """Waits until something happens, and starts what has waited for a slot.

        Args:
            timeout: seconds after which the answer is empty.
        """
        if not self._is_winding_down and (answered := self._advance()):
            return answered
        if self._running:
            return [event for happened in self._engine.wait(timeout) for event in self._translated(happened)]
        if self._waiting and not self._is_winding_down:
            time.sleep(timeout)
        return []

    def stop(self, run: Run, status: Status) -> None:
        """Asks a run that has a slot to write a checkpoint and end."""
        run.stopped_as = status
        mailbox.ask_to_stop(run.folder.path, str(status))

    def drop(self, trial: int) -> list[Run]:
        """Forgets the runs of a trial that have no slot; gives those that have one."""
        self._queue = [run for run in self._queue if run.trial != trial]
        self._waiting = [run for run in self._waiting if run.trial != trial]
        return [run for run in self._running.values() if run.trial == trial]

    def wind_down(self) -> None:
        """Asks all runs to write a checkpoint and end, and starts no more."""
        self._is_winding_down = True
        going = [run for run in self._running.values() if run.stopped_as is None]
        if going:
            self._progress.say("stopping: each run ends after its step, with a checkpoint; Ctrl-C again ends all now")
        for run in going:
            self.stop(run, Status.CANCELLED)

    # -- starting ------------------------------------------------------------------------------------------------------

    def _advance(self) -> list[Evaluated | Finished]:
        """Tries again what waits: the queue as soon as there is a slot, what somebody else trains once a while."""
        ready = self._queue[: max(0, self._engine.slots - len(self._running))]
        self._queue = self._queue[len(ready) :]
        if self._waiting and time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + CHECK_SECONDS
            room = max(0, self._engine.slots - len(self._running) - len(ready))
            ready += self._waiting[:room]
            self._waiting = self._waiting[room:]
        return [Finished(run, outcome, is_reused=True) for run in ready if (outcome := self.add(run))]

    def _submit(self, run: Run, job: JobFolder) -> None:
        config, preflight = run.config, self._plan.preflight(run.config)
        try:
            prepare_folder(run.folder, inputs.pinned(config, preflight.revision), preflight, self._engine.threads)
        except StoreError:
            self._wait_for_another_sweep(run)
            return
        run.tracked = self._track(run)
        assignment = Assignment(
            folder=str(run.folder.path),
            data=str(preflight.data_folder),
            revision=preflight.revision,
            threads=self._engine.threads,
            tracking=recording.tracking_uri(config),
            experiment=config.track.experiment,
            run=run.tracked,
            datasets=[dataclasses.asdict(data) for data in recording.datasets(preflight.splits)],
        )
        assignment.write(job.assignment)
        self._engine.submit(Job(run.key, run.folder.path, self._make_task(run.composed)))
        self._running[run.key] = run
        self._progress.start(run.key, run.title, run.steps)

    def _wait_for_another_sweep(self, run: Run) -> None:
        """Puts off a run that another sweep trains: that outcome will be its own, or it goes on from there."""
        if not run.is_elsewhere:
            self._progress.say(f"{run.title}: another process works in {run.folder.path}; waiting for it")
        run.is_elsewhere = True
        self._waiting.append(run)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _translated(self, event: Reported | Ended) -> list[Evaluated | Finished]:
        run = self._running[event.key]
        if isinstance(event, Ended):
            del self._running[event.key]
            return self._ended(run, event)
        step, metrics = event.report["step"], event.report["metrics"]
        self._progress.update(run.key, step, metrics)
        return [Evaluated(run, step, metrics)]

    def _ended(self, run: Run, ended: Ended) -> list[Evaluated | Finished]:
        """Finds out how a run ended: its own record is trusted first, then what its process left behind."""
        outcome = Outcome.read(run.folder.outcome)
        is_lost = outcome is None and ended.exit is Exit.DIED and run.stopped_as is not Status.CANCELLED
        if is_lost and run.losses < self._retries:
            self._progress.end(run.key, run.title, f"its process was lost ({ended.cause}); tried again")
            self._queue.insert(0, dataclasses.replace(run, losses=run.losses + 1, stopped_as=None))
            return []
        outcome = outcome or Outcome(Status.FAILED, cause=f"{_cause(ended)}; read {run.folder.log}")
        if run.stopped_as is Status.CANCELLED and outcome.status not in (Status.COMPLETE, Status.DIVERGED):
            return [Finished(run, Outcome(Status.CANCELLED, cause="stopped"))]
        ran = ended.value._return_value if isinstance(ended.value, JobReturn) else None
        is_tracked = isinstance(ran, Ran) and ran.is_tracked
        return [Finished(run, outcome, is_tracked=is_tracked), *self._twins(run, outcome)]

    def _twins(self, ended: Run, outcome: Outcome) -> list[Evaluated | Finished]:
        """What waited for the very same run has its outcome too."""
        twins = [run for run in self._waiting if run.folder == ended.folder]
        self._waiting = [run for run in self._waiting if run.folder != ended.folder]
        return [Finished(run, outcome, is_reused=True) for run in twins]


def store_folder(plan: Plan, config: Config, threads: int) -> RunFolder:
    """Where the results of a run with this config are."""
    signature = inputs.run_signature(config, plan.preflight(config), threads)
    return layout.run_folder(Path(plan.config.store).absolute(), signature)


def _cause(ended: Ended) -> str:
    """Why a job that left no outcome ended, in one line."""
    if ended.exit is not Exit.RETURNED:
        return ended.cause or str(ended.exit)
    if isinstance(ended.value, JobReturn) and ended.value.status is JobStatus.FAILED:
        error = ended.value._return_value
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "the run left no outcome"
