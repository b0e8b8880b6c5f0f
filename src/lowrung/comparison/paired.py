"""The difference of two trials, paired by held-out example and by seed, with its interval.

The estimate is a ratio of sums: with d the difference of an example's numerators and t its denominator (its labelled
tokens, say), D = sum d / sum t; with several seeds it is the mean over them. Examples are clusters of tokens. The
linearised variance of a ratio (Cochran, Sampling Techniques, 3rd ed. 1977, 6.8) comes from the residuals
e = d - D t:

    V_examples = n / (n - 1) * sum e^2 / (sum t)^2

Training noise is what seeds add. The variance over both, examples and seeds, is that of two-way clusters (Cameron,
Gelbach, Miller 2011, doi:10.1198/jbes.2010.07136), where what an example and a seed do together is not counted twice:

    V = V_examples + max(0, V_seeds - V_both)

The interval is Student's t, with n - 1 degrees of freedom for one seed and Satterthwaite's (1946,
doi:10.2307/3002019) for several. docs/comparison.md says what simulations show of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from lowrung.errors import LowrungError

Floats = NDArray[np.float64]

LEVEL = 0.95
"""How often an interval holds the true difference."""


class NotComparable(LowrungError, ValueError):  # noqa: N818  (it names a state)
    """The data do not allow to compare two trials; the message is one sentence that says why."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What one run's sums are for each held-out example, in the data's order.

    Attributes:
        numerators: (n,), such as the negative log-likelihood of an example's labelled tokens, its right tokens, or its
            score.
        denominators: (n,), what they are divided by: the labelled tokens, or ones for a score of whole answers. An
            example with 0 of them says nothing.
        unit: the most that one right token or answer adds to a numerator (1 for accuracy and exact match), and 0 for a
            loss. Two runs with the same few right answers need not be equally good. See `difference`.
    """

    numerators: ArrayLike
    denominators: ArrayLike
    unit: float = 0.0


Runs = Mapping[int, Sums | float]
"""A trial's runs by seed: the sums of each run, or of a metric that has no sums its value."""


@dataclass(frozen=True)
class Difference:
    """One trial's metric minus another's.

    Attributes:
        estimate: the difference.
        standard_error: its standard error.
        degrees: degrees of freedom of t.
        level: how often such an interval holds the true difference.
        half_width: of the interval around the estimate at this level.
        p_value: how often so large a difference, to either side, would be seen of two trials that are equally good.
        examples: the held-out examples that were compared; 0 for a metric without sums.
        seeds: the seeds of the runs that were compared.
        has_training_noise: whether the interval holds what another seed would change; with one seed it cannot.
    """

    estimate: float
    standard_error: float
    degrees: float
    level: float
    half_width: float
    p_value: float
    examples: int
    seeds: tuple[int, ...]
    has_training_noise: bool

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.estimate + self.half_width


def difference(one: Runs, other: Runs, *, level: float = LEVEL) -> Difference:
    """How much one trial's metric is above another's, and how sure that is.

    Runs of the seeds that both trials have are compared, seed by seed. Where they have none in common, the means of
    all of them are compared: examples still pair, and seeds count as independent (Welch 1947, doi:10.2307/2332510).
    A metric without sums, only one value a run, goes by Student's t over the seeds.

    Where right answers are counted (`Sums.unit`), two pseudo-examples are added to the sum of squares, one won and one
    lost (Bonett and Price 2012, doi:10.3102/1076998611411915): without a single example in which two runs differ,
    their rates may still differ by some 3 / n.

    Args:
        one: a trial's runs, by seed.
        other: another trial's runs, by seed, of the same held-out data.
        level: of the interval.

    Raises:
        NotComparable: when there are fewer than two examples, or without sums fewer than two seeds; when the data
            differ; when a sum is not finite.
    """
    if not one or not other:
        raise NotComparable("A trial has no run to compare.")
    seeds = sorted(set(one) & set(other))
    sides = [[one[seed] for seed in seeds or sorted(one)], [other[seed] for seed in seeds or sorted(other)]]
    named = tuple(seeds) or tuple(sorted({*one, *other}))
    values = [[run for run in side if not isinstance(run, Sums)] for side in sides]
    sums = [[run for run in side if isinstance(run, Sums)] for side in sides]
    if not any(sums):
        return _of_values(values, named, is_paired=bool(seeds), level=level)
    if any(values):
        raise NotComparable("Some runs have sums of each held-out example, and others have none.")
    tokens, stacks = _stacked(sums)
    parts = [stacks[0] - stacks[1]] if seeds else [stacks[0], -stacks[1]]
    unit = max(run.unit for side in sums for run in side)
    return _of_sums(parts, tokens, unit, named, level)


