"""Which trials of a sweep are worse than its best, and which tie with it.

The best trial was chosen by the same numbers, so that it looks better than it is. Of K equal trials, the difference
that matters is the range from the first to the last, which is one of K (K - 1) / 2 pairs (Tukey). To correct for the
K - 1 comparisons with the best alone would say "worse" wrongly in more than 5 of 100 sweeps.

So p-values are corrected for all pairs, in steps as Holm's (1979, https://www.jstor.org/stable/4615733): the trial that
differs most clearly from the best is tested at 0.05 / (K (K - 1) / 2). If it is worse, it is set aside, and the next
one is tested among the k = K - 1 that are left, at 0.05 / (k (k - 1) / 2), until one is not. A first error can only be
made among trials that are no worse than the best, and these are all left then (Goeman and Solari 2010,
doi:10.1214/10-AOS829). docs/comparison.md has the argument, and what simulations show.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lowrung.comparison.noise import training_noise
from lowrung.comparison.paired import LEVEL, Difference, NotComparable, Runs, difference
from lowrung.comparison.variances import Noise


@dataclass(frozen=True)
class Judgement:
    """What the data say of a trial against the best.

    Attributes:
        difference: the trial's metric minus the best's; its interval is not corrected. None where they cannot be
            compared, and for the best itself.
        p_value: of the difference, corrected for the choice of the best among all trials.
        is_tie: whether the trial cannot be told from the best. The best ties with itself. False where the two
            cannot be compared.
        reason: why the two cannot be compared, one sentence; otherwise empty.
    """

    difference: Difference | None
    p_value: float
    is_tie: bool
    reason: str = ""


def against_best(trials: Sequence[Runs], best: int, *, level: float = LEVEL) -> list[Judgement]:
    """Each trial against the best of them, which was chosen by the same metric.

    Where the best was repeated with other seeds, and others with the same ones, all of them show how large training
    noise is (`lowrung.comparison.noise`), and the comparison with a trial of a single seed holds it too.

    Args:
        trials: each trial's runs, by seed.
        best: which of them is the best.
        level: of the intervals. In ``1 - level`` of sweeps at most, a trial is said to differ that is as good.

    Returns:
        One judgement for each trial, in their order.
    """
    shared = training_noise(trials, best)
    noise = [shared.of(index, best) if shared else None for index in range(len(trials))]
    found = [
        _compared(runs, trials[best], level, noise[index]) if index != best else None
        for index, runs in enumerate(trials)
    ]
    compared = {index: one for index, one in enumerate(found) if isinstance(one, Difference)}
    adjusted = _adjusted({index: one.p_value for index, one in compared.items()})
    return [_judgement(one, adjusted.get(index, 1.0), level) for index, one in enumerate(found)]


def _compared(runs: Runs, best: Runs, level: float, noise: Noise | None) -> Difference | NotComparable:
    try:
        return difference(runs, best, level=level, noise=noise)
    except NotComparable as error:
        return error


def _adjusted(p_values: dict[int, float]) -> dict[int, float]:
    """p-values as steps correct them: each times the number of pairs of the trials that are left then."""
    adjusted, largest = {}, 0.0
    for place, index in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        left = len(p_values) + 1 - place  # with the best
        largest = max(largest, min(1.0, p_values[index] * left * (left - 1) / 2))
        adjusted[index] = largest
    return adjusted


def _judgement(found: Difference | NotComparable | None, p_value: float, level: float) -> Judgement:
    if isinstance(found, NotComparable):
        return Judgement(None, 1.0, is_tie=False, reason=str(found))
    return Judgement(found, p_value, is_tie=p_value > 1 - level)
