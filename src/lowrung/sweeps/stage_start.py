"""The start of a stage: its points are found, and the trials that they have had are taken over."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lowrung.errors import RunFailed
from lowrung.report import trial_names
from lowrung.store.outcome import Status
from lowrung.sweeps import resume, starting_points
from lowrung.sweeps.beforehand import SKIP, Beforehand
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.ends import ended_run, trial_outcome
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.results import Results
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.stage import Stage
from lowrung.sweeps.stage_trials import StageTrials
from lowrung.sweeps.tracking import SweepTracking

if TYPE_CHECKING:
    from lowrung.search.study import Study

_RESULTS = tuple(one for one in Status if one.is_kept and one is not Status.SKIPPED)
"""Ends of trials that a study which goes on keeps; what was left out is decided anew."""


@dataclasses.dataclass(frozen=True)
class StageStarter:
    """Begins the stages of a sweep.

    Attributes:
        study: the sweep's.
        plan: the sweep's.
        composer: composes the points' configs.
        maker: makes the runs of trials that have ended anew.
        tracking: keeps what was recorded of them.
        results: takes them over.
        say: prints a line for the user.
        beforehand: decides which trials are not run.
    """

    study: "Study"
    plan: Plan
    composer: Composer
    maker: RunMaker
    tracking: SweepTracking
    results: Results
    say: Callable[[str], None]
    beforehand: Beforehand

    def begin(self, stage: Stage, earlier: Mapping[str, StageTrials]) -> StageTrials:
        """Finds a stage's points, and takes over the trials that they have had, in other stages and earlier starts.

        Args:
            stage: the one that begins.
            earlier: the trials of the stages that have begun before, by name.

        Raises:
            RunFailed: when nothing was found that the stage could start from.
        """
        trials = StageTrials(stage, self._points(stage, earlier) if stage.of else self.plan.points[stage.name])
        trials.share(starting_points.shared(trials, list(earlier.values()), self.results.rows, self.composer))
        shared = list(trials.ended)
        for number in shared:
            self.results.promote(number, stage.name)
        self._keep(trials)
        self._say_what_counts_no_more(trials)
        self._keep_skipped(trials)
        left_out = self._left_out(trials)
        self._say_what_is_left_out(trials, left_out)
        self._note_taken(stage, shared, left_out)
        self.results.total = self.plan.total({**earlier, stage.name: trials})
        self.note_plan()
        return trials

    def note_plan(self) -> None:
        """Writes down how much was asked for: a report of the study compares it with what was done.

        Trials that the plan leaves out are done too. Where others are drawn in their places, these are asked for beside
        them.
        """
        from lowrung.search.study import PLANNED

        trials = self.results.total + self.results.drawn_in_vain
        planned = {"trials": trials, "seeds": self.plan.search.seeds}
        if self.study.facts.get(PLANNED) != planned:
            self.study.note(PLANNED, planned)

    def _points(self, stage: Stage, earlier: Mapping[str, StageTrials]) -> Sequence[GridPoint]:
        """The points of a stage that starts from what an earlier one found."""
        before = earlier[stage.of]
        rows = [row for row in self.results.rows.values() if row.number in before.ended]
        start = starting_points.chosen(stage, rows, self.results.objectives)
        if not start.rows:
            raise RunFailed(
                f"Stage {stage.name!r} must start from trials of {stage.of!r}, but none of these is complete, keeps to"
                f" the constraints and has a finite {next(iter(self.results.objectives))}. Their results are kept; the"
                " same command runs again those that failed.",
                self.results,
            )
        named = ", ".join(f"trial {row.number}" for row in start.rows)
        self.say(f"stage {stage.name}: starts from {named} of {stage.of}")
        for note in start.notes:
            self.say(f"stage {stage.name}: {note}")
        return starting_points.points(stage, [before.ended[row.number] for row in start.rows], self.plan, self.composer)

    def _keep(self, trials: StageTrials) -> None:
        """Takes over the stage's trials that an earlier start of the study finished."""
        for trial, point, finished in resume.kept_trials(self.study, trials, self.maker):
            for run in finished.values():
                self.tracking.keep(run)
                self.results.note(run.run)
            ended = {seed: ended_run(run) for seed, run in finished.items()}
            is_pruned = trial.user_attrs.get("status") == Status.PRUNED
            self.results.add(
                trial.number,
                point.space.texts(trial.params),
                trial_outcome(self.plan.settings, ended, is_pruned),
                ended,
                is_reused=self.study.is_reused(trial),
                stage=trials.stage.name,
            )

    def _say_what_counts_no_more(self, trials: StageTrials) -> None:
        """Names the trials of earlier starts that had a result, and are none of this one's."""
        of_stage = [trial for trial in self.study.trials if self.study.stage_of(trial) == trials.stage.name]
        had_results = [trial for trial in of_stage if trial.user_attrs.get("status") in _RESULTS]
        points = {trial.number: trials.point_of(trial.params) for trial in had_results}
        again = [
            number
            for number, point in points.items()
            if point is not None and number not in trials.ended and not trials.is_repeat(point)
        ]
        if again:
            self.say(
                f"{trial_names.trials(again)} of an earlier start: not counted, since the results are gone, or would"
                " be others now (versions, code, model, data, threads)"
            )

    def _keep_skipped(self, trials: StageTrials) -> None:
        """Takes over the stage's trials that were left out, and would be today.

        One that was drawn was replaced by another one then, unless it was run and was out of memory.
        """
        for trial in self.study.trials:
            point = trials.point_of(trial.params) if self.study.stage_of(trial) == trials.stage.name else None
            if point is None:
                continue
            if trial.user_attrs.get("status") != Status.SKIPPED:
                trials.in_vain = 0
                continue
            if trials.is_repeat(point):
                continue
            was_run = self.study.has_begun(trial)
            if was_run and self.plan.settings.on_oom != SKIP:
                continue
            decision = self.beforehand.of(self.composer.exact(point.space, trial.params).config)
            if not was_run and decision.skipped is None and not point.is_open:
                continue
            if was_run or not point.is_open:
                trials.keep(trial.number, point, trial.params)
            else:
                self.results.drawn_in_vain += 1
                if decision.skipped is not None:
                    trials.in_vain += 1
                    trials.left_out.append(trial.params)
            outcome = dataclasses.replace(decision.outcome, cause=decision.skipped or trial.user_attrs.get("cause"))
            texts = point.space.texts(trial.params)
            self.results.add(trial.number, texts, outcome, {}, is_reused=False, stage=trials.stage.name)

    def _left_out(self, trials: StageTrials) -> list[int]:
        """Trials of the stage that started from what is no longer the best."""
        of_stage = [trial for trial in self.study.trials if self.study.stage_of(trial) == trials.stage.name]
        others = [trial.number for trial in of_stage if trial.state.is_finished() and not trials.point_of(trial.params)]
        return others if trials.stage.of else []

    def _say_what_is_left_out(self, trials: StageTrials, left_out: Sequence[int]) -> None:
        if left_out:
            numbers = ", ".join(map(str, left_out))
            self.say(
                f"stage {trials.stage.name}: left out what was run from other starting points (trials {numbers}); the"
                " results stay in the store"
            )

    def _note_taken(self, stage: Stage, shared: Sequence[int], left_out: Sequence[int]) -> None:
        """Writes down which trials count for a stage: a report of a study that has not ended cannot know by itself."""
        from lowrung.search.study import TAKEN

        known = self.study.facts.get(TAKEN, {})
        taken = {"shared": shared, "left_out": left_out}
        if stage.of and known.get(stage.name) != taken:
            self.study.note(TAKEN, {**known, stage.name: taken})
