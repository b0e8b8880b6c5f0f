"""The trials of a study that has not ended: what its database has of them, and what their runs have left so far."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from lowrung.report.record import RunRecord, TrialRecord
from lowrung.search import recorded
from lowrung.search.recorded import Recorded, RecordedTrial
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status, over_seeds
from lowrung.studies import runs
from lowrung.studies.doubts import Doubts
from lowrung.studies.ended import stage_index
from lowrung.studies.folders import Folders, Job
from lowrung.studies.settings import Asked
from lowrung.studies.yaml_values import LOADER

KILLED = "its coordinator was killed while it asked for it"


def trials(found: Recorded, asked: Asked, folders: Folders, doubts: Doubts) -> Iterator[TrialRecord]:
    """The trials that the database has, those that run too.

    Args:
        found: the study.
        asked: what it was asked to do.
        folders: where the runs are.
        doubts: takes what cannot be read.
    """
    count = sum(len(trial.runs) for trial in found.trials)
    points = max(50, runs.POINTS // max(1, count))
    for trial in found.trials:
        if trial.number in asked.left_out:
            doubts.add(
                f"stage {asked.left_out[trial.number]} starts from other trials now: what it ran before is left out",
                trial.number,
            )
            continue
        ran = [
            runs.read(seed, folders.run(str(facts.get("signature"))), trial.number, doubts, points=points)
            for seed, facts in sorted(trial.runs.items())
            if "signature" in facts
        ]
        yield _trial(trial, ran, asked)


def _trial(trial: RecordedTrial, ran: Sequence[RunRecord], asked: Asked) -> TrialRecord:
    status = _status(trial)
    ran = [run if run.status is not None or status is None else _gone(run, trial, status, asked) for run in ran]
    summary = _summary(ran, asked)
    metrics = {**summary.metrics, **dict(zip(asked.objectives, trial.values, strict=False))}
    cause = trial.facts.get("cause") or (KILLED if status is Status.FAILED and not ran else None)
    stage = asked.stages_of(trial.number, trial.stage)
    kept = [constraint for constraint in asked.constraints if constraint.violation(metrics) > 0]
    return TrialRecord(
        trial.number,
        {key: str(value) for key, value in trial.params.items()},
        status,
        ran,
        stage,
        stage_index(stage, asked.stages),
        cause,
        metrics,
        summary.measurements,
        bool(trial.runs) and all(run.get("reused", False) for run in trial.runs.values()),
        [str(constraint) for constraint in kept] if status is not None else (),
    )


def _gone(run: RunRecord, trial: RecordedTrial, status: Status, asked: Asked) -> RunRecord:
    """A run of a trial that has ended whose own result cannot be read, with what follows from its trial."""
    if len(trial.runs) == 1:
        return runs.with_result(run, status, dict(zip(asked.objectives, trial.values, strict=False)))
    return runs.with_result(run, status if status is Status.COMPLETE else None, {})


def _status(trial: RecordedTrial) -> Status | None:
    """How a trial ended, in lowrung's words, or else in what Optuna's mean."""
    if trial.state == recorded.RUNNING:
        return None
    said = trial.facts.get("status")
    if said in list(Status):
        return Status(said)
    return {recorded.COMPLETE: Status.COMPLETE, recorded.PRUNED: Status.PRUNED}.get(trial.state, Status.FAILED)


def _summary(ran: Sequence[RunRecord], asked: Asked) -> Outcome:
    """The means over a trial's runs that have ended."""
    ended = {run.seed: Outcome(run.status, run.metrics, run.measurements) for run in ran if run.status is not None}
    if not ended:
        return Outcome(Status.FAILED)
    directions = {one.metric: "minimize" if one.is_upper else "maximize" for one in asked.constraints}
    return over_seeds(ended, asked.over_seeds, {**directions, **asked.objectives})


