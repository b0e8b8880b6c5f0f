"""The coordinator of a sweep: it asks for trials, runs them, and tells how they ended. The study's only client."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.types import TaskFunction
from omegaconf import OmegaConf

from lowrung.engine.base import Engine
from lowrung.engine.interrupt import StopSignals
from lowrung.errors import RunFailed
from lowrung.report import leaderboard
from lowrung.report.progress import Progress
from lowrung.report.warned import Warnings
from lowrung.runs import execution
from lowrung.store import atomic, mailbox
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import runs
from lowrung.sweeps.agenda import Agenda, Due
from lowrung.sweeps.beforehand import HALVE, Beforehand, Decision
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.ends import ended_run, ending, trial_outcome
from lowrung.sweeps.happened import Evaluated, Finished, QueueEvent, Stopped
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.queue import CHECK_SECONDS, Queue
from lowrung.sweeps.results import Results
from lowrung.sweeps.runs import BY_PLAN, Run, RunMaker
from lowrung.sweeps.spending import Spending
from lowrung.sweeps.stage_start import StageStarter
from lowrung.sweeps.stage_trials import MOST_IN_VAIN
from lowrung.sweeps.tracking import SweepTracking
from lowrung.track.base import Opening

if TYPE_CHECKING:
    from optuna.trial import Trial

    from lowrung.search.study import Study


@dataclasses.dataclass
class PendingTrial:
    """A trial between ask and tell.

    Attributes:
        due: Optuna's trial, its point and its stage.
        seeds: those whose runs have not ended.
        ended: the runs that have ended, by seed, in the order of their ends.
        is_pruned: whether its seeds were found to be worse than the best trial's.
    """

    due: Due
    seeds: list[int]
    ended: dict[int, leaderboard.Seed] = dataclasses.field(default_factory=dict)
    is_pruned: bool = False

    @property
    def trial(self) -> "Trial":
        """Optuna's."""
        return self.due.trial