def _stacked(sides: Sequence[Sequence[Sums]]) -> tuple[Floats, list[Floats]]:
    """The denominators that all runs share (n,), and each side's numerators (seeds, n), of examples that say anything.

    Raises:
        NotComparable: as `difference` says.
    """
    runs = [run for side in sides for run in side]
    tokens = np.asarray(runs[0].denominators, np.float64)
    numerators = [[np.asarray(run.numerators, np.float64) for run in side] for side in sides]
    for run in runs:
        _check(run, tokens)
    counted = tokens > 0
    if counted.sum() < 2:
        raise NotComparable(f"At least 2 held-out examples are needed to compare, but there are {counted.sum()}.")
    return tokens[counted], [np.stack(side)[:, counted] for side in numerators]


def _check(run: Sums, tokens: Floats) -> None:
    own, numerators = np.asarray(run.denominators, np.float64), np.asarray(run.numerators, np.float64)
    if own.ndim != 1 or numerators.shape != own.shape:
        raise NotComparable(f"A run has sums of other shapes, {numerators.shape} and {own.shape}, than (n,) and (n,).")
    if not (np.isfinite(own).all() and np.isfinite(numerators).all()):
        raise NotComparable("A run's sums are not finite, as after a divergence.")
    if (own < 0).any() or (numerators[own == 0] != 0).any():
        raise NotComparable("A run has sums of examples without a single token or answer.")
    if own.shape != tokens.shape:
        raise NotComparable(f"The runs have other held-out data: {len(tokens)} and {len(own)} examples.")
    if (own != tokens).any():
        raise NotComparable("The runs have other held-out data: their examples differ in length.")


def _of_sums(parts: Sequence[Floats], tokens: Floats, unit: float, seeds: tuple[int, ...], level: float) -> Difference:
    """The difference of what paired (one part) or independent seeds (two) add up to; each part is (seeds, n)."""
    total, n = tokens.sum(), len(tokens)
    each_seed = [part.sum(axis=1) / total for part in parts]
    residuals = [part - np.outer(of_seeds, tokens) for part, of_seeds in zip(parts, each_seed, strict=True)]
    mean_residual = np.sum([residual.mean(axis=0) for residual in residuals], axis=0)
    of_examples = (n / (n - 1) * np.square(mean_residual).sum() + 2 * unit**2) / total**2
    estimate = float(sum(of_seeds.mean() for of_seeds in each_seed))
    if min(len(part) for part in parts) < 2:
        return _interval(estimate, of_examples, n - 1, level, n, seeds, has_training_noise=False)
    of_seeds, seeds_degrees = _seed_variance(each_seed)
    both = sum(_both(residual) for residual in residuals) * n / (n - 1) / total**2
    training_noise = max(0.0, of_seeds - both)
    variance = of_examples + training_noise
    degrees = _satterthwaite([of_examples, training_noise], [n - 1, seeds_degrees])
    return _interval(estimate, variance, degrees, level, n, seeds, has_training_noise=True)


def _of_values(
    sides: Sequence[Sequence[float]], seeds: tuple[int, ...], *, is_paired: bool, level: float
) -> Difference:
    """The difference of a metric of which each run has one value."""
    one, other = (np.asarray(side, np.float64) for side in sides)
    parts = [one - other] if is_paired else [one, -other]
    if not all(np.isfinite(part).all() for part in parts):
        raise NotComparable("A run's value is not finite, as after a divergence.")
    if min(map(len, parts)) < 2:
        raise NotComparable("At least 2 seeds are needed to compare what has one value a run, but there is 1.")
    variance, degrees = _seed_variance(parts)
    estimate = float(sum(part.mean() for part in parts))
    return _interval(estimate, variance, degrees, level, 0, seeds, has_training_noise=True)


def _seed_variance(parts: Sequence[Floats]) -> tuple[float, float]:
    """Of the mean over seeds, (seeds,) each, and its degrees of freedom; the parts are independent."""
    variances = [float(part.var(ddof=1)) / len(part) for part in parts]
    return sum(variances), _satterthwaite(variances, [len(part) - 1 for part in parts])


def _both(residual: Floats) -> float:
    """The sum of squares of what is neither an example's nor a seed's own, (seeds, n), for the mean over seeds."""
    seeds = len(residual)
    return float(np.square(residual - residual.mean(axis=0)).sum()) / (seeds * (seeds - 1))


def _satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """The degrees of freedom of a sum of independent variances: (sum v)^2 / sum (v^2 / degrees)."""
    total = sum(variances)
    if total == 0:
        return min(degrees)
    return 1 / sum((variance / total) ** 2 / of for variance, of in zip(variances, degrees, strict=True))


def _interval(
    estimate: float,
    variance: float,
    degrees: float,
    level: float,
    examples: int,
    seeds: tuple[int, ...],
    *,
    has_training_noise: bool,
) -> Difference:
    error = math.sqrt(variance)
    # without an error, every example has the same difference
    p_value = 2 * float(stdtr(degrees, -abs(estimate) / error)) if error else float(estimate == 0)
    return Difference(
        estimate=estimate,
        standard_error=error,
        degrees=float(degrees),
        level=level,
        half_width=error * float(stdtrit(degrees, (1 + level) / 2)),
        p_value=p_value,
        examples=examples,
        seeds=seeds,
        has_training_noise=has_training_noise,
    )
