"""Hydra's task: a single run, or one run of a sweep's trial in its own process."""

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig

from lowrung import library_warnings
from lowrung.config import structured
from lowrung.config.schema import Config
from lowrung.costs.facts import Planned
from lowrung.engine import gpus
from lowrung.engine.interrupt import StopSignals
from lowrung.errors import StoreError
from lowrung.finetune.found import Preflight
from lowrung.runs import execution, inputs, single
from lowrung.runs.computation import Computation
from lowrung.runs.folder import kept_outcome
from lowrung.runs.single import SingleRun
from lowrung.store import mailbox
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Status
from lowrung.track import recording
from lowrung.track.base import Opening
from lowrung.track.owed import RunRecord


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a sweep's coordinator decided for one job. It travels with the job's task, so it is no other job's.

    Attributes:
        folder: the run's in the store, named after its signature.
        claim: of this job on the folder; see `lowrung.store.results.claim`.
        preflight: what was found of the run's model and data.
        threads: CPU threads.
        planned: what is predicted of the run; None where that cannot be.
        tracking: the tracker's address; None where nothing is tracked.
        experiment: MLflow's experiment.
        opening: how the tracker's run of this run begins; None where the sweep tracks it itself, when it has ended.
    """

    folder: RunFolder
    claim: str
    preflight: Preflight
    threads: int
    planned: Planned | None
    tracking: str | None
    experiment: str
    opening: Opening | None


_ASSIGNED: ContextVar[Assignment | None] = ContextVar("assigned", default=None)


def assigned() -> Assignment | None:
    """The assignment of the job that runs here now; None in a single run."""
    return _ASSIGNED.get()


@dataclasses.dataclass(frozen=True)
class Assigned:
    """A task function for one job of a sweep: `run` finds the job's assignment while it is called, and not after."""

    task_function: TaskFunction
    assignment: Assignment

    def __call__(self, composed: DictConfig) -> Any:
        """Calls the task function."""
        before = _ASSIGNED.set(self.assignment)
        try:
            return self.task_function(composed)
        finally:
            _ASSIGNED.reset(before)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a trial's job returns to the coordinator.

    Attributes:
        status: how the run ended.
        is_tracked: whether the tracker has all of it, its end too.
    """

    status: Status
    is_tracked: bool


def run(composed: DictConfig) -> Ran | SingleRun:
    """Trains one run: of a sweep's trial where this job has an assignment, else a single one.

    Args:
        composed: the config that Hydra composed.

    Returns:
        what a trial's coordinator needs to know; a single run's outcome and folder.

    Raises:
        UsageError: when a single run's config cannot be run.
        RunFailed: when a single run did not complete.
        StoreError: when a trial's run is not the one that was assigned.
    """
    config, assignment = structured.resolve(composed), assigned()
    if assignment is not None:
        return _run_trial(inputs.with_ranks(config, len(gpus.visible())), assignment)
    return single.run(config, JobFolder(Path(HydraConfig.get().runtime.output_dir)))


def _run_trial(config: Config, assignment: Assignment) -> Ran:
    folder = assignment.folder
    _require_the_assigned(config, assignment)
    if (done := kept_outcome(folder)) is not None:  # a scheduler has started this very job again
        return Ran(done.status, is_tracked=False)
    with (
        StopSignals() as signals,  # SIGTERM, which schedulers send to all processes
        library_warnings.heard(lambda one: mailbox.warn(folder.path, dataclasses.asdict(one))),
    ):
        return _train(config, assignment, lambda: mailbox.stop_reason(folder.path) or _cancelled(signals))


def _cancelled(signals: StopSignals) -> str | None:
    return str(Status.CANCELLED) if signals.is_to_stop else None


def _train(config: Config, assignment: Assignment, stop_reason: Callable[[], str | None]) -> Ran:
    """Trains, and tracks the results here: one coordinator of many slots would take too long for it."""
    folder, preflight = assignment.folder, assignment.preflight
    sender = recording.sender_to(assignment.tracking if assignment.opening else None, assignment.experiment)
    history = recording.History(sender, assignment.opening)
    base = inputs.base_folder(config, preflight, assignment.threads)
    asked = Computation(inputs.pinned(config, preflight), folder, preflight.data_folder, base, assignment.threads)
    with recording.measuring(config, folder, history):
        outcome = execution.execute(
            asked,
            claim=assignment.claim,
            planned=assignment.planned,
            on_point=history.add,
            stop_reason=stop_reason,
        )
    history.flush()
    if not outcome.status.is_kept or assignment.opening is None:
        # The coordinator may try it again, in the same tracked run, or records it.
        sender.drain(recording.END_SECONDS)
        return Ran(outcome.status, is_tracked=False)
    record = RunRecord(assignment.opening, str(folder.path), outcome.status, outcome.cause, preflight.splits)
    sent = sender.send(record.send, assignment.opening.name)
    is_tracked = sender.drain(recording.END_SECONDS) and sent.exception() is None
    sender.close()
    return Ran(outcome.status, is_tracked)


def _require_the_assigned(config: Config, assignment: Assignment) -> None:
    """Refuses a job whose config, libraries, source or device are not those that its folder is named after.

    Raises:
        StoreError: when they are not.
    """
    signature = inputs.run_signature(config, assignment.preflight, assignment.threads)
    if signature != assignment.folder.path.name:
        raise StoreError(
            f"A trial's job must be the run that it was assigned, {assignment.folder.path.name}, but is {signature}:"
            " its config, or the libraries, source code or device (CPU, CUDA) of its process, are not the sweep's."
            " Start the sweep again, where its jobs run."
        )
