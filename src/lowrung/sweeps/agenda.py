"""The order of a sweep's trials, and its end: the number of trials, or the deadline."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lowrung.engine import durations
from lowrung.search import first
from lowrung.search.space import Value
from lowrung.sweeps.plan import Plan

if TYPE_CHECKING:
    from optuna.trial import Trial

    from lowrung.search.study import Study


class Agenda:
    """The order of trials: interrupted ones, then what is to be tried first, then at the points of the grid in turn.

    Args:
        study: the sweep's. Trials that an earlier start left running are taken over from it.
        plan: the sweep's.
        notify: prints a line for the user.
    """

    def __init__(self, study: "Study", plan: Plan, notify: Callable[[str], None]) -> None:
        self._study = study
        self._plan = plan
        self._notify = notify
        self._interrupted = study.interrupted()
        self._trials_at: Counter[int] = Counter()  # by the point's index in the grid; those under way included
        self._deadline = time.monotonic() + (durations.seconds(plan.settings.timeout) or math.inf)
        self._is_out_of_time = False
        self._first = list(plan.first)  # those that no trial has had

    def next(self) -> "Trial | None":
        """The next trial: one that was interrupted, else at the point of the grid that has had the fewest trials.

        What is to be tried first may fix some values, and so some of the grid's points.
        """
        if self._is_time_up():
            return None
        if self._interrupted:
            trial = self._interrupted.pop(0)
            self.count(trial.params)
            return trial
        if self._trials_at.total() >= self._plan.n_trials:
            self._say_what_was_not_tried()
            return None
        asked = self._first[0] if self._first else {}
        grid = [point.params for point in self._plan.points]
        index = min((i for i, at in enumerate(grid) if first.fits(asked, at)), key=lambda i: self._trials_at[i])
        params = {**grid[index], **asked}
        self.count(params)
        return self._study.ask(params)

    def count(self, params: Mapping[str, Value]) -> None:
        """Counts a trial with these values as one of its point's, and as the one that was to be tried first."""
        self._trials_at[self._index(params)] += 1
        had = [point for point in self._first if point.items() <= params.items()]
        if had:
            self._first.remove(max(had, key=len))

    def is_repeat(self, params: Mapping[str, Value]) -> bool:
        """Whether an exact grid has had a trial at the point with these values."""
        index = self._index(params)
        return index >= 0 and self._trials_at[index] > 0 and not self._plan.space.intervals

    def _index(self, params: Mapping[str, Value]) -> int:
        """Which point of the grid has these values; -1 where the grid has no such point."""
        at = {axis.key: params[axis.key] for axis in self._plan.space.choices}
        return next((i for i, point in enumerate(self._plan.points) if point.params == at), -1)

    def _say_what_was_not_tried(self) -> None:
        """A study that goes on may have had its trials before it was given points to try first."""
        if self._first:
            self._notify(
                f"{len(self._first)} of the points in {first.NAME} were not tried: the study has had its"
                f" {self._plan.n_trials} trials. Raise hydra.sweeper.n_trials to try them"
            )
            self._first = []

    def _is_time_up(self) -> bool:
        """Whether the deadline has passed; a line says so once."""
        if time.monotonic() >= self._deadline and not self._is_out_of_time:
            self._is_out_of_time = True
            self._notify(
                f"hydra.sweeper.timeout={self._plan.settings.timeout} is over: no further trial starts; the same"
                " command goes on from here"
            )
        return self._is_out_of_time
