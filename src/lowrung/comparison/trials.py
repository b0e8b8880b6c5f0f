"""What a comparison needs to know of trials and their runs; the rows of a leaderboard are such trials."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from lowrung.store.outcome import Outcome, Status


class Run(Protocol):
    """A trial's training with one seed."""

    @property
    def seed(self) -> int:
        """What it was trained with."""

    @property
    def outcome(self) -> Outcome:
        """How it ended."""

    @property
    def folder(self) -> str:
        """Where its results are."""


class Trial(Protocol):
    """A trial that has ended."""

    @property
    def number(self) -> int:
        """The trial's."""

    @property
    def outcome(self) -> Outcome:
        """How it ended, over its seeds."""

    @property
    def seeds(self) -> Sequence[Run]:
        """Its runs."""

    @property
    def stage_index(self) -> int:
        """Of the stage that it belongs to; 0 where the sweep has none."""

    @property
    def broken(self) -> Sequence[str]:
        """The constraints that it does not keep to."""


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def judged(trials: Sequence[AnyTrial], metric: str) -> list[AnyTrial]:
    """The trials that take part: complete ones that keep to the constraints and have a finite metric, by number.

    A pruned trial was not trained to its end, so its score is no rival's.
    """
    found = [
        trial
        for trial in trials
        if trial.outcome.status is Status.COMPLETE
        and not trial.broken
        and math.isfinite(trial.outcome.metrics.get(metric, math.nan))
    ]
    return sorted(found, key=lambda trial: trial.number)


def best_of(trials: Sequence[AnyTrial], objectives: Mapping[str, str]) -> AnyTrial | None:
    """The best trial by the first objective; None where no trial takes part.

    Between equals the other objectives decide, and then the number. Only the trials of the last stage count, and of
    trials with different numbers of seeds those with the most: the best of many single runs owes more to luck than a
    mean does.
    """
    rivals = judged(trials, next(iter(objectives)))
    last = max((trial.stage_index for trial in rivals), default=0)
    rivals = [trial for trial in rivals if trial.stage_index == last]
    most = max((len(trial.seeds) for trial in rivals), default=0)

    def costs(trial: Trial) -> list[float]:
        found = [trial.outcome.metrics.get(name, math.nan) for name in objectives]
        signed = [
            -value if objectives[name] == "maximize" else value for name, value in zip(objectives, found, strict=True)
        ]
        return [math.inf if math.isnan(value) else value for value in signed]

    return min((trial for trial in rivals if len(trial.seeds) == most), key=costs, default=None)
