"""Doubts that the results raise: a best value at an edge, intervals that are too wide, differences below the noise."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from lowrung.comparison import needed
from lowrung.comparison.standings import Place, Standings
from lowrung.report.leaderboard import TrialRow, shown
from lowrung.report.trial_names import trials
from lowrung.store.outcome import Status

NEAR = 0.05
"""A drawn value is at an end of its interval where it is this near to it, as a share of the interval."""


def edges(
    rows: Sequence[TrialRow],
    ties: Sequence[TrialRow],
    intervals: Mapping[str, tuple[float, float, bool]],
    *,
    is_over: bool = True,
) -> list[str]:
    """Numeric settings whose best value is the smallest or the largest that was tried, a sentence each.

    Of several trials that tie, all must lie at the same end. An end that nothing can lie beyond is none: 0, and for
    whole numbers 1. Only trials of the same kind count, since a variant may have rates of its own.

    Args:
        rows: all trials.
        ties: the best one and those that tie with it.
        intervals: those that were searched, by key: low, high, and whether by orders of magnitude.
        is_over: whether all trials have ended that were asked for. As long as they have not, the ends of lists are not
            known: what lies beyond may be among the trials to come.
    """
    kinds = {_kind(row) for row in ties}
    ended = (row for row in rows if row.outcome.status not in (Status.FAILED, Status.CANCELLED, Status.SKIPPED))
    tried = [row for row in ended if _kind(row) in kinds]
    keys = dict.fromkeys(key for row in ties for key in row.point if not key.endswith("seed"))
    keys = {key: None for key in keys if is_over or key in intervals}
    return [sentence for key in keys for sentence in _edge(key, tried, ties, intervals.get(key))]


def too_wide(found: Standings, smallest: float | None) -> Iterator[str]:
    """Where a tie leaves open what was asked for, and how many held-out examples or seeds would do.

    Args:
        found: the standings.
        smallest: the smallest difference that matters; None does not ask.
    """
    ties = [one.found for one in found.of.values() if one.place is Place.TIE and one.found is not None]
    wide = [one for one in ties if smallest is not None and one.half_width > smallest]
    if not wide or smallest is None:
        return
    examples = [needed.examples_for(one, smallest) for one in wide]
    seeds = [needed.seeds_for(one, smallest) for one in wide]
    ways = []
    if all(examples):
        number = _rounded_up(max(filter(None, examples)))
        ways.append(f"about {number:,} held-out examples would do (data.eval_size={number})")
    if all(seeds):
        ways.append(f"{max(filter(None, seeds))} seeds" + ("" if ways else " would do"))
    yield (
        f"intervals of ties are up to ± {max(one.half_width for one in wide):.2g}, wider than"
        f" hydra.sweeper.difference={smallest:g}: {', or '.join(ways) or 'take more held-out examples and more seeds'}."
    )


def below_noise(found: Standings) -> Iterator[str]:
    """Trials that are worse by less than the difference varies from one seed to the next."""
    small = [
        number
        for number, one in found.of.items()
        if one.place is Place.WORSE and one.noise is not None and abs(one.difference or 0.0) < one.noise
    ]
    if small:
        yield (
            f"{trials(small)}: worse on the mean over seeds, but by less than seeds differ. One run with each"
            " will often show the opposite."
        )


def _rounded_up(number: int) -> int:
    """A number of two digits that is not smaller, since it is an estimate."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // unit) * unit


def _edge(
    key: str, tried: Sequence[TrialRow], ties: Sequence[TrialRow], interval: tuple[float, float, bool] | None
) -> Iterator[str]:
    best = [_number(row.point.get(key)) for row in ties]
    values = {value for row in tried if (value := _number(row.point.get(key))) is not None}
    if len(values) < 2 or any(value is None for value in best):
        return
    low, high = _ends(values, interval)
    text = ties[0].point[key]
    if all(value is not None and value >= high for value in best):
        yield _further(key, text, "largest", "larger", interval)
    elif all(value is not None and value <= low for value in best) and not _is_least(text):
        yield _further(key, text, "smallest", "smaller", interval)


def _further(key: str, text: str, most: str, more: str, interval: tuple[float, float, bool] | None) -> str:
    if interval is None:
        return f"{key}={shown(text)} is the {most} that was tried: try {more} ones."
    end = "upper" if most == "largest" else "lower"
    return (
        f"{key}={shown(text)} is near the {end} end of its interval ({interval[most == 'largest']:g}): try {more} ones."
    )


def _ends(values: Collection[float], interval: tuple[float, float, bool] | None) -> tuple[float, float]:
    """Where the lower end begins and the upper one."""
    if interval is None:
        return min(values), max(values)
    low, high, is_log = interval
    if is_log:
        margin = (high / low) ** NEAR
        return low * margin, high / margin
    margin = NEAR * (high - low)
    return low + margin, high - margin


def _kind(row: TrialRow) -> frozenset[tuple[str, str]]:
    """What a trial has that is no number."""
    return frozenset((key, text) for key, text in row.point.items() if _number(text) is None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_least(text: str) -> bool:
    return float(text) == 0 or text.strip() == "1"
