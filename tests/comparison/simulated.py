"""Sweeps with a known truth. ``python -m tests.comparison.simulated`` prints the tables of docs/comparison.md.

It takes some ten minutes. ``coverage``, ``power`` and ``errors`` behind it print one table each.
"""

import dataclasses
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrung.comparison.best import against_best
from lowrung.comparison.needed import power
from lowrung.comparison.paired import Difference, Sums, difference


@dataclass(frozen=True)
class Cell:
    """What is simulated: a run's mean of an example is the example's own, which all runs share, and what is drawn.

    Attributes:
        means: of the trials, the truth. Here and below, 1 is the standard error that `example` = 1 gives a difference.
        examples: held-out examples.
        seeds: runs of each trial.
        example: what a trial does to an example with every seed: the standard error of a difference from it.
        seed: what a seed does to a trial in all examples: the standard error from it, for one seed.
        both: what they do together: the standard error from it, for one seed.
        tails: normal, t3 (Student's with 3 degrees, of variance 1), skewed (exponential), or lopsided: the same, where
            the first trial has none of it, so that differences are as skewed.
        lengths: the standard deviation of the logarithm of an example's tokens.
        spread: the same of the trials' noise from seed to seed.
    """

    means: tuple[float, ...] = (0.0, 0.7)
    examples: int = 60
    seeds: int = 1
    example: float = 1.0
    seed: float = 0.0
    both: float = 0.0
    tails: str = "normal"
    lengths: float = 0.5
    spread: float = 0.0

    def draw(self, rng: np.random.Generator) -> list[dict[int, Sums]]:
        """One sweep: a list of trials."""
        trials, n = len(self.means), self.examples
        tokens = np.maximum(1, np.round(16 * np.exp(rng.normal(0, self.lengths, n))))
        own = np.exp(rng.normal(0, self.spread, (trials, 1, 1)))
        parts = [
            rng.normal(3, 1, n),
            np.reshape(self.means, (-1, 1, 1)),
            self.example * math.sqrt(n) * self._drawn(rng, (trials, 1, n)),
            self.seed * own * self._drawn(rng, (trials, self.seeds, 1)),
            self.both * math.sqrt(n) * self._drawn(rng, (trials, self.seeds, n)),
        ]
        rates: Any = sum(parts)
        return [{seed: Sums(run * tokens, tokens) for seed, run in enumerate(trial)} for trial in rates]

    def _drawn(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> Any:
        """With half of a difference's variance, which is 1."""
        match self.tails:
            case "normal":
                drawn: Any = rng.standard_normal(shape)
            case "t3":
                drawn = rng.standard_t(3, shape) / math.sqrt(3)
            case "skewed":
                drawn = rng.exponential(1, shape) - 1
            case _:
                drawn = math.sqrt(2) * (rng.exponential(1, shape) - 1)
                drawn[0] = 0
        return drawn / math.sqrt(2)


def covered(cell: Cell, times: int, seed: int = 0) -> float:
    """In how many of 100 the interval of the second trial minus the first holds the true difference."""
    rng, held = np.random.default_rng(seed), 0
    for _ in range(times):
        one, other = cell.draw(rng)
        found = difference(other, one)
        held += found.low <= cell.means[1] - cell.means[0] <= found.high
    return 100 * held / times


def wrong(cell: Cell, times: int, seed: int = 0) -> float:
    """In how many of 100 sweeps a trial that is no worse is called different from the best, the lowest."""
    rng, found = np.random.default_rng(seed), 0
    for _ in range(times):
        trials = cell.draw(rng)
        best = int(np.argmin([np.sum([run.numerators for run in trial.values()]) for trial in trials]))
        said = against_best(trials, best)
        found += any(not one.is_tie and cell.means[place] <= cell.means[best] for place, one in enumerate(said))
    return 100 * found / times


def seen(cell: Cell, times: int, seed: int = 0) -> tuple[float, float]:
    """In how many of 100 the difference of two trials is found, and in how many the formula says at its true error."""
    rng = np.random.default_rng(seed)
    found: list[Difference] = []
    for _ in range(times):
        one, other = cell.draw(rng)
        found.append(difference(other, one))
    variance = float(np.var([one.estimate for one in found]))
    degrees = float(np.median([one.degrees for one in found]))
    true = dataclasses.replace(found[0], of_examples=variance, of_seeds=0.0, degrees=degrees)
    return 100 * float(np.mean([one.p_value < 0.05 for one in found])), 100 * power(true, cell.means[1] - cell.means[0])


PARTS = {"example": (1, 0, 0), "both": (0, 0, 1), "all three": (0.7, 0.7, 0.7), "seed": (0.1, 1, 0.1)}
"""Where chance comes from: `Cell.example`, `seed`, `both`."""


def _with(parts: str, **others: Any) -> Cell:
    example, seed, both = PARTS[parts]
    return Cell(example=example, seed=seed, both=both, **others)


def _coverage(times: int) -> None:
    print("\nseeds  chance     tails      examples: 30   100   500   (lengths 0.5; 30 with 1.0)")
    for seeds in (1, 2, 3, 5):
        for parts in PARTS if seeds > 1 else ["example"]:
            for tails in ("normal", "t3", "skewed", "lopsided"):
                cells = [_with(parts, seeds=seeds, tails=tails, examples=n) for n in (30, 100, 500)]
                cells.append(dataclasses.replace(cells[0], lengths=1.0))
                print(f"{seeds}  {parts:9}  {tails:9}", *(f"{covered(c, times):5.1f}" for c in cells), flush=True)


def _errors(times: int) -> None:
    print("\nseeds  chance     noise   all tie: 2, 5, 10, 50 trials   half tie   a slope")
    for seeds in (1, 2, 3, 5):
        for parts in PARTS if seeds > 1 else ["example"]:
            for spread in (0.0, 0.7) if _with(parts).seed else (0.0,):
                means = [*((0.0,) * k for k in (2, 5, 10, 50)), (0.0,) * 10 + (40.0,) * 10]
                means.append(tuple(0.3 * place for place in range(10)))
                cells = [_with(parts, means=m, seeds=seeds, tails="t3", spread=spread) for m in means]
                print(f"{seeds}  {parts:9}  {spread}", *(f"{wrong(c, times):5.1f}" for c in cells), flush=True)


def _power(times: int) -> None:
    print("\nseeds  chance     found, promised of a difference of 1, 2, 3")
    for seeds in (1, 3, 5):
        for parts in PARTS if seeds > 1 else ["example"]:
            pairs = [seen(_with(parts, seeds=seeds, means=(0.0, one)), times) for one in (1.0, 2.0, 3.0)]
            print(f"{seeds}  {parts:9}", *(f"{one:5.1f} {other:5.1f}" for one, other in pairs), flush=True)


TABLES = {"coverage": lambda: _coverage(1000), "power": lambda: _power(1000), "errors": lambda: _errors(300)}

if __name__ == "__main__":
    for table in sys.argv[1:] or TABLES:
        TABLES[table]()
