"""What a trial's runs left for each held-out example, as the sums that a metric is the ratio of."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lowrung.comparison.paired import NotComparable, Sums
from lowrung.comparison.trials import Run, Trial
from lowrung.errors import StoreError
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder

COUNTED = ("params/", "adapter/")
"""Metrics that are counted: their differences have no error."""

_LOSS = ("eval/loss", "eval/perplexity")
_RIGHT = "eval/token_accuracy"
_BY_ANSWER = ("eval/exact_match", "eval/rouge1", "eval/rouge2", "eval/rougeL")
_TOLERANCE = 1e-4
"""How far the sums of a file may be from the metric that its run recorded, as a share of the larger one or of 1."""

_DAMAGED = "A run's scores by example, held_out.parquet, are damaged."


def compared_by(metric: str) -> str:
    """The metric whose differences stand for this one's: the loss for the perplexity, which is its exponential."""
    return _LOSS[0] if metric in _LOSS else metric


def by_seed(trials: Sequence[Trial], metric: str) -> dict[int, dict[int, HeldOut | NotComparable]] | None:
    """The files of each trial's runs by seed, by the trials' numbers; None where the metric has no sums by example."""
    files = {trial.number: {run.seed: _read(run) for run in trial.seeds} for trial in trials}
    if metric in (*_LOSS, _RIGHT, *_BY_ANSWER):
        return files
    read = (file for runs in files.values() for file in runs.values() if isinstance(file, HeldOut))
    return files if any(metric.removeprefix("eval/") in file.answers for file in read) else None


def sums(trial: Trial, files: dict[int, HeldOut | NotComparable], metric: str) -> tuple[dict[int, Sums], str]:
    """A metric's sums of each of a trial's runs, by seed, and the hash of the data that they are over.

    Raises:
        NotComparable: when a run's file is missing, damaged, or not of its result.
    """
    found, data = {}, set()
    if not trial.seeds:
        raise NotComparable("Nothing is known of its runs.")
    for run in trial.seeds:
        file = files[run.seed]
        if isinstance(file, NotComparable):
            raise file
        try:
            found[run.seed] = _sums(file, metric)
        except NotComparable:
            raise
        except (TypeError, ValueError):  # numbers are not numbers, or not as many everywhere
            raise NotComparable(_DAMAGED) from None
        data.add(file.data)
        _hold_to_its_run(found[run.seed], metric, run)
    if len(data) > 1:
        raise NotComparable("Its runs were scored on different held-out data.")
    return found, data.pop()


def values(trial: Trial, metric: str) -> dict[int, float]:
    """A metric of each of a trial's runs, by seed."""
    return {run.seed: run.outcome.metrics[metric] for run in trial.seeds if metric in run.outcome.metrics}


def _read(run: Run) -> HeldOut | NotComparable:
    path = RunFolder(Path(run.folder)).held_out
    if not path.is_file():
        return NotComparable(f"A run left no {path.name}, its scores by example.")
    try:
        return HeldOut.read(path)
    except StoreError:
        return NotComparable(_DAMAGED)


def _sums(file: HeldOut, metric: str) -> Sums:
    if metric in _LOSS:
        return Sums(file.nll.astype(np.float64), file.tokens.astype(np.float64))
    if metric == _RIGHT:
        return Sums(file.right.astype(np.float64), file.tokens.astype(np.float64), unit=1.0)
    scores = file.answers.get(metric.removeprefix("eval/"))
    if scores is None:
        raise NotComparable(f"A run's scores by example have no {metric}.")
    return Sums(scores.astype(np.float64), np.ones(len(scores)), unit=1.0 if metric in _BY_ANSWER else 0.0)


def _hold_to_its_run(found: Sums, metric: str, run: Run) -> None:
    """Refuses a file whose sums are not those of the run's own result.

    Raises:
        NotComparable: when they are not.
    """
    recorded = run.outcome.metrics.get(metric, math.nan)
    recorded = math.log(recorded) if metric == "eval/perplexity" and recorded > 0 else recorded
    total = float(np.sum(found.denominators))
    ratio = float(np.sum(found.numerators)) / total if total else math.nan
    if not math.isclose(ratio, recorded, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        raise NotComparable(f"A run's scores by example do not add up to its {metric}.")
