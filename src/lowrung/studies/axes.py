"""The axes of a study: what was searched, as its database or its leaderboard has it."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lowrung.report.record import Axis, StudyRecord
from lowrung.search import axes
from lowrung.store.outcome import Status


def searched(known: Sequence[axes.Axis], points: Sequence[Mapping[str, str]]) -> list[Axis]:
    """The axes, in the order in which they were given; a key with one value is none.

    Args:
        known: as the database has them; none where there is no database.
        points: of the trials, as text: other keys are theirs.
    """
    found = [_of(axis) for axis in known]
    keys = dict.fromkeys(key for point in points for key in point if key not in {axis.key for axis in known})
    found += [_listed(key, (point[key] for point in points if key in point)) for key in keys]
    return [axis for axis in found if axis.low is not None or len(axis.values) > 1]


def importance(study: StudyRecord) -> dict[str, float]:
    """How much each axis matters for the first objective, of complete trials that keep to the constraints.

    Those of one stage alone, the one with most of them: between stages more than the axes may change.
    """
    from lowrung.search import importance as of_search

    name, direction = next(iter(study.objectives.items()))
    kept = [trial for trial in study.trials if trial.status is Status.COMPLETE and not trial.broken]
    kept = [trial for trial in kept if name in trial.metrics]
    stages = Counter(trial.stage for trial in kept)
    kept = [trial for trial in kept if trial.stage == max(stages, key=lambda stage: stages[stage])]
    intervals = {
        axis.key: (axis.low, axis.high, axis.is_log)
        for axis in study.axes
        if axis.low is not None and axis.high is not None
    }
    keys = {axis.key for axis in study.axes}
    points = [{key: text for key, text in trial.point.items() if key in keys} for trial in kept]
    values = [trial.metrics[name] for trial in kept]
    return of_search.of(points, values, is_maximised=direction == "maximize", intervals=intervals)


def _of(axis: axes.Axis) -> Axis:
    if isinstance(axis, axes.Choice):
        return _listed(axis.key, axis.texts)
    return Axis(axis.key, low=axis.low, high=axis.high, is_log=axis.log)


def _listed(key: str, texts: Iterable[str]) -> Axis:
    values = list(dict.fromkeys(texts))
    numbers = [_number(text) for text in values]
    known = [number for number in numbers if number is not None]
    if len(known) < len(values):
        return Axis(key, values)
    ordered = [text for _, text in sorted(zip(known, values, strict=True))]
    return Axis(key, ordered, is_log=_grow_by_factors(sorted(known)))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _grow_by_factors(values: Sequence[float]) -> bool:
    """Whether values are spread evenly on a log scale rather than on a plain one: 4, 8, 16, and 1e-4, 3e-4, 1e-3."""
    if len(values) < 2 or values[0] <= 0 or values[-1] / values[0] < 3:
        return False
    if len(values) == 2:
        return values[-1] / values[0] >= 4
    logs = [math.log(value) for value in values]
    return _unevenness(logs) < _unevenness(values)


def _unevenness(values: Sequence[float]) -> float:
    """The largest gap between neighbours over the smallest one."""
    gaps = [high - low for low, high in itertools.pairwise(values)]
    return max(gaps) / min(gaps) if min(gaps) > 0 else math.inf
