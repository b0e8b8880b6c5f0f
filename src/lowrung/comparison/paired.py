"""The difference of two trials, paired by held-out example and by seed, with its interval.

The estimate is a ratio of sums: with d the difference of an example's numerators and t its denominator (its labelled
tokens, say), D = sum d / sum t; with several seeds it is the mean over them. Examples are clusters of tokens. The
variance of the ratio comes from the residuals e = d - D t (Cochran, Sampling Techniques, 3rd ed. 1977, 6.8), each
taken as if its example had been left out, since long examples pull D towards themselves (the jackknife, CR3 in Bell and
McCaffrey 2002, Survey Methodology 28(2)). With h = t / sum t:

    V_examples = (n - 1) / n * sum (e / (1 - h))^2 / (sum t)^2

Where all examples are equally long, this is n / (n - 1) * sum e^2 / (sum t)^2, as in the t test. The degrees of freedom
are Bell and McCaffrey's: n - 1 for equal lengths, and fewer for unequal ones.

Training noise is what another seed changes. The variance over both, examples and seeds, is that of two-way clusters
(Cameron, Gelbach and Miller 2011, doi:10.1198/jbes.2010.07136), where what an example and a seed do together is not
counted twice:

    V = V_examples + max(0, V_seeds - V_both)

The interval is Student's t. For several seeds its degrees of freedom are Satterthwaite's (1946, doi:10.2307/3002019):
V^2 / (V_examples^2 / degrees + V_seeds^2 / (seeds - 1)). docs/comparison.md says what simulations show of it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from lowrung.comparison.variances import Floats, Noise, freedom_of_ratio, of_seed_means, satterthwaite, together
from lowrung.errors import LowrungError

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

    numerators: Floats
    denominators: Floats
    unit: float = 0.0


Runs = Mapping[int, Sums | float]
"""A trial's runs by seed: the sums of each run, or of a metric that has no sums its value."""


@dataclass(frozen=True)
class Difference:
    """One trial's metric minus another's.

    Attributes:
        estimate: the difference.
        of_examples: the part of its variance that more held-out examples make smaller; 0 for a metric without sums.
        of_seeds: the part that more seeds make smaller; 0 with one seed, where it is not known.
        examples_degrees: degrees of freedom of the first part alone.
        degrees: degrees of freedom of both together.
        examples: the held-out examples that were compared; 0 for a metric without sums.
        seeds: of the runs that were compared.
        has_training_noise: whether the interval holds what another seed would change; with one seed it cannot.
        level: how often such an interval holds the true difference.
    """

    estimate: float
    of_examples: float
    of_seeds: float
    examples_degrees: float
    degrees: float
    examples: int
    seeds: Sequence[int]
    has_training_noise: bool
    level: float = LEVEL

    @property
    def standard_error(self) -> float:
        """The root of the variance."""
        return math.sqrt(self.of_examples + self.of_seeds)

    @property
    def half_width(self) -> float:
        """Of the interval around the estimate."""
        return self.standard_error * float(stdtrit(self.degrees, (1 + self.level) / 2))

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.estimate + self.half_width

    @property
    def p_value(self) -> float:
        """How often two trials that are equally good would differ so much, to either side."""
        if not self.standard_error:  # every example has the same difference
            return float(self.estimate == 0)
        return 2 * float(stdtr(self.degrees, -abs(self.estimate) / self.standard_error))


