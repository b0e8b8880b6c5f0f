"""How runs fill the slots and the disk of a sweep."""

import dataclasses
import heapq
from collections.abc import Sequence
from datetime import datetime, timedelta

from lowrung.costs.prediction import Prediction
from lowrung.report.planned import PlannedStage, PlannedTime
from lowrung.sweeps.predicting import is_time_known


@dataclasses.dataclass(frozen=True)
class Left:
    """A run that is left.

    Attributes:
        found: what all of it takes; None where that is not known.
        share: of it that is left: less than 1 where it goes on from a checkpoint.
    """

    found: Prediction | None
    share: float


def end_of(seconds: Sequence[float], slots: int) -> float:
    """When the last run ends, if each starts in its turn as soon as a slot is free.

    Args:
        seconds: of each run, in order.
        slots: how many run at a time.
    """
    free = [0.0] * min(slots, max(len(seconds), 1))
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def time(
    left: Sequence[Left], stages: Sequence[PlannedStage], slots: int, source: str, *, at_most: bool
) -> PlannedTime | None:
    """Until the end, were the sweep started now; None where it is not known. A stage waits for the one before.

    Args:
        left: the runs of the first stage, in order.
        stages: the others.
        slots: how many run at a time.
        source: where the speed is from.
        at_most: whether runs may take less.
    """
    known = [one.found.seconds * one.share for one in left if one.found is not None]
    if not is_time_known() or len(known) < len(left) or any(stage.seconds is None for stage in stages):
        return None
    later = [[(stage.seconds or 0.0) / max(stage.runs, 1)] * stage.runs for stage in stages]
    seconds = sum(end_of(each, slots) for each in [known, *later])
    busy = sum(map(sum, [known, *later]))
    end = datetime.now().astimezone() + timedelta(seconds=seconds)
    return PlannedTime(
        seconds=seconds,
        at_most=at_most,
        ends=end.isoformat("T", "seconds") if seconds else None,
        idle=1 - busy / (seconds * slots) if seconds else 0.0,
        source=source,
    )


def disk(left: Sequence[Left], stages: Sequence[PlannedStage], most: float) -> float | None:
    """Bytes that all runs leave at most; None where it is not known.

    Args:
        left: the runs of the first stage.
        stages: the others.
        most: that a run leaves.
    """
    known = [one.found.disk_bytes for one in left if one.found is not None]
    return sum(known) + most * sum(stage.runs for stage in stages) if len(known) == len(left) else None
