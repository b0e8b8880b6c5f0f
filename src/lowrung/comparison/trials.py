"""What a comparison needs to know of trials and their runs; the rows of a leaderboard are such trials."""

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
    def broken(self) -> Sequence[str]:
        """The constraints that it does not keep to."""


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def judged(trials: Sequence[AnyTrial], metric: str) -> list[AnyTrial]:
    """The trials that take part: complete ones that keep to the constraints and have the metric, by number.

    A pruned trial was not trained to its end, so its score is no rival's.
    """
    found = [
        trial
        for trial in trials
        if trial.outcome.status is Status.COMPLETE and not trial.broken and metric in trial.outcome.metrics
    ]
    return sorted(found, key=lambda trial: trial.number)


def best_of(trials: Sequence[AnyTrial], objectives: Mapping[str, str]) -> AnyTrial | None:
    """The best trial by the first objective, the first one of equals; None where no trial takes part.

    Of trials with different numbers of seeds only those with the most count: the best of many single runs owes more to
    luck than a mean does.
    """
    metric, direction = next(iter(objectives.items()))
    sign = -1 if direction == "maximize" else 1
    rivals = judged(trials, metric)
    most = max((len(trial.seeds) for trial in rivals), default=0)
    rivals = [trial for trial in rivals if len(trial.seeds) == most]
    return min(rivals, key=lambda trial: sign * trial.outcome.metrics[metric], default=None)
