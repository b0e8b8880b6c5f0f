"""The parts of a difference's variance: what examples, seeds, and both together add (`lowrung.comparison.paired`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """What is known of training noise from more trials than the two that are compared (`lowrung.comparison.noise`).

    Attributes:
        variance: of the difference of two runs of one seed, from seed to seed.
        degrees: its degrees of freedom.
    """

    variance: float
    degrees: float


def freedom_of_ratio(tokens: Floats) -> float:
    """Bell and McCaffrey's degrees of freedom of V_examples, (trace A)^2 / trace A^2.

    V_examples is a quadratic form in independent examples whose variance grows with their tokens. Its matrix A is
    P W P with P = I - q q', q = sqrt(h), and W = diag(h / (1 - h)^2), so that the traces are sums over examples.
    """
    share = tokens / tokens.sum()
    weight = share / (1 - share) ** 2
    trace = (weight * (1 - share)).sum()
    squared = np.square(weight).sum() - 2 * (share * weight**2).sum() + (share * weight).sum() ** 2
    return float(trace**2 / squared)


def of_seed_means(parts: Sequence[Floats], noise: Noise | None) -> Noise | None:
    """Of the mean over seeds; the parts, (seeds,) each, are independent. None where no seed is repeated.

    Noise of other trials is without what a seed does to all, which only drops out where seeds pair (one part).
    """
    if noise is not None and len(parts) == 1:
        return Noise(noise.variance / len(parts[0]), noise.degrees)
    if min(map(len, parts)) < 2:
        return None
    variances = [(float(part.var(ddof=1)) / len(part), len(part) - 1) for part in parts]
    total = sum(variance for variance, _ in variances)
    return Noise(total, satterthwaite(total, *variances))


def satterthwaite(total: float, *parts: tuple[float, float]) -> float:
    """Degrees of freedom of a variance that is made of independent parts, total^2 / sum (part^2 / degrees).

    Args:
        total: the variance.
        parts: each part's variance and degrees of freedom.
    """
    spread = sum(variance**2 / degrees for variance, degrees in parts)
    return total**2 / spread if spread else min(degrees for _, degrees in parts)


def together(residual: Floats) -> float:
    """The sum of squares of what is neither an example's nor a seed's own, (seeds, n), for the mean over seeds."""
    seeds = len(residual)
    if seeds < 2:
        return 0.0
    return float(np.square(residual - residual.mean(axis=0)).sum()) / (seeds * (seeds - 1))
