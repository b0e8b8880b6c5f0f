"""A single run, a sweep's trial in its own process, and what both need before `lowrung.runs.execution`."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lowrung.config import rules, schema, signature
from lowrung.config.schema import Config
from lowrung.engine import gpus
from lowrung.engine.cores import usable_cores
from lowrung.engine.interrupt import CtrlC
from lowrung.errors import LowrungError, UsageError
from lowrung.report.progress import Progress
from lowrung.report.tables import number
from lowrung.runs import execution
from lowrung.store import atomic, layout, mailbox
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track import recording
from lowrung.track.base import DatasetInput, Point

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


class RunFailed(LowrungError):  # noqa: N818  (it names an end; exit code 1)
    """A run or a sweep did not end as it should; the results that there are have been kept."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a sweep's coordinator decided for one job, left in the job's folder.

    Attributes:
        folder: the run's folder in the store.
        data: where the examples lie as tokens.
        revision: the commit of a hub model.
        threads: CPU threads.
        tracking: the tracker's address; None where nothing is tracked.
        experiment: MLflow's experiment.
        run: the tracker's id of this run.
        datasets: fields of the `DatasetInput` of each split, to be tracked.
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
        """Leaves it for the job."""
        atomic.remove_leftovers(path.parent)
        atomic.write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Assignment":
        """Reads what the coordinator left."""
        return cls(**atomic.read_json(path))


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a trial's job returns to the coordinator.

    Attributes:
        status: how the run ended.
        is_tracked: whether the tracker has all of it, so that the coordinator need only close it there.
    """

    status: Status
    is_tracked: bool


def run(composed: DictConfig) -> Ran | str:
    """Hydra's task: a trial of a sweep where the coordinator left an assignment, else a single run.

    Returns:
        a single run's status; what a trial's coordinator wants to know.

    Raises:
        UsageError: when the config cannot be run.
        RunFailed: when a single run did not complete.
    """
    config = schema.resolve(composed)
    job = JobFolder(Path(HydraConfig.get().runtime.output_dir))
    if not job.assignment.exists():
        return _run_single(config, job)
    return _run_trial(config, Assignment.read(job.assignment))


def _run_trial(config: Config, assignment: Assignment) -> Ran:
    """Trains, and tracks what came of it: here, since it takes a coordinator of many slots too long."""
    folder = RunFolder(Path(assignment.folder))
    tracker = recording.open_tracker(assignment.tracking, assignment.experiment)
    history = recording.History(tracker, assignment.run)
    outcome = execution.execute(
        pinned(config, assignment.revision),
        folder,
        data=Path(assignment.data),
        threads=assignment.threads,
        on_point=history.add,
        stop_reason=lambda: mailbox.stop_reason(folder.path),
    )
    if not outcome.status.is_kept:  # the coordinator may try it again, which would go on in the same tracked run
        history.flush()
        return Ran(outcome.status, is_tracked=False)
    data = [DatasetInput(**fields) for fields in assignment.datasets]
    recording.record(tracker, assignment.run, folder, outcome, data)
    return Ran(outcome.status, tracker.has_all(assignment.run))


def _run_single(config: Config, job: JobFolder) -> str:
    problems = [*rules.problems(config), *recording.tracking_problems(config), *gpus.problems()]
    if problems:
        raise UsageError(problems)
    threads = usable_cores()
    if config.model.device_map is None:
        gpus.see_one()  # SFTTrainer would take several for DataParallel, and refuses
    preflight = look(config)
    if preflight.problems:
        raise UsageError(preflight.problems)
    config = pinned(config, preflight.revision)
    folder = layout.run_folder(Path(config.store).absolute(), run_signature(config, preflight, threads))
    layout.point_to(job.run, folder.path)
    outcome = kept(folder)
    if outcome is not None:
        print(f"reused: these settings were run before, and the result is in {folder.path}")
    else:
        outcome = _train_single(config, folder, preflight, threads)
    if outcome.status is Status.CANCELLED:
        print("interrupted; the same command goes on from here")
        raise KeyboardInterrupt
    print(_summary(outcome, folder, job))
    if outcome.status is not Status.COMPLETE:
        raise RunFailed(f"The run ended as {outcome.status}: {outcome.cause}")
    return outcome.status


def _train_single(config: Config, folder: RunFolder, preflight: "Preflight", threads: int) -> Outcome:
    for note in preflight.notes:
        print(f"note: {note}")
    prepare_folder(folder, config, preflight, threads)
    tracker = recording.make_tracker(config)
    run_id = recording.start_single(tracker, config, folder)
    history = recording.History(tracker, run_id)
    with atomic.lock(folder.lock), CtrlC() as ctrl_c, Progress() as progress:
        progress.start("run", "training", steps(config, preflight))

        def on_point(point: Point) -> None:
            history.add(point)
            progress.update("run", point.step, point.metrics)

        def stop_reason() -> str | None:
            return str(Status.CANCELLED) if ctrl_c.was_pressed else None

        outcome = execution.execute(
            config, folder, data=preflight.data_folder, threads=threads, on_point=on_point, stop_reason=stop_reason
        )
        progress.end("run", "training", str(outcome.status))
    recording.record(tracker, run_id, folder, outcome, recording.datasets(preflight.splits))
    tracker.end_run(run_id, outcome.status)
    return outcome


def _summary(outcome: Outcome, folder: RunFolder, job: JobFolder) -> str:
    numbers = outcome.numbers
    lines = [f"{name:<34} {number(numbers[name])}" for name in sorted(numbers) if name.count("/") == 1]
    warnings = [f"warning: {text}" for text in outcome.facts.get("gate_failures", ())]
    return "\n".join([*lines, *warnings, f"results: {folder.path}", f"config:  {job.path / '.hydra'}"])


# -- what a single run and a sweep's coordinator share -----------------------------------------------------------------


def look(config: Config) -> "Preflight":
    """Looks at model and data; see `lowrung.finetune.preflight`."""
    from lowrung.finetune import preflight

    return preflight.look(**look_arguments([config]))


def look_arguments(configs: Sequence[Config]) -> dict[str, Any]:
    """What to look at for configs that share their model and data."""
    adapters = {schema.digest(config.lora): config.lora for config in configs if not config.lora.is_full}
    return {
        "base": configs[0].model,
        "data": configs[0].data,
        "store": Path(configs[0].store).absolute(),
        "adapters": list(adapters.values()),
    }


def pinned(config: Config, revision: str | None) -> Config:
    """The config with the commit that a hub model's branch or tag was found at."""
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, revision=revision or config.model.revision)
    )


