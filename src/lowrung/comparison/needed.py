"""What it takes to see a difference: examples and seeds, the power of a comparison, and equality within a margin.

The variance of a difference has two parts (`lowrung.comparison.paired`): more held-out examples make one smaller, more
seeds the other, each in proportion. What n0 examples and S0 seeds have shown gives the interval at n and S:

    half-width = t * sqrt(of_examples * n0 / n + of_seeds * S0 / S)

The power, how often a true difference is found at all, is that of Student's t test: with F the noncentral t
distribution at the noncentrality true / standard error, and t the critical value, it is 1 - F(t) + F(-t) (Cohen,
Statistical Power Analysis, 2nd ed. 1988, chapter 2; Lehmann and Romano, Testing Statistical Hypotheses, 3rd ed. 2005,
5.3).
"""

import dataclasses
from collections.abc import Callable

from scipy.special import nctdtr, stdtrit

from lowrung.comparison.paired import LEVEL, Difference

MOST = 10**9
"""What would take more examples or seeds than this cannot be had by more."""


def examples_for(found: Difference, half_width: float) -> int | None:
    """How many held-out examples, with the same seeds, would make the interval as narrow.

    Returns:
        The least number; None where none would do, since training noise alone is larger, or where the metric has no
        sums of examples.
    """
    if not found.examples:
        return None
    return _least(lambda examples: with_more(found, examples=examples).half_width <= half_width)


def seeds_for(found: Difference, half_width: float) -> int | None:
    """How many seeds, with the same examples, would make the interval as narrow.

    Returns:
        The least number; None where none would do, since the examples alone leave more open, or where training noise
        is not known.
    """
    if not found.has_training_noise:
        return None
    return _least(lambda seeds: with_more(found, seeds=seeds).half_width <= half_width)


def with_more(found: Difference, *, examples: int | None = None, seeds: int | None = None) -> Difference:
    """The same difference, as it would be known from so many held-out examples or seeds, two or more."""
    examples, seeds = examples or found.examples, seeds or len(found.seeds)
    of_examples = found.of_examples * found.examples / max(1, examples)
    fewer = len(found.seeds) / seeds
    of_seeds = found.of_seeds * fewer
    examples_degrees = found.examples_degrees * (examples - 1) / (found.examples - 1)
    freedom = max(1, len(found.seeds) - 1) / max(1, seeds - 1)
    spread = of_examples**2 / examples_degrees + _spread_of_seeds(found) * fewer**2 * freedom
    return dataclasses.replace(
        found,
        of_examples=of_examples,
        of_seeds=of_seeds,
        examples_degrees=examples_degrees,
        degrees=(of_examples + of_seeds) ** 2 / spread if spread else found.degrees,
        examples=examples,
        seeds=range(seeds),  # a thousand million of them take no memory
    )


def power(found: Difference, true: float, *, level: float = LEVEL) -> float:
    """How often a comparison of this standard error finds a true difference, in a two-sided test at ``1 - level``."""
    if not found.standard_error:
        return float(true != 0)
    critical, shift = stdtrit(found.degrees, (1 + level) / 2), abs(true) / found.standard_error
    return float(1 - nctdtr(found.degrees, shift, critical) + nctdtr(found.degrees, shift, -critical))


def is_equal_within(found: Difference, margin: float, *, level: float = LEVEL) -> bool:
    """Whether the true difference is smaller than a margin, to either side.

    By two one-sided tests at ``1 - level`` (Schuirmann 1987, doi:10.1007/BF01068419): the interval at
    ``2 * level - 1``, 90% by default, must lie inside the margin. That no difference was found does not show it.
    """
    reach = found.standard_error * float(stdtrit(found.degrees, level))
    return abs(found.estimate) + reach < margin


def _spread_of_seeds(found: Difference) -> float:
    """What seeds add to Satterthwaite's sum, part^2 / degrees."""
    total = (found.of_examples + found.of_seeds) ** 2 / found.degrees
    return max(0.0, total - found.of_examples**2 / found.examples_degrees)


def _least(does: Callable[[int], bool]) -> int | None:
    """The least number from 2 that does, if every larger one does too."""
    if not does(MOST):
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high
