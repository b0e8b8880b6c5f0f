"""The Pareto set: the points that no other point is better than, where there are several objectives."""

import math
from collections.abc import Sequence


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other one dominates: none is as good in every cost and better in one.

    Equal points do not dominate each other. A point with a cost that is not finite is not in the set, and dominates
    none. In lexicographic order a point can be dominated by earlier ones only, and then by one of the set, so that n
    points take n comparisons with the set.

    Args:
        costs: the points (n, m), each with m costs, of which less is better.
    """
    is_in = [False] * len(costs)
    found: list[Sequence[float]] = []
    finite = [i for i, point in enumerate(costs) if all(map(math.isfinite, point))]
    for i in sorted(finite, key=lambda i: tuple(costs[i])):
        is_in[i] = not any(_dominates(other, costs[i]) for other in found)
        if is_in[i]:
            found.append(costs[i])
    return is_in


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))