def run_signature(config: Config, preflight: "Preflight", threads: int) -> str:
    """The signature of a run; see `lowrung.config.signature.signature`."""
    return signature.signature(
        config,
        model_fingerprint=preflight.model_fingerprint,
        data_fingerprint=preflight.data_fingerprint,
        threads=threads,
    )


def steps(config: Config, preflight: "Preflight") -> int:
    """Optimiser steps of a run. With packing fewer, since rows are then fewer than examples."""
    rows = next(split.rows for split in preflight.splits if split.context == "training")
    return schema.total_steps(config.train, rows)


def kept(folder: RunFolder, also: str | None = None) -> Outcome | None:
    """A result that need not be computed again, or None.

    Args:
        folder: the run's.
        also: a further status that is kept: a pruned run is a result in the study that pruned it, and in no other.
    """
    outcome = Outcome.read(folder.outcome)
    statuses = {Status.COMPLETE, Status.DIVERGED} | ({Status.PRUNED} if also == Status.PRUNED else set())
    return outcome if outcome is not None and outcome.status in statuses else None


def prepare_folder(folder: RunFolder, config: Config, preflight: "Preflight", threads: int) -> None:
    """Clears what an earlier attempt left but for its checkpoints, and writes down what the run is made from.

    Raises:
        StoreError: when another process works in the folder; nothing has been touched then.
    """
    environment = signature.environment(
        model_fingerprint=preflight.model_fingerprint,
        data_fingerprint=preflight.data_fingerprint,
        tokens=preflight.data_folder.name,
        threads=threads,
    )
    with atomic.lock(folder.lock):
        mailbox.clear(folder.path)
        atomic.remove_leftovers(folder.path)
        folder.outcome.unlink(missing_ok=True)
        for stale in (folder.adapter, folder.model, folder.merged, folder.scratch):
            shutil.rmtree(stale, ignore_errors=True)
        atomic.write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
        atomic.write_json(folder.environment, environment)
