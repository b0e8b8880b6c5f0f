"""What all turns say together: medians, ratios of turns of the same pair, and whether the losses agree."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.task import Files, Task
from benchmarks.peers.ways import LOWRUNG, WAYS

TOLERANCE = 1e-3
"""Between the losses of a step: rounding in float32, with products of other shapes and sums in another order."""

Turn = Mapping[str, Any]


def summary(task: Task, files: Files, turns: Sequence[Turn], steps: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record, without what was given.

    Args:
        task: the trials.
        files: say how long tokenising took.
        turns: each turn of each way.
        steps: what `benchmarks.peers.steps` wrote.

    Returns:
        ``ways``: each one's settings and medians over its turns. ``ratios``: lowrung's CPU and wall-clock seconds over
        each other way's, one for each pair, sorted. ``parts``: the median seconds of lowrung's parts, by ``wall`` and
        ``cpu``. ``steps``. ``largest_difference``: of two losses of a step. ``disagreements``: in words. ``turns``: all
        that was measured.
    """
    by_way: dict[str, list[Turn]] = {}
    for turn in turns:
        by_way.setdefault(turn["way"], []).append(turn)
    own = by_way[LOWRUNG]
    differences, problems = _compared(turns, own[0]["losses"], steps)
    return {
        "ways": {name: _medians(task, name, of_way, own[0]["tokens"]) for name, of_way in by_way.items()},
        "ratios": {name: _ratios(own, of_way) for name, of_way in by_way.items() if name != LOWRUNG},
        "parts": {kind: _parts([turn["parts"][kind] for turn in own]) for kind in ("wall", "cpu")},
        "tokenising_cpu_seconds": files.tokenising_seconds,
        "steps": steps and as_json(steps),
        "largest_difference": max(differences, default=0.0),
        "disagreements": problems,
        "turns": [as_json(turn) for turn in turns],
    }


def as_json(value: Any) -> Any:
    """A record as JSON has it: null in place of what is no finite number, such as the loss of a run that diverged."""
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _medians(task: Task, name: str, turns: Sequence[Turn], tokens: float) -> dict[str, Any]:
    trials = len(task.learning_rates)
    wall = statistics.median(turn["wall_seconds"] for turn in turns)
    peaks = [turn["peak_bytes"] for turn in turns if turn["peak_bytes"] is not None]
    return {
        "settings": dict(WAYS[name].settings),
        "wall_seconds_per_trial": wall / trials,
        "cpu_seconds_per_trial": statistics.median(turn["cpu_seconds"] for turn in turns) / trials,
        "tokens_per_second": tokens / wall,
        "peak_bytes": max(peaks, default=None),
        "peak_bytes_of_a_process": max(turn["peak_bytes_of_a_process"] for turn in turns),
    }


def _parts(turns: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """The median of each part; None where the parts were not measured."""
    measured = [parts for parts in turns if parts is not None]
    return {part: statistics.median(parts[part] for parts in measured) for part in measured[0]} if measured else None


def _ratios(own: Sequence[Turn], others: Sequence[Turn]) -> dict[str, list[float]]:
    return {
        kind: sorted(one[f"{kind}_seconds"] / other[f"{kind}_seconds"] for one, other in zip(own, others, strict=True))
        for kind in ("wall", "cpu")
    }


def _compared(
    turns: Sequence[Turn], lowrungs: Sequence[Sequence[float]], steps: Mapping[str, Any] | None
) -> tuple[list[float], list[str]]:
    """The difference of each loss from lowrung's, and what is to be said of those that are too large."""
    compared = [(f"{turn['way']}, pair {turn['pair']}", turn["losses"], lowrungs) for turn in turns]
    if steps:
        compared.append(("TRL's trainer, single steps", [steps["losses"]["stock"]], [steps["losses"]["lowrung"]]))
    differences: list[float] = []
    problems: list[str] = []
    for who, theirs, ours in compared:
        found, said = differing(who, theirs, ours)
        differences += found
        problems += said
    return differences, problems


def differing(
    who: str, theirs: Sequence[Sequence[float]], ours: Sequence[Sequence[float]]
) -> tuple[list[float], list[str]]:
    """Compares the losses of trials, step by step.

    Args:
        who: names the way and its turn.
        theirs: losses of each trial's steps.
        ours: lowrung's.

    Returns:
        the finite differences, and a sentence for each trial that differs.
    """
    if [len(trial) for trial in theirs] != [len(trial) for trial in ours]:
        return [], [f"{who}: {_shape(theirs)} were trained, and by lowrung {_shape(ours)}"]
    differences: list[float] = []
    problems: list[str] = []
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        each = [abs(loss - own) for loss, own in zip(one, other, strict=True)]
        differences += filter(math.isfinite, each)
        wrong = [step for step, difference in enumerate(each) if not difference <= TOLERANCE]  # a NaN is wrong too
        if wrong:
            first = wrong[0]
            problems.append(
                f"{who}, trial {number}: {len(wrong)} of {len(each)} losses differ by more than {TOLERANCE:g}, first at"
                f" step {first + 1}: {one[first]:.6f}, where lowrung's is {other[first]:.6f}"
            )
    return differences, problems


def _shape(losses: Sequence[Sequence[float]]) -> str:
    return f"{len(losses)} trials of {' and '.join(str(count) for count in sorted({len(one) for one in losses}))} steps"
