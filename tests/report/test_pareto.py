"""The Pareto set against its definition."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lowrung.report import pareto


def by_definition(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Compares each pair."""
    pairs = [[list(zip(other, one, strict=True)) for other in costs] for one in costs]
    return [
        not any(all(a <= b for a, b in both) and any(a < b for a, b in both) for both in others) for others in pairs
    ]


@pytest.mark.parametrize("n_costs", [1, 2, 3, 5])
def test_points_drawn_at_random_with_many_ties(n_costs):
    costs = np.random.default_rng(n_costs).integers(0, 6, size=(60, n_costs)).tolist()
    assert pareto.front(costs) == by_definition(costs)
    assert 0 < sum(pareto.front(costs)) < 60


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], []),
        ([(1.0, 2.0)], [True]),
        ([(1.0, 2.0), (2.0, 1.0)], [True, True]),
        ([(1.0, 2.0), (1.0, 2.0)], [True, True]),
        ([(1.0, 2.0), (1.0, 3.0)], [True, False]),
        ([(-0.0, 1.0), (0.0, 1.0)], [True, True]),
        ([(math.nan, 0.0), (1.0, 1.0)], [False, True]),
        ([(-math.inf, 0.0), (1.0, 1.0)], [False, True]),
        ([(math.inf, 0.0), (math.nan, 0.0)], [False, False]),
    ],
)
def test_what_ties_and_what_is_not_finite(costs, expected):
    assert pareto.front(costs) == expected