def difference(one: Runs, other: Runs, *, level: float = LEVEL, noise: Noise | None = None) -> Difference:
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
        noise: the training noise, where more than these two trials show it; without it, these two alone do.

    Raises:
        NotComparable: when there are fewer than two examples, or without sums fewer than two seeds; when the data
            differ; when a sum is not finite.
    """
    if not one or not other:
        raise NotComparable("A trial has no run to compare.")
    common = sorted(set(one) & set(other))
    sides = [[runs[seed] for seed in common or sorted(runs)] for runs in (one, other)]
    values = [[run for run in side if not isinstance(run, Sums)] for side in sides]
    sums = [[run for run in side if isinstance(run, Sums)] for side in sides]
    if any(sums) and any(values):
        raise NotComparable("Some runs have sums of each held-out example, and others have none.")
    found = _of_sums(sums, bool(common), noise) if any(sums) else _of_values(values, bool(common), noise)
    return dataclasses.replace(found, level=level, seeds=tuple(common or sorted({*one, *other})))


def _of_sums(sides: Sequence[Sequence[Sums]], is_paired: bool, noise: Noise | None) -> Difference:
    tokens, stacks = _stacked(sides)
    parts = [stacks[0] - stacks[1]] if is_paired else [stacks[0], -stacks[1]]
    each_seed = [part.sum(axis=1) / tokens.sum() for part in parts]
    left_out = 1 - tokens / tokens.sum()
    residuals = [(part - np.outer(of, tokens)) / left_out for part, of in zip(parts, each_seed, strict=True)]
    scale = (len(tokens) - 1) / len(tokens) / tokens.sum() ** 2
    counted = 2 * max(run.unit for side in sides for run in side) ** 2 / tokens.sum() ** 2
    of_examples = float(scale * np.square(sum(residual.mean(axis=0) for residual in residuals)).sum() + counted)
    both = float(scale) * sum(map(together, residuals))
    value, degrees, n = float(sum(of.mean() for of in each_seed)), freedom_of_ratio(tokens), len(tokens)
    seeds = of_seed_means(each_seed, noise)
    if seeds is None:
        return Difference(value, of_examples, 0.0, degrees, degrees, n, (), has_training_noise=False)
    of_seeds = max(0.0, seeds.variance - both)
    freedom = satterthwaite(of_examples + of_seeds, (of_examples, degrees), (seeds.variance, seeds.degrees))
    return Difference(value, of_examples, of_seeds, degrees, freedom, n, (), has_training_noise=True)


def _of_values(sides: Sequence[Sequence[float]], is_paired: bool, noise: Noise | None) -> Difference:
    one, other = (np.asarray(side, np.float64) for side in sides)
    parts = [one - other] if is_paired else [one, -other]
    if not all(np.isfinite(part).all() for part in parts):
        raise NotComparable("A run's value is not finite, as after a divergence.")
    seeds = of_seed_means(parts, noise)
    if seeds is None:
        raise NotComparable("At least 2 seeds are needed to compare what has one value a run, but there is 1.")
    value, degrees = float(sum(part.mean() for part in parts)), seeds.degrees
    return Difference(value, 0.0, seeds.variance, degrees, degrees, 0, (), has_training_noise=True)


def _stacked(sides: Sequence[Sequence[Sums]]) -> tuple[Floats, list[Floats]]:
    """The denominators that all runs share (n,), and each side's numerators (seeds, n), of examples that say anything.

    Raises:
        NotComparable: as `difference` says.
    """
    tokens = np.asarray(sides[0][0].denominators, np.float64)
    for side in sides:
        for run in side:
            _check(run, tokens)
    counted = tokens > 0
    if counted.sum() < 2:
        raise NotComparable(f"At least 2 held-out examples are needed to compare, but there are {counted.sum()}.")
    stacks = [np.stack([np.asarray(run.numerators, np.float64)[counted] for run in side]) for side in sides]
    return tokens[counted], stacks


def _check(run: Sums, tokens: Floats) -> None:
    own, numerators = np.asarray(run.denominators, np.float64), np.asarray(run.numerators, np.float64)
    if own.ndim != 1 or numerators.shape != own.shape:
        raise NotComparable(f"A run has sums of shapes {numerators.shape} and {own.shape}, where both must be (n,).")
    if not (np.isfinite(own).all() and np.isfinite(numerators).all()):
        raise NotComparable("A run's sums are not finite, as after a divergence.")
    if (own < 0).any() or (numerators[own == 0] != 0).any():
        raise NotComparable("A run has a sum of an example that has no token or answer.")
    if own.shape != tokens.shape:
        raise NotComparable(f"The runs have other held-out data: {len(tokens)} and {len(own)} examples.")
    if (own != tokens).any():
        raise NotComparable("The runs have other held-out data: their examples differ in length.")
