"""Training noise, from all trials of a sweep that were repeated with the same seeds.

Two or three seeds say little of one trial's noise, and 50 trials give chance many tries: where each comparison went by
its own two trials alone, a sweep of 50 equal trials with 3 seeds would call one worse in up to half of all cases. So
trials lend each other their variances, as in limma (Smyth 2004, doi:10.2202/1544-6115.1027): where the variances spread
no more than chance makes them, one is used for all; where they do, each keeps more of its own. A trial whose own
variance is the larger keeps it, so that a noisy one is not called better or worse than it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma, psi

from lowrung.comparison.paired import Runs, Sums
from lowrung.comparison.variances import Floats, Noise

UNUSUAL = 25.0
"""So many times the median variance is a trial's own matter. Chance does it to 1 of 1,000 with two seeds."""


@dataclass(frozen=True)
class TrainingNoise:
    """The training noise of a sweep's trials.

    Attributes:
        variances: of a run's metric from seed to seed, beside what a seed does to all trials; by the trial's place.
        common: the same of a trial that was not repeated.
        degrees: their degrees of freedom.
    """

    variances: Mapping[int, float]
    common: float
    degrees: float

    def of(self, one: int, other: int) -> Noise:
        """Of the difference of two runs of one seed."""
        return Noise(self.variances.get(one, self.common) + self.variances.get(other, self.common), self.degrees)


def training_noise(trials: Sequence[Runs], best: int) -> TrainingNoise | None:
    """The noise of the trials that have all of the best trial's seeds; None where it has one.

    The metric of trial k and seed s is a trial's effect and a seed's, and a residual r, whose variance is
    K / (K - 1) * sum r^2 / (S - 1) for each of the K trials with S seeds.

    Args:
        trials: each trial's runs, by seed.
        best: the place of the trial that the others are compared with.
    """
    seeds = sorted(trials[best])
    table = {}
    for place, runs in enumerate(trials):
        if set(seeds) <= set(runs) and np.isfinite(values := [_value(runs[seed]) for seed in seeds]).all():
            table[place] = values
    if len(seeds) < 2 or best not in table:
        return None
    if len(table) == 1:  # with what a seed does to all trials, which drops out of differences: rather too much
        alone = float(np.var(table[best], ddof=1))
        return TrainingNoise({best: alone}, alone, len(seeds) - 1)
    own, usual = _own(np.array(list(table.values())))
    freedom = len(seeds) - 1
    common, prior = _prior(own[usual], freedom)
    shared = np.full_like(own, common) if math.isinf(prior) else (prior * common + freedom * own) / (prior + freedom)
    degrees = min(prior + freedom, (usual.sum() - 1) * freedom)
    variances = dict(zip(table, np.maximum(own, shared).tolist(), strict=True))
    return TrainingNoise(variances, common, float(degrees))


def _own(table: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Each trial's variance over seeds, (trials,), and whether it is a usual one; the table is (trials, seeds).

    A trial that is five times as noisy as the middle one (one that is about to diverge, say) counts for itself alone:
    it would make each seed look as if it did much to all.
    """
    usual = np.ones(len(table), bool)
    own = _variances(table, usual)
    usual = own <= UNUSUAL * np.median(own)
    if usual.all() or usual.sum() < 2:
        return own, np.ones(len(table), bool)
    return _variances(table, usual), usual


def _variances(table: Floats, usual: NDArray[np.bool_]) -> Floats:
    """Of each trial over seeds, without what a seed does to the usual trials, which takes one of them (k / (k - 1))."""
    centred = table - table.mean(axis=1, keepdims=True)
    residuals = centred - centred[usual].mean(axis=0)
    count = usual.sum()
    lost = np.where(usual, count / (count - 1), 1.0)
    found: Floats = lost * np.square(residuals).sum(axis=1) / (table.shape[1] - 1)
    return found


def _value(run: Sums | float) -> float:
    if not isinstance(run, Sums):
        return float(run)
    denominator = np.sum(run.denominators)
    return float(np.sum(run.numerators) / denominator) if denominator > 0 else math.nan


def _prior(variances: Floats, freedom: int) -> tuple[float, float]:
    """The variance that trials have in common, and the degrees of freedom that it counts for (Smyth 2004, section 6.2).

    The logarithms of equal variances with f degrees of freedom have the variance trigamma(f / 2). What they spread
    beyond is trigamma(prior / 2).
    """
    if not variances.any():
        return 0.0, math.inf
    logs = np.log(np.maximum(variances, variances.mean() * 1e-5)) - psi(freedom / 2) + math.log(freedom / 2)
    beyond = logs.var(ddof=1) - polygamma(1, freedom / 2)
    if beyond <= 0:
        return float(variances.mean()), math.inf
    prior = 2 * _inverse_trigamma(beyond)
    return math.exp(logs.mean() + psi(prior / 2) - math.log(prior / 2)), prior


def _inverse_trigamma(value: float) -> float:
    """Where trigamma has this value, by Newton's method from below (Smyth 2004, appendix)."""
    found = 0.5 + 1 / value
    for _ in range(50):
        there = float(polygamma(1, found))
        step = there * (1 - there / value) / float(polygamma(2, found))
        found += step
        if -step / found < 1e-8:
            break
    return found