def of_folders(study: StudyFolder, folders: Folders, asked: Asked, doubts: Doubts) -> Iterator[TrialRecord]:
    """The trials of a study without a database and without a leaderboard: its jobs' folders.

    Hydra's own sweeper leaves no more; of a study that is half deleted no more may be left.
    """
    jobs: defaultdict[int, dict[int, Job]] = defaultdict(dict)
    for job in folders.jobs:
        if job.number is None:
            doubts.add(f"the folder {job.path} has a run, but nothing there says of which trial: it is left out")
            continue
        jobs[job.number][runs.seed_of(RunFolder(job.run)) if job.seed is None else job.seed] = job
    for number, by_seed in sorted(jobs.items()):
        ran = [runs.read(seed, folders.run(job.run.name), number, doubts) for seed, job in sorted(by_seed.items())]
        summary = _summary(ran, asked)
        is_over = all(run.status is not None for run in ran)
        yield TrialRecord(
            number,
            _overrides([study.path / job.path for job in by_seed.values()]),
            summary.status if is_over else None,
            ran,
            metrics=summary.metrics,
            measurements=summary.measurements,
            cause=summary.cause,
        )


def _overrides(folders: Sequence[Path]) -> Mapping[str, str]:
    """What a trial's jobs were given, by key."""
    file = next((file for folder in folders if (file := folder / ".hydra" / "overrides.yaml").is_file()), None)
    if file is None:
        return {}
    try:
        listed = yaml.load(file.read_bytes(), LOADER)  # noqa: S506  (a safe loader)
        pairs = [str(text).lstrip("+").partition("=") for text in listed]
    except (OSError, yaml.YAMLError, TypeError):
        return {}
    return {key: value for key, _, value in pairs if key not in ("study", "seed", "sweeps")}


def with_slots(found: Sequence[TrialRecord], began: Mapping[int, float | None]) -> list[TrialRecord]:
    """The trials with a slot for each run that ran in this study: those that overlap in time have different ones.

    Args:
        found: the trials.
        began: when each was asked for, by number, as the database has it: a run that had ended by then is another
            study's. Of a trial that is not in it, `TrialRecord.is_reused` says so.
    """
    stretches = [
        (start, end, trial.number, run.seed)
        for trial in found
        for run in trial.runs
        for start, end in _stretches(trial, run)
        if _is_own(trial, end, began)
    ]
    ends: list[float] = []
    slots: dict[tuple[int, int, float], int] = {}
    for start, end, number, seed in sorted(stretches):
        free = next((slot for slot, until in enumerate(ends) if until <= start + _ROUNDING), len(ends))
        ends[free : free + 1] = [end]
        slots[number, seed, start] = free

    def with_its_slots(trial: TrialRecord, run: RunRecord) -> RunRecord:
        def slot(start: float | None) -> int | None:
            return None if start is None else slots.get((trial.number, run.seed, start))

        earlier = [dataclasses.replace(each, slot=slot(each.started)) for each in run.earlier]
        return dataclasses.replace(run, slot=slot(run.started), earlier=earlier)

    return [dataclasses.replace(trial, runs=[with_its_slots(trial, run) for run in trial.runs]) for trial in found]


def _stretches(trial: TrialRecord, run: RunRecord) -> Iterator[tuple[float, float]]:
    """When a run's processes began and ended, in seconds since 1970; one that runs has not ended yet."""
    yield from ((each.started, each.ended) for each in run.earlier)
    if run.started is None:
        return
    if run.ended is None and trial.status is None:
        yield run.started, math.inf
    else:
        yield run.started, run.started + _reported_for(run) if run.ended is None else run.ended


def _reported_for(run: RunRecord) -> float:
    """How long a run's last process has reported."""
    before = sum(each.ended - each.started for each in run.earlier)
    return max(0.0, run.history[-1].seconds - before) if run.history else 0.0


def _is_own(trial: TrialRecord, end: float, began: Mapping[int, float | None]) -> bool:
    start = began.get(trial.number)
    return not trial.is_reused if start is None else end >= start


_ROUNDING = 0.5
"""Seconds by which two runs may seem to overlap: files' times are rounded."""