class Coordinator:
    """Runs the trials of a study.

    Args:
        study: the sweep's, which nobody else uses.
        plan: what is to be run.
        composer: makes the runs' configs.
        task_function: the function below ``@hydra.main``.
        engine: where runs are executed.
        beforehand: decides on runs before they start.
        is_known: whether all runs may have results.
    """

    def __init__(
        self,
        study: "Study",
        plan: Plan,
        composer: Composer,
        task_function: TaskFunction,
        engine: Engine,
        beforehand: Beforehand,
        *,
        is_known: bool = False,
    ) -> None:
        self._plan = plan
        self._composer = composer
        self._study = study
        self._maker = RunMaker.of(plan, composer, engine.threads)
        self._tracking = SweepTracking(study, plan, is_known=is_known)
        self._results = Results(plan, self._tracking)
        self._progress = Progress()
        self._tracking.sender.say = self._progress.say
        self._ended = sum(trial.state.is_finished() for trial in study.trials)
        self._beforehand = beforehand
        say = self._progress.say
        self._starter = StageStarter(study, plan, composer, self._maker, self._tracking, self._results, say, beforehand)
        self._spending = Spending(
            study, plan, self._maker, composer.master, engine.slots, beforehand.starting, self._note_tries, say
        )
        self._results.spending = self._spending
        self._agenda = Agenda(study, plan, self._starter.begin, self._progress.say, self._may_begin)
        self._queue = Queue(
            engine,
            plan,
            composer.hydra_context,
            task_function,
            track=self._track,
            progress=self._progress,
            budget=self._spending,
        )
        self._warnings = Warnings(self._progress.say)
        self._pending: dict[int, PendingTrial] = {}
        self._failures = 0

    def run(self) -> None:
        """Runs all trials that are still to run.

        Ctrl-C or SIGTERM once lets those that are running write a checkpoint and end, twice ends them at once; the same
        command goes on from there.
        """
        atomic.remove_leftovers(self._plan.folder.path)
        OmegaConf.save(self._composer.master, self._plan.folder.config)
        with self._progress, self._warnings.of_this_process():
            try:
                self._agenda.begin()
                done = len(self._results.rows)
                self._progress.say(f"study {self._plan.study}: {self._plan.counted}, {done} done before")
                self._spending.say_first()
                with StopSignals() as signals:
                    self._loop(signals)
            except BaseException as error:
                self._break_off(error)
                raise

    def report(self) -> Results:
        """Prints the leaderboard and gives the results; see `lowrung.sweeps.results.Results.report`."""
        # Once more: an earlier coordinator may have been killed between telling the last trial and this.
        self._results.log_best(self._ended, is_last=True)
        self._tracking.note_spent(*self._spending.of_ended)
        self._results.report()
        return self._results

    def _break_off(self, error: BaseException) -> None:
        """Closes the tracked runs of a sweep that ends early; they are opened again when it goes on."""
        if isinstance(error, KeyboardInterrupt):
            self._progress.say("interrupted; the same command goes on from here")
        self._spending.break_off()
        self._tracking.note_spent(*self._spending.of_ended)
        for run in self._queue.unfinished:
            self._tracking.cancel(run)
        self._tracking.break_off()

    def _loop(self, signals: StopSignals) -> None:
        while True:
            signals.check()
            if signals.is_to_stop:
                self._queue.wind_down()
                if not self._queue.running:
                    raise signals.interruption
            else:
                while not signals.is_to_stop and self._queue.has_room and (due := self._agenda.next()):
                    self._start(due)
            if not self._queue.unfinished or self._queue.is_out_of_budget:
                return self._leave_off()
            self._tracking.go_on()  # also where another process trains the run, or a cluster has gone on with it
            for event in self._queue.wait(timeout=CHECK_SECONDS):
                self._take(event)

    def _leave_off(self) -> None:
        """Ends a sweep that has no more to run, or none that its budget allows; that goes on with the next start."""
        self._spending.say_last()
        if self._agenda.has_more:
            over = self._spending.over
            if over is not None:
                self._progress.say(over)
            self._results.left_off = ". ".join(filter(None, [self._agenda.over, over]))
        self._results.given_up = self._agenda.given_up or ""
        for run in self._queue.unfinished:
            self._tracking.cancel(run)

    def _take(self, event: QueueEvent) -> None:
        match event:
            case Evaluated(run, step):
                if self._report(event) and step < run.steps:
                    self._queue.prune(run)
            case Finished():
                self._end(event)
            case Stopped(run):  # the trial is not told: the study's next start goes on with it
                self._progress.end(run.key, run.title, "stopped; it goes on from its checkpoint")
                self._tracking.cancel(run)

    def _report(self, event: Evaluated) -> bool:
        """Reports an evaluation to the study; returns whether to prune the trial. Only a trial's first seed counts."""
        first = self._pending[event.run.trial].due.point.seeds[0]
        if "eval/loss" not in event.metrics or event.step == 0 or event.run.seed != first:
            return False
        return self._study.judge.report(self._trial_of(event.run), int(event.metrics["train/tokens"]), event.metrics)

    def _may_begin(self, point: GridPoint) -> bool:
        """Whether the budget has room for a point without intervals, or its trial is left out for another reason."""
        if self._spending.budget is None or self._beforehand.of_point(point).skipped is not None:
            return True
        return self._spending.may_begin(point)

    def _trial_of(self, run: Run) -> "Trial":
        return self._pending[run.trial].trial

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self, due: Due) -> None:
        """Starts a trial's runs, one for each seed."""
        known, has_begun = self._study.runs(due.trial), self._study.has_begun(due.trial)
        made = {seed: self._made(due, seed, known.get(seed, {}) if has_begun else {}) for seed in due.point.seeds}
        decision = Decision() if has_begun else self._beforehand.of(made[due.point.seeds[0]].config)
        if decision.skipped is not None:
            self._leave_out(due, decision)
            return
        due.trials.in_vain = 0
        if decision.halvings:  # of all seeds, before one starts: a trial's runs are alike
            made = {seed: self._with_smaller_batches(due, run, decision) for seed, run in made.items()}
        elif not has_begun:
            for seed in known:  # an earlier start noted them, and was killed before it had noted all
                self._study.note_run(due.trial, seed, overrides=None)
        pending = self._pending[due.trial.number] = PendingTrial(due, list(due.point.seeds))
        for seed, run in made.items():
            if seed in pending.seeds:  # an earlier seed's result may have come from the store, and have ended the trial
                self._add(run)

    def _made(self, due: Due, seed: int, known: Mapping[str, Any]) -> Run:
        trial, stage = due.trial, due.trials.stage.name
        overrides, is_by_plan = known.get("overrides"), known.get(BY_PLAN, False)
        return self._maker.make(
            trial.number, due.point, trial.params, seed, stage=stage, overrides=overrides, is_by_plan=is_by_plan
        )

    def _with_smaller_batches(self, due: Due, run: Run, decision: Decision) -> Run:
        """The run as the plan has it start, which the study remembers."""
        overrides = runs.half_the_batch(run, decision.halvings)
        smaller = self._made(
            due, run.seed, self._study.note_run(due.trial, run.seed, overrides=overrides, by_plan=True)
        )
        size = smaller.config.train.batch_size
        self._progress.say(f"{run.title}: starts with batches of {size}: {decision.said}")
        return smaller

    def _leave_out(self, due: Due, decision: Decision) -> None:
        """Ends a trial that is not run, by the plan. Another one is drawn in the place of one that was drawn."""
        trial, trials, outcome = due.trial, due.trials, decision.outcome
        self._study.tell(trial, outcome)
        self._ended += 1
        if due.point.is_open:
            trials.give_up(trial.number)
            self._results.drawn_in_vain += 1
            self._starter.note_plan()
            if trials.in_vain == MOST_IN_VAIN:
                self._progress.say(
                    f"{MOST_IN_VAIN} drawn trials in a row may not be run, the last since {outcome.cause}: no more are"
                    " drawn"
                )
        else:
            trials.end(trial.number)
        point = due.point.space.texts(trial.params)
        self._results.add(trial.number, point, outcome, {}, is_reused=False, stage=trials.stage.name)
        self._results.show(self._progress, self._queue.running, self._plan.runs_left(self._agenda.begun))

    def _add(self, run: Run) -> None:
        outcome = self._queue.add(run)
        if outcome is not None:
            self._end(Finished(run, outcome, is_reused=True))

    def _track(self, run: Run) -> Opening | None:
        self._note(run, is_reused=False)
        return self._tracking.opening(run)

    def _note_tries(self, run: Run, tries: Sequence[Mapping[str, Any]]) -> None:
        self._study.note_run(self._trial_of(run), run.seed, tries=tries)

    def _note(self, run: Run, *, is_reused: bool) -> None:
        """Notes in the study which result is a trial's, and whether it was there before; the first note stays."""
        trial, signature = self._trial_of(run), run.folder.path.name
        if self._study.runs(trial).get(run.seed, {}).get("signature") != signature:
            self._study.note_run(trial, run.seed, signature=signature, reused=is_reused)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _end(self, finished: Finished) -> None:
        """Takes a run's outcome: the run is tried again with half the batch, or has ended for its trial."""
        run, outcome = finished.run, finished.outcome
        if not finished.is_reused:
            self._warnings.of_run(run.title, run.folder)
        is_to_halve = outcome.status is Status.OOM and self._plan.settings.on_oom == HALVE
        if is_to_halve and (overrides := runs.half_the_batch(run)):
            self._progress.end(run.key, run.title, f"{outcome.cause}; tried again with half the batch")
            self._retry(run, overrides)
        else:
            self._close(finished)
            self._judge(self._pending[run.trial], finished)

    def _retry(self, run: Run, overrides: list[str]) -> None:
        """Tries a run again with other overrides, which the study remembers."""
        due = self._pending[run.trial].due
        known = self._study.note_run(due.trial, run.seed, overrides=overrides, by_plan=False)
        self._add(self._made(due, run.seed, known))

    def _close(self, finished: Finished) -> None:
        """Ends a run in the tracker and on the screen."""
        run, outcome = finished.run, finished.outcome
        execution.tidy(run.folder, outcome)
        if finished.is_reused:
            for report in mailbox.Reader(run.folder.path).read():  # pruners compare other trials with it
                self._report(Evaluated(run, report["step"], report["metrics"]))
        self._note(run, is_reused=True)  # unless it was begun for this trial, and noted then
        self._tracking.close(finished)
        self._progress.end(run.key, run.title, ending(outcome, finished.is_reused))

    def _judge(self, pending: PendingTrial, finished: Finished) -> None:
        """Adds a run's outcome to its trial. A trial that cannot become complete starts no further run."""
        seed, outcome = finished.run.seed, finished.outcome
        pending.ended[seed] = ended_run(finished)
        self._results.note(finished.run)
        pending.seeds.remove(seed)
        if pending.seeds and outcome.status is Status.COMPLETE:
            position = pending.due.point.seeds.index(seed) + 1
            pending.is_pruned |= self._study.judge.report_seed(pending.trial, position, outcome.metrics)
        if pending.is_pruned or outcome.status is not Status.COMPLETE:
            for run in self._queue.drop(pending.trial.number):
                self._tracking.cancel(run)  # it may have been opened, where its process was lost
            going = self._queue.running_of(pending.trial.number)
            pending.seeds = [run.seed for run in going]
            if pending.is_pruned or outcome.status is Status.PRUNED:
                for run in going:
                    self._queue.prune(run)
        if not pending.seeds:
            self._finish(pending)

    def _finish(self, pending: PendingTrial) -> None:
        """Ends a trial.

        Raises:
            RunFailed: when it is one failure too many.
        """
        trial, outcome = pending.trial, trial_outcome(self._plan.settings, pending.ended, pending.is_pruned)
        del self._pending[trial.number]
        self._study.tell(trial, outcome)
        self._ended += 1
        pending.due.trials.end(trial.number)
        point = pending.due.point.space.texts(trial.params)
        stage = pending.due.trials.stage.name
        self._results.add(
            trial.number, point, outcome, pending.ended, is_reused=self._study.is_reused(trial), stage=stage
        )
        self._results.log_best(self._ended)
        self._tracking.note_spent(*self._spending.of_ended)
        self._results.show(self._progress, self._queue.running, self._plan.runs_left(self._agenda.begun))
        self._count_failure(outcome)

    def _count_failure(self, outcome: Outcome) -> None:
        """Ends a sweep whose trials all fail: the next ones would most likely fail too.

        Raises:
            RunFailed: at ``hydra.sweeper.max_failures``.
        """
        self._failures = 0 if outcome.status.is_kept else self._failures + 1
        if self._failures >= self._plan.settings.max_failures and self._failures < self._plan.at_most:
            raise RunFailed(
                f"{self._failures} trials failed one after the other (hydra.sweeper.max_failures), the last with:"
                f" {outcome.cause}. Correct that; the same command then goes on.",
                self._results,
            )
