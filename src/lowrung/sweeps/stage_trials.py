"""A stage that has begun: its points, and how many trials each of them has had."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from lowrung.search.axes import Params, Value
from lowrung.search.first import fits
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.stage import Stage

MOST_IN_VAIN = 100
"""So many drawn trials in a row that the plan leaves out end a stage: next to nothing in its intervals may be run."""


@dataclasses.dataclass(frozen=True, slots=True)
class StageTrial:
    """A trial of a stage.

    Attributes:
        point: that it is at.
        params: its values.
    """

    point: GridPoint
    params: Params


@dataclasses.dataclass
class StageTrials:
    """A stage that has begun, with its trials.

    Attributes:
        stage: as it was asked for.
        points: of its grids.
        pending: the trials that have not ended, by number.
        ended: those that have, in order.
        shared: how many of these were run for an earlier stage.
        in_vain: how many drawn trials in a row were left out by the plan.
        left_out: the values of drawn trials that an earlier start left out by the plan, as this one would.
        first: points that are tried before all others; those that no trial has had.
    """

    stage: Stage
    points: Sequence[GridPoint]
    pending: dict[int, StageTrial] = dataclasses.field(default_factory=dict)
    ended: dict[int, StageTrial] = dataclasses.field(default_factory=dict)
    shared: int = 0
    first: list[Params] = dataclasses.field(default_factory=list)
    in_vain: int = 0
    left_out: list[Params] = dataclasses.field(default_factory=list)
    _trials_at: Counter[int] = dataclasses.field(default_factory=Counter)

    @property
    def n_trials(self) -> int:
        """Trials in total. Without an interval each point has one."""
        return total(self.stage, len(self.points), is_open=any(point.is_open for point in self.points))

    @property
    def runs_left(self) -> int:
        """Runs of the trials that have not ended."""
        return max(0, self.n_trials - len(self.ended)) * len(self.points[0].seeds)

    @property
    def next_point(self) -> GridPoint | None:
        """The point that has had the fewest trials; one without intervals has one at most. None at the stage's end.

        Only of the points at which the `asked` values can be had.
        """
        return next(iter(self.due), None)

    @property
    def due(self) -> list[GridPoint]:
        """The points that may have a trial now; the one whose turn it is comes first."""
        if self._trials_at.total() >= self.n_trials or self.has_given_up:
            return []
        due = [
            i
            for i, point in enumerate(self.points)
            if (point.is_open or not self._trials_at[i]) and fits(self.asked, point.params, point.space)
        ]
        return [self.points[i] for i in sorted(due, key=lambda i: self._trials_at[i])]

    @property
    def has_given_up(self) -> bool:
        """Whether no more are drawn, since the plan left out too many in a row."""
        return self.in_vain >= MOST_IN_VAIN

    @property
    def asked(self) -> Params:
        """The values that the next trial must have: those of the first point that is still to be tried first."""
        return self.first[0] if self.first else {}

    def try_first(self, params: Mapping[str, Value]) -> None:
        """Takes a trial's values as tried, where they were to be tried first; of several points the one with most."""
        had = [asked for asked in self.first if asked.items() <= params.items()]
        if had:
            self.first.remove(max(had, key=len))

    @property
    def is_over(self) -> bool:
        """Whether all its trials have ended."""
        return self.next_point is None and not self.pending

    def point_of(self, params: Mapping[str, Value]) -> GridPoint | None:
        """The point that a trial with these values belongs to."""
        return next((point for point in self.points if point.is_of(params)), None)

    def is_repeat(self, point: GridPoint) -> bool:
        """Whether a point without intervals has had its trial."""
        return not point.is_open and self._trials_at[self.points.index(point)] > 0

    def start(self, number: int, point: GridPoint, params: Params) -> None:
        """Counts a trial that is under way."""
        self._trials_at[self.points.index(point)] += 1
        self.pending[number] = StageTrial(point, params)

    def end(self, number: int) -> None:
        """A trial that was under way has ended."""
        self.ended[number] = self.pending.pop(number)

    def give_up(self, number: int) -> None:
        """A drawn trial is left out by the plan, and another one is drawn in its place."""
        self._trials_at[self.points.index(self.pending.pop(number).point)] -= 1
        self.in_vain += 1

    def keep(self, number: int, point: GridPoint, params: Params) -> None:
        """Counts a trial that has ended before."""
        self.start(number, point, params)
        self.end(number)

    def share(self, trials: Mapping[int, StageTrial]) -> None:
        """Counts trials of earlier stages that are at its points."""
        for number, ended in trials.items():
            self.keep(number, ended.point, ended.params)
        self.shared = len(trials)


def total(stage: Stage, n_points: int, *, is_open: bool) -> int:
    """The trials of a stage with so many points, of which any may be open: have an interval."""
    if is_open and stage.n_trials:
        return stage.n_trials
    return min(stage.n_trials or n_points, n_points)
