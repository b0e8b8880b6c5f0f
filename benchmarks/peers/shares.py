"""Where lowrung's time goes: the parts of a sweep's wall-clock time, by what its runs wrote and when."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy

from benchmarks.peers.ways import reports
from lowrung.store.layout import RunFolder

PARTS = {
    "start": "libraries, the preflight of model and data with its tokens, the study and MLflow's database",
    "load and evaluation before": "each run's model and adapter, and the evaluation of the base",
    "steps": "forward, backward, optimiser, and what a step reports",
    "evaluation after": "of the trained adapter, and checkpoints",
    "save and gate": "the adapter is saved, reloaded, merged and compared",
    "tracking and end": "results go to MLflow and the leaderboard; processes end",
}
"""The parts of a sweep with one worker, and what happens in them."""


def cpu_until(readings: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The CPU time until a moment, between two readings in proportion.

    Args:
        readings: moments in seconds since 1970, each with the CPU seconds until then.
    """
    moments, seconds = zip(*readings, strict=True)
    return lambda moment: float(numpy.interp(moment, moments, seconds))


def shares(
    runs: Sequence[Path], began: float, seconds: float, until: Callable[[float], float] = lambda moment: moment
) -> dict[str, float]:
    """The parts of a sweep's time, by name.

    Args:
        runs: folders of its runs, trained one after the other.
        began: when the command began, in seconds since 1970.
        seconds: what the command took.
        until: gives the time that passed until a moment; by default the clock's.

    Returns:
        seconds by part; they add up to the command's.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    before = until(began)
    for run in runs:
        folder = RunFolder(run)
        ended = folder.outcome.stat().st_mtime
        outcome = json.loads(folder.outcome.read_text(encoding="utf-8"))
        begun = until(ended - outcome["measurements"]["time/total_seconds"])
        parts["start" if run is runs[0] else "tracking and end"] += begun - before
        before = begun
        for point in reports(run):
            is_step = "train/loss" in point["metrics"]
            is_first = point["step"] == 0
            part = "load and evaluation before" if is_first else "steps" if is_step else "evaluation after"
            now = until(point["time"])
            parts[part] += now - before
            before = now
        parts["save and gate"] += until(ended) - before
        before = until(ended)
    parts["tracking and end"] += until(began + seconds) - before
    return parts
