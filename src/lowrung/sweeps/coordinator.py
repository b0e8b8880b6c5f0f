"""The coordinator of a sweep: ask, run, wait for the first to end, tell. The only client of the study."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.types import TaskFunction
from omegaconf import OmegaConf

from lowrung.config import schema
from lowrung.engine import durations
from lowrung.engine.base import Engine
from lowrung.engine.interrupt import CtrlC
from lowrung.errors import RunFailed
from lowrung.report import leaderboard
from lowrung.report.progress import Progress
from lowrung.report.tables import counted
from lowrung.runs import execution, inputs
from lowrung.runs.folder import kept_outcome
from lowrung.search.space import Value
from lowrung.store import atomic, mailbox
from lowrung.store.outcome import Outcome, Status, over_seeds
from lowrung.sweeps.plan import Composer, Plan
from lowrung.sweeps.queue import CHECK_SECONDS, Evaluated, Finished, Run, Runs, store_folder
from lowrung.sweeps.results import Results, ending
from lowrung.sweeps.tracking import SweepTracking
from lowrung.track import recording

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from lowrung.search.study import Study


@dataclasses.dataclass
class Trying:
    """A trial between ask and tell.

    Attributes:
        trial: Optuna's.
        point: what was searched, as text.
        expected: the seeds whose runs have still to end.
        ended: the runs that have ended, by seed.
        is_pruned: whether its seeds were found to do worse than the best trial's.
    """

    trial: "Trial"
    point: Mapping[str, str]
    expected: list[int]
    ended: dict[int, Finished] = dataclasses.field(default_factory=dict)
    is_pruned: bool = False


class Coordinator:
    """Runs the trials of a study.

    Args:
        study: the sweep's, which nobody else uses.
        plan: what is to be run.
        composer: makes the runs' configs.
        task_function: the function below ``@hydra.main``.
        engine: where runs are executed.
    """

    def __init__(
        self, study: "Study", plan: Plan, composer: Composer, task_function: TaskFunction, engine: Engine
    ) -> None:
        from lowrung.search import constraints

        settings = plan.settings
        self._plan = plan
        self._composer = composer
        self._engine = engine
        self._constraints = constraints.parse(settings.constraints)
        self._study = study
        self._tracking = SweepTracking(recording.make_tracker(plan.config), self._study, plan)
        self._results = Results(
            plan.folder, settings.objectives, plan.n_trials, len(self._seeds), self._tracking.tracker
        )
        self._progress = Progress()
        self._runs = Runs(
            engine,
            plan,
            composer.hydra_context,
            task_function,
            track=self._track,
            progress=self._progress,
            retries=settings.retries,
        )
        self._trying: dict[int, Trying] = {}
        self._taken: Counter[int] = Counter()
        """How many trials each point of the grid has had, those under way included."""
        self._failures = 0
        self._ended = sum(trial.state.is_finished() for trial in self._study.trials)
        self._ends_at = time.monotonic() + (durations.seconds(settings.timeout) or math.inf)
        self._is_out_of_time = False

    def run(self) -> None:
        """Runs all trials that are still to run.

        Ctrl-C once lets those that are running write a checkpoint and end, twice ends them at once; the same command
        goes on from there.
        """
        atomic.remove_leftovers(self._plan.folder.path)
        OmegaConf.save(self._composer.master, self._plan.folder.path / "multirun.yaml")
        self._keep_finished()
        with self._progress:
            done = len(self._results.trials)
            self._progress.say(f"study {self._plan.study}: {counted(self._plan.n_trials, 'trial')}, {done} done before")
            try:
                with CtrlC() as ctrl_c:
                    self._loop(ctrl_c)
            except BaseException as error:
                self._break_off(error)
                raise

    def report(self) -> Results:
        """Prints the leaderboard and gives the results; see `lowrung.sweeps.results.Results.report`."""
        # Again, for a coordinator that was killed when it had told the last trial.
        self._results.log_best(self._tracking.parent, self._ended)
        self._results.report(self._tracking.parent)
        return self._results

    def _break_off(self, error: BaseException) -> None:
        """Closes the tracked runs of a sweep that ends early; they are opened again when it goes on."""
        if isinstance(error, KeyboardInterrupt):
            self._progress.say("interrupted; the same command goes on from here")
        self._tracking.cancel(self._runs.open)
        self._tracking.tracker.end_run(self._tracking.parent, Status.CANCELLED)

    def _loop(self, ctrl_c: CtrlC) -> None:
        adopted = self._study.interrupted()
        while True:
            ctrl_c.check()
            if ctrl_c.was_pressed:
                self._runs.wind_down()
                if not self._runs.running:
                    raise KeyboardInterrupt
            else:
                while self._runs.has_room and (trial := self._next(adopted)):
                    self._start(trial)
            if not self._runs.open:
                return
            for event in self._runs.wait(timeout=CHECK_SECONDS):
                self._take(event)

    def _take(self, event: Evaluated | Finished) -> None:
        if isinstance(event, Finished):
            self._end(event)
        elif self._report(event) and event.run.stopped_as is None and event.step < event.run.steps:
            self._runs.stop(event.run, Status.PRUNED)

    def _report(self, event: Evaluated) -> bool:
        """Tells the study of an evaluation; whether the trial is to be pruned. It is judged by its first seed alone."""
        if "eval/loss" not in event.metrics or event.step == 0 or event.run.config.seed != self._seeds[0]:
            return False
        trying = self._trying[event.run.trial]
        return self._study.report(trying.trial, int(event.metrics["train/tokens"]), event.metrics)

    @property
    def _seeds(self) -> Sequence[int]:
        """What every point is trained with."""
        return self._plan.space.seeds or (self._plan.config.seed,)

    def _keep_finished(self) -> None:
        """Takes over trials that an earlier start of this study finished, where the same runs would come out.

        A grid has each point once: one whose results had been deleted was tried again, under another number.
        """
        for trial in self._study.trials:
            known = self._study.runs(trial)
            if not trial.state.is_finished() or not known:  # without a run it was never whole
                continue
            kept = {seed: self._kept(trial, seed, facts) for seed, facts in known.items()}
            finished = {seed: found for seed, found in kept.items() if found is not None}
            place = self._place(trial.params)
            is_repeat = place >= 0 and self._taken[place] > 0 and not self._plan.space.intervals
            if len(finished) == len(known) and not is_repeat:
                is_pruned = trial.user_attrs.get("status") == Status.PRUNED
                point = self._plan.space.texts(trial.params)
                for one in finished.values():
                    self._tracking.keep(one, point)
                self._taken[place] += 1
                self._add_row(trial.number, point, finished, _outcome(finished, is_pruned))

    def _kept(self, trial: "FrozenTrial", seed: int, facts: Mapping[str, Any]) -> Finished | None:
        run = self._run(trial.number, trial.params, seed, facts)
        outcome = kept_outcome(run.folder, also=trial.user_attrs.get("status"))
        is_same = run.folder.path.name == facts["signature"]
        return _as_shown(Finished(run, outcome, is_reused=True)) if outcome is not None and is_same else None

    def _next(self, adopted: list["Trial"]) -> "Trial | None":
        """The next trial: one that was interrupted, else at the grid's point that has had the fewest trials."""
        if self._time_is_up():
            return None
        if adopted:
            self._taken[self._place(adopted[0].params)] += 1
            return adopted.pop(0)
        if self._taken.total() >= self._plan.n_trials:
            return None
        place = min(range(len(self._plan.points)), key=lambda i: self._taken[i])
        self._taken[place] += 1
        return self._study.ask(self._plan.points[place].params)

    def _time_is_up(self) -> bool:
        """Whether no further trial is to start; it is said once."""
        if time.monotonic() >= self._ends_at and not self._is_out_of_time:
            self._is_out_of_time = True
            self._progress.say(
                f"hydra.sweeper.timeout={self._plan.settings.timeout} is over: no further trial starts; the same"
                " command goes on"
            )
        return self._is_out_of_time

    def _place(self, params: Mapping[str, Value]) -> int:
        """Which point of the grid a trial with these values is at."""
        at = {axis.key: params[axis.key] for axis in self._plan.space.choices}
        return next((i for i, point in enumerate(self._plan.points) if point.params == at), -1)

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self, trial: "Trial") -> None:
        """Starts a trial's runs, one for each seed."""
        trying = Trying(trial, self._plan.space.texts(trial.params), list(self._seeds))
        self._trying[trial.number] = trying
        known = self._study.runs(trial)
        for seed in self._seeds:
            if seed in trying.expected:  # it is not where an earlier one's result is known, and is bad
                self._add(self._run(trial.number, trial.params, seed, known.get(seed, {})))

    def _run(self, number: int, params: Mapping[str, Value], seed: int, known: Mapping[str, Any]) -> Run:
        """A trial's run with a seed.

        Args:
            number: the trial's.
            params: the trial's.
            seed: one of the trial's.
            known: what an earlier start of the study noted of the run.
        """
        space = self._plan.space
        overrides = known.get("overrides") or space.overrides(params) + [f"seed={seed}" for _ in space.seeds[:1]]
        composed = self._composer.job(overrides, number, subfolder=f"seed_{seed}" if space.seeds else "")
        config = schema.resolve(composed)
        name = leaderboard.name(space.texts(params))
        return Run(
            trial=number,
            key=f"{number}/{seed}" if space.seeds else str(number),
            title=f"trial {number}" + (f" ({name})" if name else "") + (f", seed {seed}" if space.seeds else ""),
            overrides=overrides,
            composed=composed,
            config=config,
            folder=store_folder(self._plan, config, self._engine.threads),
            steps=inputs.steps(config, self._plan.preflight(config)),
            tracked=known.get("tracked"),
            is_halved="overrides" in known,
        )

    def _add(self, run: Run) -> None:
        outcome = self._runs.add(run)
        if outcome is not None:
            self._end(Finished(run, outcome, is_reused=True))

    def _track(self, run: Run) -> str:
        """Opens a run in the tracker, and notes it in the study."""
        if run.is_open and run.tracked is not None:
            return run.tracked
        run.is_open = True
        trying = self._trying[run.trial]
        self._study.note_run(trying.trial, run.config.seed, signature=run.folder.path.name)
        tracked = self._tracking.open(run, trying.point)
        if tracked != run.tracked:
            self._study.note_run(trying.trial, run.config.seed, tracked=tracked)
        return tracked

    # -- ending --------------------------------------------------------------------------------------------------------

    def _end(self, finished: Finished) -> None:
        """Takes a run's outcome: the run is tried another way, put aside, or its trial comes to its end."""
        run, outcome = finished.run, finished.outcome
        if outcome.status is Status.CANCELLED and run.stopped_as is Status.CANCELLED:
            self._put_aside(run)
        elif outcome.status is Status.OOM and (halved := self._with_half_the_batch(run)):
            self._progress.end(run.key, run.title, f"{outcome.cause}; tried again with half the batch")
            self._add(halved)
        else:
            self._close(finished)
            self._judge(self._trying[run.trial], finished)

    def _put_aside(self, run: Run) -> None:
        """Leaves a run that was stopped untold: the study's next start goes on from its checkpoint."""
        self._progress.end(run.key, run.title, "stopped; it goes on from its checkpoint")
        self._tracking.cancel([run])

    def _with_half_the_batch(self, run: Run) -> Run | None:
        """The same run with as many examples a step in half as large batches, once; None where there is no half."""
        train = run.config.train
        if train.batch_size % 2 or run.is_halved:
            return None
        batch, accumulated = train.batch_size // 2, train.gradient_accumulation_steps * 2
        overrides = [
            *run.overrides,
            f"train.batch_size={batch}",
            f"train.gradient_accumulation_steps={accumulated}",
        ]
        trial = self._trying[run.trial].trial
        self._study.note_run(trial, run.config.seed, overrides=overrides)
        note = f"out of memory; batch_size {batch}, gradient_accumulation_steps {accumulated}"
        if run.tracked is not None:
            self._tracking.tracker.set_tags(run.tracked, {"lowrung.retry": note})
        return self._run(run.trial, trial.params, run.config.seed, self._study.runs(trial)[run.config.seed])

    def _close(self, finished: Finished) -> None:
        """Ends a run in the tracker and on the screen."""
        run, outcome = finished.run, finished.outcome
        execution.tidy(run.folder, outcome)
        run.tracked = self._track(run)
        if finished.is_reused:
            for report in mailbox.Reader(run.folder.path).read():  # other trials are judged by it
                self._report(Evaluated(run, report["step"], report["metrics"]))
        self._tracking.close(finished)
        if not self._tracking.tracker.has_all(run.tracked):
            # The next start asks for it by its key, and records it again.
            self._study.note_run(self._trying[run.trial].trial, run.config.seed, tracked="")
        self._progress.end(run.key, run.title, ending(outcome, finished.is_reused))

    def _judge(self, trying: Trying, finished: Finished) -> None:
        """What a run's outcome means for its trial; one that cannot become complete starts no further run."""
        seed, outcome = finished.run.config.seed, finished.outcome
        trying.ended[seed] = _as_shown(finished)
        trying.expected.remove(seed)
        if trying.expected and outcome.status is Status.COMPLETE:
            place = self._seeds.index(seed) + 1
            trying.is_pruned |= self._study.report_seed(trying.trial, place, outcome.metrics)
        if trying.is_pruned or outcome.status is not Status.COMPLETE:
            going = self._runs.drop(trying.trial.number)
            trying.expected = [run.config.seed for run in going]
            if trying.is_pruned or outcome.status is Status.PRUNED:
                for run in going:
                    self._runs.stop(run, Status.PRUNED)
        if not trying.expected:
            self._finish(trying)

    def _finish(self, trying: Trying) -> None:
        """Ends a trial.

        Raises:
            RunFailed: when it is one failure too many.
        """
        number, outcome = trying.trial.number, _outcome(trying.ended, trying.is_pruned)
        del self._trying[number]
        self._study.tell(trying.trial, outcome)
        self._ended += 1
        self._add_row(number, trying.point, trying.ended, outcome)
        self._results.log_best(self._tracking.parent, self._ended)
        self._results.show(self._progress, self._runs.running)
        self._count_failure(outcome)

    def _count_failure(self, outcome: Outcome) -> None:
        """Ends a sweep that only fails: what comes next would most likely fail too."""
        self._failures = 0 if outcome.status.is_kept else self._failures + 1
        if self._failures >= self._plan.settings.max_failures and self._failures < self._plan.n_trials:
            raise RunFailed(
                f"{self._failures} trials failed one after the other (hydra.sweeper.max_failures), the last with:"
                f" {outcome.cause}. Mend that, and the same command goes on."
            )

    def _add_row(self, number: int, point: Mapping[str, str], ended: Mapping[int, Finished], outcome: Outcome) -> None:
        runs = [
            leaderboard.Seed(seed, one.outcome, str(one.run.folder.path), one.run.tracked or "")
            for seed, one in sorted(ended.items())
        ]
        is_reused = all(one.is_reused for one in ended.values())
        broken = [str(one) for one in self._constraints if one.violation(outcome.metrics) > 0]
        self._results.add(leaderboard.Row(number, point, outcome, runs, is_reused, broken))


def _outcome(ended: Mapping[int, Finished], is_pruned: bool) -> Outcome:
    """A trial's, of its runs that have ended."""
    outcome = over_seeds({seed: finished.outcome for seed, finished in ended.items()})
    if not is_pruned or outcome.status is not Status.COMPLETE:
        return outcome
    cause = f"worse than the best trial over {len(ended)} seeds"
    return dataclasses.replace(outcome, status=Status.PRUNED, cause=cause)


def _as_shown(finished: Finished) -> Finished:
    """Without what no table shows: a sweep holds all its rows, and the ranks by layer alone are 10 KB a run."""
    shown = {name: known for name, known in finished.outcome.facts.items() if name == "gate_failures" and known}
    return dataclasses.replace(finished, outcome=dataclasses.replace(finished.outcome, facts=shown))
