"""How runs fill the slots of a sweep."""

import heapq
from collections.abc import Sequence


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
