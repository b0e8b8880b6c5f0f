"""The order of a sweep's trials, and its end: the number of trials, or the deadline."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lowrung.engine import durations
from lowrung.sweeps import stage_trials, tried_first
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.stage import Stage
from lowrung.sweeps.stage_trials import StageTrials

if TYPE_CHECKING:
    from optuna.trial import Trial

    from lowrung.search.study import Study


@dataclasses.dataclass(frozen=True)
class Due:
    """A trial that is to be run.

    Attributes:
        trial: Optuna's.
        point: that it belongs to.
        trials: those of its stage.
    """

    trial: "Trial"
    point: GridPoint
    trials: StageTrials


class Agenda:
    """The order of trials: of one stage after the other; of each, interrupted ones first, then at its points in turn.

    A stage begins when the one that it starts from is over. Until then, and after it, others may run.

    Args:
        study: the sweep's. Trials that an earlier start left running are taken over from it.
        plan: the sweep's.
        begin: finds a stage's points, and counts the trials that it has had; see `lowrung.sweeps.stage_start`.
        say: prints a line for the user.
        may_begin: says which points the budget has room for.

    Attributes:
        begun: the trials of the stages that have begun, by the stage's name.
    """

    def __init__(
        self,
        study: "Study",
        plan: Plan,
        begin: Callable[[Stage, Mapping[str, StageTrials]], StageTrials],
        say: Callable[[str], None],
        may_begin: Callable[[GridPoint], bool],
    ) -> None:
        self._may_begin = may_begin
        self._study = study
        self._plan = plan
        self._begin = begin
        self._say = say
        self._interrupted = self._adoptable()
        self.begun: dict[str, StageTrials] = {}
        self._deadline = time.monotonic() + (durations.seconds(plan.settings.timeout) or math.inf)
        self._is_out_of_time = False

    def _adoptable(self) -> "list[Trial]":
        """The trials that an earlier start left running, but for those that were killed before they had a stage."""
        names = {stage.name for stage in self._plan.search.stages}
        found = self._study.interrupted()
        for trial in found:
            if self._study.stage_of(trial) not in names:
                self._study.abandon(trial)
        return [trial for trial in found if self._study.stage_of(trial) in names]

    def begin(self) -> None:
        """Begins each stage that can: the first one, and those whose starting points are known."""
        for stage in self._plan.search.stages:
            if stage.name not in self.begun and (not stage.of or self._is_over(stage.of)):
                self.begun[stage.name] = trials = self._begin(stage, self.begun)
                if not stage.of:
                    self._try_first(trials)

    def _try_first(self, trials: StageTrials) -> None:
        """Has the points tried first that no trial has had which an earlier start of this study kept or left out."""
        if any(point.is_open for point in trials.points):  # in an exact grid they come first already
            trials.first = tried_first.of_search(self._plan.settings.first, self._plan.search)
        for params in (*(ended.params for ended in trials.ended.values()), *trials.left_out):
            trials.try_first(params)

    def _is_over(self, name: str) -> bool:
        return name in self.begun and self.begun[name].is_over

    def next(self) -> Due | None:
        """The next trial; None where there is none now, though there may be when others have ended."""
        if self._is_time_up():
            return None
        self.begin()
        for trials in self.begun.values():
            if due := self._adopted(trials) or self._asked(trials):
                trials.start(due.trial.number, due.point, due.trial.params)
                trials.try_first(due.trial.params)
                return due
        return None

    def _adopted(self, trials: StageTrials) -> Due | None:
        """A trial of the stage that was interrupted; one that is at none of its points ends as failed."""
        of_stage = [trial for trial in self._interrupted if self._study.stage_of(trial) == trials.stage.name]
        for trial in of_stage:
            self._interrupted.remove(trial)
            if point := trials.point_of(trial.params):
                return Due(trial, point, trials)
            self._study.abandon(trial)
        return None

    def _asked(self, trials: StageTrials) -> Due | None:
        point = trials.next_point
        if point is None:
            self._say_what_was_not_tried(trials)
            return None
        # A value that is drawn decides what a run takes; the queue holds it back then, and the next start goes on.
        if not point.is_open and not self._may_begin(point):
            others = (other for other in trials.due if not other.is_open)
            point = next((other for other in others if self._may_begin(other)), None)
            if point is None:
                return None
        space = point.space if self._plan.search.is_united else None
        trial = self._study.ask({**point.params, **trials.asked}, space=space, stage=trials.stage.name)
        return Due(trial, point, trials)

    def _say_what_was_not_tried(self, trials: StageTrials) -> None:
        """A study that goes on may have had its trials before it was given points to try first."""
        if trials.first:
            self._say(
                f"{len(trials.first)} of the points in hydra.sweeper.first were not tried: the study has had its"
                f" {trials.n_trials} trials. Raise {trials.stage.n_trials_setting} to try them"
            )
            trials.first.clear()

    def _is_time_up(self) -> bool:
        """Whether the deadline has passed; a line says so once."""
        if time.monotonic() >= self._deadline and not self._is_out_of_time:
            self._is_out_of_time = True
            self._say(f"{self._over}: no further trial starts; the same command goes on from here")
        return self._is_out_of_time

    @property
    def _over(self) -> str:
        return f"hydra.sweeper.timeout={self._plan.settings.timeout} is over"

    @property
    def over(self) -> str | None:
        """Why no further trial starts, where the time is over."""
        return f"{self._over}; the same command goes on" if self._is_out_of_time else None

    @property
    def given_up(self) -> str | None:
        """Why fewer trials were run than were asked for, where the plan left out too many that were drawn."""
        if not any(trials.has_given_up for trials in self.begun.values()):
            return None
        return (
            f"{stage_trials.MOST_IN_VAIN} drawn trials in a row were left out by the plan, so no more were drawn:"
            " loosen hydra.sweeper.constraints, lower what the runs need, or search other values"
        )

    @property
    def has_more(self) -> bool:
        """Whether a stage has not begun, or has trials to run."""
        return len(self.begun) < len(self._plan.search.stages) or not all(one.is_over for one in self.begun.values())
