"""The trials of a study as rows of its leaderboard, and the table that its sweep prints."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowrung.report import leaderboard
from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.store.outcome import Outcome, Status


def of(trials: Sequence[TrialRecord], over_seeds: Mapping[str, str]) -> list[TrialRow]:
    """The trials that have ended.

    Args:
        trials: any.
        over_seeds: metrics that are not the mean over a trial's seeds.
    """
    return [_row(trial, trial.status, over_seeds) for trial in trials if trial.status is not None]


def _row(trial: TrialRecord, status: Status, over_seeds: Mapping[str, str]) -> TrialRow:
    nowhere = Path(os.devnull) / str(trial.number)  # what is gone: a path of its own that leads to no file
    ended = [
        Seed(run.seed, Outcome(run.status, run.metrics), str(run.folder or nowhere / str(run.seed)))
        for run in trial.runs
        if run.status
    ]
    return TrialRow(
        trial.number,
        trial.point,
        Outcome(status, trial.metrics, trial.measurements, trial.cause),
        ended,
        trial.is_reused,
        trial.broken,
        over_seeds,
        trial.stage,
        trial.stage_index,
    )


def table(study: StudyRecord) -> str:
    """The leaderboard as text."""
    against = {trial.number: trial.against for trial in study.trials if trial.against}
    return leaderboard.render(of(study.trials, study.over_seeds), study.objectives, against)
