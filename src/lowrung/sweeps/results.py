"""What a sweep has found so far: its leaderboard, on the screen, on disk and in the tracker."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from lowrung.comparison.trials import judged
from lowrung.errors import RunFailed
from lowrung.report import leaderboard, trial_names
from lowrung.report.planned import PlannedSweep
from lowrung.report.progress import Progress
from lowrung.report.questions import Recipe
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import plots
from lowrung.sweeps.answer import Answer, recipe
from lowrung.sweeps.beforehand import BY_PLAN
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.runs import Run
from lowrung.sweeps.spending import Spending
from lowrung.sweeps.tracking import SweepTracking, best_tags


class Results:
    """The trials of a sweep that have ended.

    Args:
        plan: the sweep's.
        tracking: records the sweep; None of one that does not run.
        planned: what a dry run has found; None of a sweep that runs.

    Attributes:
        study: its name.
        folder: the study's.
        is_dry_run: whether nothing was to be started.
        planned: what would be run then, and what that would take.
        objectives: metrics with ``minimize`` or ``maximize``; the first one ranks the trials.
        rows: the trials, by number.
        total: trials of the sweep, as far as is known.
        spending: of its budget; None of a sweep that does not run.
    """

    def __init__(
        self, plan: Plan, tracking: SweepTracking | None = None, *, planned: PlannedSweep | None = None
    ) -> None:
        from lowrung.search import constraints

        self.study = plan.study
        self.folder = plan.folder
        self.is_dry_run = plan.settings.dry_run
        self.planned = planned
        self.objectives = dict(plan.settings.objectives)
        self._constraints = constraints.parse(plan.settings.constraints)
        self.total = plan.at_most
        self._stages = [stage.name for stage in plan.search.stages]
        self._over_seeds = plan.over_seeds
        self._tracking = tracking
        self.spending: Spending | None = None
        self.left_off = ""
        """Why no more trials were started, where a budget or a deadline kept some from being run."""
        self.given_up = ""
        """Why fewer trials were run than were asked for, where too many that were drawn were left out."""
        self._logged: int | None = None
        self._plan = plan
        self._recipes: dict[int, Recipe] = {}
        self._halved: dict[str, dict[int, None]] = {}
        """Trials whose batches were smaller than was asked for, by what is to be said of them."""
        self.rows: dict[int, leaderboard.TrialRow] = {}
        self.drawn_in_vain = 0
        """Trials that were drawn and left out by the plan: others are drawn in their places."""
        self._counts: Counter[Status] = Counter()
        self._best: leaderboard.TrialRow | None = None

    @property
    def trials(self) -> list[leaderboard.TrialRow]:
        """The trials as the leaderboard ranks them, best first; each has its runs, metrics and folders."""
        return leaderboard.ranked(list(self.rows.values()), self.objectives)

    @property
    def best(self) -> leaderboard.TrialRow | None:
        """The best complete trial that keeps to all constraints; None as long as there is none."""
        return self._best

    @property
    def answer(self) -> Answer:
        """The leaderboard with its verdict."""
        points = [point for each in self._plan.points.values() for point in each]
        intervals = [axis for point in points for axis in point.space.intervals]
        return Answer.of(
            self.trials,
            self._plan.settings,
            self._recipes,
            intervals,
            [*self._not_run, *self._not_as_asked],
            is_over=not self._why_not_run,
        )

    @property
    def _why_not_run(self) -> str:
        return ". ".join(filter(None, [self.left_off, self.given_up]))

    @property
    def _not_run(self) -> list[str]:
        """How many trials were not run, and why."""
        if not self._why_not_run:
            return []
        total = self.total + self.drawn_in_vain
        most = "" if self._plan.is_known else "up to "
        return [f"{most}{total - len(self.rows)} of {total} trials have not been run. {self._why_not_run}."]

    @property
    def _not_as_asked(self) -> list[str]:
        """Trials whose batches were smaller than the leaderboard shows."""
        return [
            f"{trial_names.trials(list(trials))} ran with smaller batches than asked for: {why}"
            for why, trials in self._halved.items()
        ]

    def note(self, run: Run) -> None:
        """Takes what of a trial's settings decides whether it can be compared with others."""
        if run.why_halved:
            self._halved.setdefault(run.why_halved, {})[run.trial] = None
        if run.trial not in self._recipes:
            self._recipes[run.trial] = recipe(run.config, self._plan.preflight(run.config))

    def add(
        self,
        number: int,
        point: Mapping[str, str],
        outcome: Outcome,
        runs: Mapping[int, leaderboard.Seed],
        *,
        is_reused: bool,
        stage: str = "",
    ) -> None:
        """Takes a trial that has ended.

        Args:
            number: the trial's.
            point: its values, as text.
            outcome: how it ended, over its seeds.
            runs: by seed.
            is_reused: whether the store had all of their results.
            stage: the trial's.
        """
        judged = [one for one in self._constraints if outcome.status is Status.SKIPPED or not one.is_of_plan]
        broken = [str(constraint) for constraint in judged if constraint.violation(outcome.numbers) > 0]
        by_seed = [runs[seed] for seed in sorted(runs)]
        self._counts[outcome.status] += 1
        self._rank(
            leaderboard.TrialRow(
                number, point, outcome, by_seed, is_reused, broken, self._over_seeds, *self._stage(stage)
            )
        )

    def promote(self, number: int, stage: str) -> None:
        """Counts a trial of an earlier stage for a later one too; it ranks with the later one's."""
        row = self.rows[number]
        name, index = self._stage(stage)
        row = dataclasses.replace(row, stage=f"{row.stage}, {name}", stage_index=index)
        self._rank(row)
        if self._tracking is not None:
            self._tracking.tag(number, {"lowrung.stage": row.stage})

    def _stage(self, name: str) -> tuple[str, int]:
        return name, self._stages.index(name)

    def _rank(self, row: leaderboard.TrialRow) -> None:
        self.rows[row.number] = row
        if judged([row], next(iter(self.objectives))):
            rivals = [row] if self._best is None or self._best.number == row.number else [self._best, row]
            self._best = leaderboard.ranked(rivals, self.objectives)[0]

    def show(self, progress: Progress, running: int, runs_left: int) -> None:
        """Gives the screen the state of the sweep; ``runs_left`` are those of all trials that have not ended."""
        counts, best = self._counts, self._best
        failed = sum(count for status, count in counts.items() if not status.is_kept)
        progress.summary(
            total=self.total + self.drawn_in_vain,
            skipped=counts[Status.SKIPPED],
            complete=counts[Status.COMPLETE] + counts[Status.DIVERGED],
            pruned=counts[Status.PRUNED],
            failed=failed,
            running=running,
            runs_left=runs_left,
            best=None if best is None else self._described(best),
            spent=self.spending.shown if self.spending else "",
            seconds_left=self.spending.seconds_left if self.spending else math.inf,
        )

    def _described(self, row: leaderboard.TrialRow) -> str:
        scores = (f"{name} {row.outcome.metrics[name]:.4g}" for name in self.objectives if name in row.outcome.metrics)
        point = leaderboard.name(row.point)
        return f"{', '.join(scores)} (trial {row.number}{f': {point}' if point else ''})"

    def log_best(self, ended: int, *, is_last: bool = False) -> None:
        """Has the best trial so far recorded, where it is another one, and at the sweep's end.

        Args:
            ended: how many trials have ended.
            is_last: whether these are all, so that each start of a study ends with the same record.
        """
        best = self._best
        if self._tracking is not None and best is not None and (is_last or best.number != self._logged):
            self._logged = best.number
            self._tracking.note_best(best, ended)

    def report(self) -> None:
        """Writes and prints the leaderboard, has the sweep's end recorded, and says where everything is.

        Raises:
            RunFailed: when a trial ended as failed, oom or cancelled, or all were run and left out.
        """
        trials, answer = self.trials, self.answer
        answer.write(self.folder, *self._spent())
        has_none, failed = not self.left_off and self._has_skipped_all, self._failed
        try:
            self._say(answer)
        finally:  # also where nobody reads it any more, as behind `| head`
            self._close(answer, Status.FAILED if failed or has_none else Status.COMPLETE)
        if has_none:
            raise RunFailed(_why_none_has_a_result([row.outcome.cause or "" for row in self.rows.values()]), self)
        if failed:
            raise RunFailed(
                f"{len(failed)} of {len(trials)} trials failed (first: trial {failed[0].number},"
                f" {failed[0].outcome.cause}). The others' results are kept; the same command runs the failed ones"
                " again.",
                self,
            )

    def _say(self, answer: Answer) -> None:
        print(f"\n{answer}\n")
        self._say_causes()
        for row in self.rows.values():
            for failure in row.outcome.gate_failures:
                print(f"warning: trial {row.number}: the merged-vs-adapter gate failed: {failure}")
        if self.spending is not None and self.spending.in_words:
            print(f"spent:    {self.spending.in_words}")
        print(f"results:  {self.folder.path}")

    def _say_causes(self) -> None:
        """Why trials are not complete: once for all of the same cause, since a search may prune hundreds."""
        by_cause: dict[tuple[str, str], list[int]] = {}
        for row in self.rows.values():
            if row.outcome.cause:
                by_cause.setdefault((str(row.outcome.status), row.outcome.cause), []).append(row.number)
        for (status, cause), numbers in by_cause.items():
            print(f"{trial_names.trials(sorted(numbers))} {status}: {cause}")

    def _spent(self) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """What was spent, by name: of the study, and of each trial; nothing without a budget."""
        if self.spending is None or self.spending.budget is None:
            return {}, {}
        return self.spending.numbers, {number: self.spending.numbers_of(number) for number in self.rows}

    @property
    def _failed(self) -> list[leaderboard.TrialRow]:
        return [row for row in self.rows.values() if not row.outcome.status.is_kept]

    @property
    def _has_skipped_all(self) -> bool:
        """Whether trials were left out, and no other one was there."""
        return bool(self.rows) and all(row.outcome.status is Status.SKIPPED for row in self.rows.values())

    def _close(self, answer: Answer, status: Status) -> None:
        """Has the sweep's end recorded: its answer, how many trials ended as what, and its files."""
        if self._tracking is None:
            return
        counts = {f"lowrung.trials.{status}": str(self._counts[status]) for status in Status}
        best = {} if self._best is None else best_tags(self._best)
        spent = {"lowrung.spent": self.spending.in_words} if self.spending and self.spending.in_words else {}
        files = [self.folder.leaderboard, self.folder.verdict]
        if self._tracking.is_on:
            files += plots.drawn(self.folder)
        self._tracking.end(status, {**answer.tags, **counts, **best, **spent}, files)


def _why_none_has_a_result(causes: Sequence[str]) -> str:
    """What to say of a sweep all of whose trials were left out.

    Args:
        causes: why, of each trial.
    """
    by_plan = [cause.removeprefix(BY_PLAN) for cause in causes if cause.startswith(BY_PLAN)]
    why, remedies = [], []
    if by_plan:
        why.append(f"the plan leaves out {len(by_plan)}, the last since {by_plan[-1]}")
        remedies.append("Loosen hydra.sweeper.constraints, lower what the runs need, or search other values.")
    if len(by_plan) < len(causes):
        why.append(f"{len(causes) - len(by_plan)} ran out of memory, and hydra.sweeper.on_oom=skip leaves such out")
        halve = "hydra.sweeper.on_oom=halve"
        remedies.append(f"Lower train.batch_size, add train.gradient_checkpointing=true, or take {halve}.")
    return f"No trial has a result: {'; '.join(why)}. {' '.join(remedies)}"
