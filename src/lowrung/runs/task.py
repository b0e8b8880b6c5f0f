"""Hydra's task: a single run, or one run of a sweep's trial in its own process."""

import dataclasses
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lowrung.config import schema
from lowrung.config.schema import Config
from lowrung.finetune.data.split import Split
from lowrung.runs import execution, inputs, single
from lowrung.runs.single import SingleRun
from lowrung.store import atomic, mailbox, records
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Status
from lowrung.track import recording


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a sweep's coordinator decided for one job. It is a file in the job's folder.

    Attributes:
        folder: the run's folder in the store.
        data: where the examples lie as tokens.
        revision: the commit of a hub model.
        threads: CPU threads.
        tracking: the tracker's address; None where nothing is tracked.
        experiment: MLflow's experiment.
        run: the tracker's id of this run.
        datasets: fields of each `lowrung.finetune.data.split.Split`, to be tracked.
    """

    folder: str
    data: str
    revision: str | None
    threads: int
    tracking: str | None
    experiment: str
    run: str
    datasets: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Writes it for the job."""
        atomic.remove_leftovers(path.parent)
        atomic.write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Assignment":
        """Reads what the coordinator wrote."""
        return records.read(path).into(cls)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a trial's job returns to the coordinator.

    Attributes:
        status: how the run ended.
        is_tracked: whether the tracker has all of it, so that the coordinator only closes the tracked run.
    """

    status: Status
    is_tracked: bool


def run(composed: DictConfig) -> Ran | SingleRun:
    """Trains one run: of a sweep's trial where the coordinator left an assignment, else a single one.

    Args:
        composed: the config that Hydra composed.

    Returns:
        what a trial's coordinator needs to know; a single run's outcome and folder.

    Raises:
        UsageError: when a single run's config cannot be run.
        RunFailed: when a single run did not complete.
    """
    config = schema.resolve(composed)
    job = JobFolder(Path(HydraConfig.get().runtime.output_dir))
    if job.assignment.exists():
        return _run_trial(config, Assignment.read(job.assignment))
    return single.run(config, job)


def _run_trial(config: Config, assignment: Assignment) -> Ran:
    """Trains, and tracks the results here: one coordinator of many slots would take too long for it."""
    folder = RunFolder(Path(assignment.folder))
    tracker = recording.open_tracker(assignment.tracking, assignment.experiment)
    history = recording.History(tracker, assignment.run)
    outcome = execution.execute(
        inputs.pinned(config, assignment.revision),
        folder,
        data=Path(assignment.data),
        threads=assignment.threads,
        on_point=history.add,
        stop_reason=lambda: mailbox.stop_reason(folder.path),
    )
    if not outcome.status.is_kept:  # the coordinator may try it again, in the same tracked run
        history.flush()
        return Ran(outcome.status, is_tracked=False)
    data = [Split(**fields) for fields in assignment.datasets]
    recording.record(tracker, assignment.run, folder, outcome, data)
    return Ran(outcome.status, tracker.has_all(assignment.run))
