"""Where lowrung's time goes: the parts of a sweep's wall-clock time, by what its runs wrote and when."""

import json
from collections.abc import Sequence
from pathlib import Path

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


def shares(runs: Sequence[Path], began: float, seconds: float) -> dict[str, float]:
    """The parts of a sweep's time, by name.

    Args:
        runs: folders of its runs, trained one after the other.
        began: when the command began, in seconds since 1970.
        seconds: what the command took.

    Returns:
        seconds by part; they add up to the command's.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    before = began
    for run in runs:
        folder = RunFolder(run)
        ended = folder.outcome.stat().st_mtime
        outcome = json.loads(folder.outcome.read_text(encoding="utf-8"))
        begun = ended - outcome["measurements"]["time/total_seconds"]
        parts["start" if run is runs[0] else "tracking and end"] += begun - before
        before = begun
        for point in reports(run):
            is_step = "train/loss" in point["metrics"]
            is_first = point["step"] == 0
            part = "load and evaluation before" if is_first else "steps" if is_step else "evaluation after"
            parts[part] += point["time"] - before
            before = point["time"]
        parts["save and gate"] += ended - before
        before = ended
    parts["tracking and end"] += began + seconds - before
    return parts
