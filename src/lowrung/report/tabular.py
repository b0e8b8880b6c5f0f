"""A study as CSV: a row for each trial, and a row for each report of each run."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.store.outcome import Status


def leaderboard(study: StudyRecord) -> str:
    """A row for each trial, best first, with its paired difference from the best."""
    keys = _names(trial.point for trial in study.trials)
    metrics = _names(trial.metrics for trial in study.trials)
    measurements = _names(trial.measurements for trial in study.trials)
    head = [
        "rank",
        "trial",
        "stage",
        "status",
        "cause",
        "reused",
        "broken",
        "pareto",
        "standing",
        "compared_by",
        "difference",
        "low",
    ]
    ranks = {trial.number: place for place, trial in enumerate(study.trials, start=1)}
    rows = (
        [
            *_facts(trial, ranks[trial.number], study.compared_by),
            *(trial.point.get(key, "") for key in keys),
            *(trial.metrics.get(name, "") for name in metrics),
            *(trial.measurements.get(name, "") for name in measurements),
        ]
        for trial in study.trials
    )
    return _csv([*head, "high", *keys, *metrics, *measurements], rows)


def _facts(trial: TrialRecord, place: int, compared_by: str) -> list[Any]:
    found = trial.difference
    return [
        place if trial.status is Status.COMPLETE else "",
        trial.number,
        trial.stage,
        trial.status or "",
        trial.cause or "",
        int(trial.is_reused),
        "; ".join(trial.broken),
        int(trial.is_pareto),
        found.verdict if found else "",
        compared_by if found else "",
        *((found.mean, found.low, found.high) if found else ("", "", "")),
    ]


def curves(study: StudyRecord) -> str:
    """A row for each report of each run: learning curves over steps, tokens and seconds."""
    points = (point.metrics for trial in study.trials for run in trial.runs for point in run.history)
    names = _names(points)
    return _csv(["trial", "seed", "step", "tokens", "seconds", *names], _reports(study, names))


def _reports(study: StudyRecord, names: Sequence[str]) -> Iterator[list[Any]]:
    for trial in study.trials:
        for run in trial.runs:
            for point in run.history:
                tokens = "" if point.tokens is None else point.tokens
                values = (point.metrics.get(name, "") for name in names)
                yield [trial.number, run.seed, point.step, tokens, round(point.seconds, 3), *values]


def _names(each: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in each for name in values))


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
