"""Many trials: ask, submit, wait for the first to end, tell. The only client of the study."""

import dataclasses
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lowrung import app, atomic, execution, layout, recording
from lowrung.app import Assignment, RunFailed
from lowrung.engine import hydra_job, mailbox
from lowrung.engine.base import Ended, Engine, Event, How, Job
from lowrung.errors import StoreError, UsageError
from lowrung.interrupt import CtrlC
from lowrung.layout import JobFolder, RunFolder
from lowrung.outcome import Outcome, Status
from lowrung.plan import Composer, Plan, Settings, require_a_device_map, search_problems
from lowrung.report import leaderboard
from lowrung.report.progress import Progress
from lowrung.results import Results, ending
from lowrung.schema import Config
from lowrung.track.base import Tracker, TrackError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

PRELOAD = ("lowrung.finetune.run", "lowrung.finetune.preflight", "lowrung.adapters.verify", "lowrung.track.mlflow")
"""What every run imports: 10 to 13 s that the engine spends once."""


CHECK_SECONDS = 1.0
"""How often a sweep looks whether Ctrl-C was pressed, and whether a run that another sweep trains has ended."""


class Launcher(Protocol):
    """What a Hydra launcher must have for this sweeper: an engine, which does not wait for whole batches."""

    def make_engine(self, preload: Sequence[str]) -> Engine:
        """The engine that the launcher wraps."""


def run(
    overrides: Sequence[str],
    *,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    launcher: Any,
    **settings: Any,
) -> None:
    """Runs a sweep to its end and prints its leaderboard.

    Args:
        overrides: the search space and what is fixed, as Hydra overrides.
        hydra_context: Hydra's.
        task_function: the function below ``@hydra.main``.
        config: the sweep's composed config, Hydra's node included.
        launcher: a `Launcher`.
        **settings: the fields of a `Settings`.

    Raises:
        UsageError: before anything has started.
        RunFailed: when a trial failed; all results that there are have been kept.
    """
    if not hasattr(launcher, "make_engine"):
        raise UsageError(
            f"hydra/launcher must be local with lowrung's sweeper, but is {type(launcher).__name__}."
            " Leave it out, or add hydra/sweeper=basic to run plain batches without a study."
        )
    how = Settings(**settings)
    composer = Composer(hydra_context, config)
    space = composer.space(overrides, how.n_trials, how.objectives)
    points = composer.points(space, how.objectives)
    if problems := search_problems(how, space, points):
        raise UsageError(problems)
    with closing(launcher.make_engine(PRELOAD)) as engine:
        require_a_device_map(points, config.hydra.launcher.get("gpus_per_trial", 1))
        planned = Plan.make(composer, space, points, config, how.n_trials, how.objectives, engine)
        with atomic.lock(planned.folder.lock):
            sweep = Sweep(planned, composer, task_function, engine, how)
            sweep.run()
    sweep.report()


@dataclasses.dataclass
class Trying:
    """A trial between ask and tell.

    Attributes:
        trial: Optuna's.
        overrides: the job's, as Hydra overrides.
        point: what was searched, as text.
        config: the job's.
        folder: the run's.
        tracked: the tracker's id of the run.
        steps: optimiser steps of a whole run.
        losses: how often its process was lost.
        stopped_as: what its run was asked to end as, or None.
        is_elsewhere: whether another sweep was found to train its run.
    """

    trial: "Trial"
    overrides: Sequence[str]
    point: Mapping[str, str]
    config: Config
    folder: RunFolder
    tracked: str
    steps: int
    losses: int = 0
    stopped_as: Status | None = None
    is_elsewhere: bool = False

    @property
    def key(self) -> str:
        """Names it in the engine and on the screen."""
        return str(self.trial.number)

    @property
    def title(self) -> str:
        """What a person knows it by."""
        return f"trial {self.trial.number}" + (f" ({leaderboard.name(self.point)})" if self.point else "")


class Sweep:
    """The coordinator."""

    def __init__(
        self, plan: Plan, composer: Composer, task_function: TaskFunction, engine: Engine, settings: Settings
    ) -> None:
        from lowrung.search.study import Study

        self._plan = plan
        self._composer = composer
        self._task_function = task_function
        self._engine = engine
        self._settings = settings
        if settings.fresh:
            _clear(plan)
        self._study: Study = Study(
            plan.study,
            database=plan.folder.database,
            space=plan.space,
            objectives=plan.objectives,
            seed=plan.config.seed,
            sampler=settings.sampler,
            pruner=settings.pruner,
        )
        self._tracker: Tracker = recording.make_tracker(plan.config)
        self._results = Results(plan.folder, plan.objectives, plan.n_trials, self._tracker)
        self._trying: dict[str, Trying] = {}
        self._waiting: list[Trying] = []
        self._look_again = 0.0
        self._failures = 0
        self._progress = Progress()

    def run(self) -> None:
        """Runs all trials that are still to run.

        Ctrl-C once lets those that are running write a checkpoint and end, twice ends them at once; the same command
        goes on from there.
        """
        atomic.remove_leftovers(self._plan.folder.path)
        OmegaConf.save(self._composer.master, self._plan.folder.path / "multirun.yaml")
        self._keep_finished()
        with self._progress:
            done = len(self._results.numbers)
            self._progress.say(f"study {self._plan.study}: {self._plan.n_trials} trials, {done} done before")
            try:
                with CtrlC() as ctrl_c:
                    self._loop(ctrl_c)
            except BaseException as error:
                self._break_off(error)
                raise

    def report(self) -> None:
        """Prints the leaderboard; see `lowrung.results.Results.report`."""
        self._log_best()  # again, for a coordinator that was killed when it had told the last trial
        self._results.report(self._parent)

    def _break_off(self, error: BaseException) -> None:
        """Closes the tracked runs of a sweep that ends early; they are opened again when it goes on."""
        if isinstance(error, KeyboardInterrupt):
            self._progress.say("interrupted; the same command goes on from here")
        with suppress(TrackError):
            for trying in (*self._trying.values(), *self._waiting):
                self._tracker.end_run(trying.tracked, Status.CANCELLED)
            self._tracker.end_run(self._parent, Status.CANCELLED)

    def _loop(self, ctrl_c: CtrlC) -> None:
        adopted = self._study.interrupted()
        while True:
            ctrl_c.check()
            if ctrl_c.was_pressed:
                self._wind_down()
            else:
                self._look_at_waiting()
                while len(self._trying) < self._engine.slots and (trial := self._next(adopted)):
                    self._start(trial)
            if self._trying:
                for event in self._engine.wait(timeout=CHECK_SECONDS):
                    self._take(event)
            elif ctrl_c.was_pressed:
                raise KeyboardInterrupt
            elif self._waiting:
                time.sleep(CHECK_SECONDS)
            else:
                return

    def _wind_down(self) -> None:
        """Asks all runs to write a checkpoint and end."""
        going = [trying for trying in self._trying.values() if trying.stopped_as is None]
        if going:
            self._progress.say("stopping: each run ends after its step, with a checkpoint; Ctrl-C again ends all now")
        for trying in going:
            self._stop(trying, Status.CANCELLED)

    def _stop(self, trying: Trying, status: Status) -> None:
        trying.stopped_as = status
        mailbox.ask_to_stop(trying.folder.path, str(status))

    def _take(self, event: Event) -> None:
        trying = self._trying[event.key]
        if isinstance(event, Ended):
            self._end(trying, event)
            return
        step, metrics = event.report["step"], event.report["metrics"]
        self._progress.update(event.key, step, metrics)
        is_pruned = self._report(trying, step, metrics)
        if is_pruned and trying.stopped_as is None and step < trying.steps:
            self._stop(trying, Status.PRUNED)

    def _report(self, trying: Trying, step: int, metrics: Mapping[str, float]) -> bool:
        """Tells the study of an evaluation; whether the trial is to be pruned."""
        if "eval/loss" not in metrics or step == 0:
            return False
        return self._study.report(trying.trial, int(metrics["train/tokens"]), metrics)

    @cached_property
    def _parent(self) -> str:
        """The tracker's run of the whole sweep, the same for every start of the study."""
        known = self._study.facts.get("tracked")
        if known is not None and self._tracker.has_run(known):
            return str(known)
        tags = {"lowrung.kind": "sweep", "lowrung.study": self._plan.study}
        if "key" not in self._study.facts:
            self._study.note("key", uuid.uuid4().hex)
        parent = self._tracker.start_run(self._plan.study, tags=tags, key=self._study.facts["key"])
        self._study.note("tracked", parent)
        return parent

    def _keep_finished(self) -> None:
        """Takes over trials that an earlier start of this study finished, where the same run would come out."""
        for trial in self._study.trials:
            signature = trial.user_attrs.get("signature")
            if not trial.state.is_finished() or signature is None:  # without one it was never whole
                continue
            folder = self._store / str(signature)
            overrides = trial.user_attrs.get("overrides", self._plan.space.overrides(trial.params))
            wanted = self._folder(self._composer.config(overrides))
            outcome = app.kept(wanted, also=trial.user_attrs.get("status")) if wanted.path == folder else None
            if outcome is not None:
                self._results.children[trial.number] = trial.user_attrs.get("tracked", "")
                self._add_row(trial, wanted, outcome, is_reused=True)

    @property
    def _store(self) -> Path:
        return Path(self._plan.config.store).absolute()

    def _folder(self, config: Config) -> RunFolder:
        signature = app.run_signature(config, self._plan.preflight(config), self._engine.threads)
        return layout.run_folder(self._store, signature)

    def _next(self, adopted: list["Trial"]) -> "Trial | None":
        """The next trial: one that was interrupted, else at the grid's point that has had the fewest trials."""
        if adopted:
            return adopted.pop(0)
        under_way = (*self._trying.values(), *self._waiting)
        taken = [*self._results.numbers, *(trying.trial.number for trying in under_way)]
        if len(taken) >= self._plan.n_trials:
            return None
        trials = self._study.trials
        counts = Counter(self._place(trials[number]) for number in taken)
        place = min(range(len(self._plan.points)), key=lambda i: counts[i])
        return self._study.ask(self._plan.points[place].params)

    def _place(self, trial: "FrozenTrial") -> int:
        """Which point of the grid a trial is at."""
        keys = [axis.key for axis in self._plan.space.choices]
        params = {key: trial.params[key] for key in keys}
        return next((i for i, point in enumerate(self._plan.points) if point.params == params), -1)

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self, trial: "Trial") -> None:
        overrides = trial.user_attrs.get("overrides") or self._plan.space.overrides(trial.params)
        config = self._composer.config(overrides)
        tracked = self._track(trial, config)
        point = self._plan.space.texts(trial.params)
        steps = app.steps(config, self._plan.preflight(config))
        self._dispatch(Trying(trial, overrides, point, config, self._folder(config), tracked, steps))

    def _dispatch(self, trying: Trying) -> None:
        """Answers a trial from the store, or submits it; where its run is under way already, it waits for that."""
        composed = self._composer.job(trying.overrides, trying.trial.number)
        job = JobFolder(hydra_job.output_folder(composed))
        trying.trial.set_user_attr("signature", trying.folder.path.name)
        layout.point_to(job.run, trying.folder.path)
        outcome = app.kept(trying.folder)
        if outcome is not None:
            hydra_job.leave_files(composed)
            for report in mailbox.Reader(trying.folder.path).read():  # other trials are judged by it
                self._report(trying, report["step"], report["metrics"])
            self._finish(trying, outcome, is_reused=True)
        elif any(other.folder == trying.folder for other in self._trying.values()):
            self._waiting.append(trying)
        else:
            self._submit(trying, composed, job)

    def _submit(self, trying: Trying, composed: DictConfig, job: JobFolder) -> None:
        config, preflight = trying.config, self._plan.preflight(trying.config)
        try:
            app.prepare_folder(trying.folder, app.pinned(config, preflight.revision), preflight, self._engine.threads)
        except StoreError:
            self._wait_for_another_sweep(trying)
            return
        assignment = Assignment(
            folder=str(trying.folder.path),
            data=str(preflight.data_folder),
            revision=preflight.revision,
            threads=self._engine.threads,
            tracking=recording.tracking_uri(config),
            experiment=config.track.experiment,
            run=trying.tracked,
        )
        assignment.write(job.assignment)
        task = hydra_job.hydra_task(self._composer.hydra_context, self._task_function, composed)
        self._engine.submit(Job(trying.key, trying.folder.path, task))
        self._trying[trying.key] = trying
        self._progress.start(trying.key, trying.title, trying.steps)

    def _wait_for_another_sweep(self, trying: Trying) -> None:
        """Puts off a trial whose run another sweep trains: that result will be this trial's, or it goes on from it."""
        if not trying.is_elsewhere:
            self._progress.say(f"{trying.title}: another process works in {trying.folder.path}; waiting for it")
        trying.is_elsewhere = True
        self._waiting.append(trying)

    def _look_at_waiting(self) -> None:
        """Tries again, once a while, what another sweep or another trial of this one was training."""
        if not self._waiting or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + CHECK_SECONDS
        waiting, self._waiting = self._waiting, []
        for trying in waiting:
            if len(self._trying) < self._engine.slots:
                self._dispatch(trying)
            else:
                self._waiting.append(trying)

    def _track(self, trial: "Trial", config: Config) -> str:
        """Opens the trial's run in the tracker; an interrupted trial has one already."""
        known = trial.user_attrs.get("tracked")
        if known is not None and self._tracker.has_run(known):
            self._results.children[trial.number] = known
            return str(known)
        point = self._plan.space.texts(trial.params)
        tracked = self._tracker.start_run(
            leaderboard.name(point) or f"trial {trial.number}",
            parent=self._parent,
            params={**point, **recording.key_params(config)},
            tags={"lowrung.kind": "trial", "lowrung.trial": str(trial.number), "lowrung.study": self._plan.study},
            key=f"{self._parent}/{trial.number}",
        )
        trial.set_user_attr("tracked", tracked)
        self._results.children[trial.number] = tracked
        return tracked

    # -- ending --------------------------------------------------------------------------------------------------------

    def _end(self, trying: Trying, ended: Ended) -> None:
        """Finds out how a run ended: its own record is trusted first, then what its process left behind."""
        del self._trying[trying.key]
        outcome = Outcome.read(trying.folder.outcome)
        is_lost = outcome is None and ended.how is How.DIED
        if outcome is None:
            outcome = Outcome(Status.FAILED, cause=f"{_cause(ended)}; read {trying.folder.log}")
        if trying.stopped_as is Status.CANCELLED and outcome.status not in (Status.COMPLETE, Status.DIVERGED):
            self._put_aside(trying)
        elif is_lost and trying.losses < self._settings.retries:
            self._progress.end(trying.key, trying.title, f"its process was lost ({ended.cause}); tried again")
            self._dispatch(dataclasses.replace(trying, losses=trying.losses + 1, stopped_as=None))
        elif outcome.status is Status.OOM and (halved := self._with_half_the_batch(trying)):
            self._progress.end(trying.key, trying.title, f"{outcome.cause}; tried again with half the batch")
            self._dispatch(halved)
        else:
            self._finish(trying, outcome)
            self._finish_twins(trying.folder, outcome)

    def _put_aside(self, trying: Trying) -> None:
        """Leaves a run that was stopped untold: the study's next start goes on from its checkpoint."""
        self._progress.end(trying.key, trying.title, "stopped; it goes on from its checkpoint")
        with suppress(TrackError):
            self._tracker.end_run(trying.tracked, Status.CANCELLED)

    def _with_half_the_batch(self, trying: Trying) -> Trying | None:
        """The same trial with as many examples a step in half as large batches, once; None where there is no half."""
        train = trying.config.train
        if train.batch_size % 2 or "overrides" in trying.trial.user_attrs:
            return None
        batch, accumulated = train.batch_size // 2, train.gradient_accumulation_steps * 2
        overrides = [
            *trying.overrides,
            f"train.batch_size={batch}",
            f"train.gradient_accumulation_steps={accumulated}",
        ]
        trying.trial.set_user_attr("overrides", overrides)
        config = self._composer.config(overrides)
        note = f"out of memory; batch_size {batch}, gradient_accumulation_steps {accumulated}"
        with suppress(TrackError):
            self._tracker.set_tags(trying.tracked, {"lowrung.retry": note})
        return dataclasses.replace(
            trying, overrides=overrides, config=config, folder=self._folder(config), stopped_as=None
        )

    def _finish_twins(self, folder: RunFolder, outcome: Outcome) -> None:
        waiting, self._waiting = self._waiting, []
        for trying in waiting:
            if trying.folder == folder:
                self._finish(trying, outcome, is_reused=True)
            else:
                self._waiting.append(trying)

    def _finish(self, trying: Trying, outcome: Outcome, *, is_reused: bool = False) -> None:
        """Ends a trial everywhere: in the study, in the tracker, on the screen.

        Raises:
            RunFailed: when it is one failure too many.
        """
        execution.tidy(trying.folder, outcome)
        splits = self._plan.preflight(trying.config).splits
        recording.finish(self._tracker, trying.tracked, trying.folder, outcome, splits)
        # Last: what a coordinator that is killed has not told is done again when the sweep goes on.
        self._study.tell(trying.trial, outcome)
        self._add_row(self._study.trials[trying.trial.number], trying.folder, outcome, is_reused=is_reused)
        self._log_best()
        self._progress.end(trying.key, trying.title, ending(outcome, is_reused))
        self._results.show(self._progress, len(self._trying))
        self._count_failure(outcome)

    def _log_best(self) -> None:
        ended = sum(trial.state.is_finished() for trial in self._study.trials)
        self._results.log_best(self._parent, ended)

    def _count_failure(self, outcome: Outcome) -> None:
        """Ends a sweep that only fails: what comes next would most likely fail too."""
        self._failures = 0 if outcome.status.is_kept else self._failures + 1
        if self._failures >= self._settings.max_failures and self._failures < self._plan.n_trials:
            raise RunFailed(
                f"{self._failures} trials failed one after the other (hydra.sweeper.max_failures), the last with:"
                f" {outcome.cause}. Mend that, and the same command goes on."
            )

    def _add_row(self, trial: "FrozenTrial", folder: RunFolder, outcome: Outcome, *, is_reused: bool) -> None:
        self._results.add(trial.number, self._plan.space.texts(trial.params), folder, outcome, is_reused=is_reused)


def _clear(plan: Plan) -> None:
    """Starts the study over: its record and its jobs' folders go; results stay in the store, and are reused."""
    plan.folder.database.unlink(missing_ok=True)
    for job in plan.folder.path.iterdir():
        if job.name.isdigit():
            shutil.rmtree(job)


def _cause(ended: Ended) -> str:
    """Why a job that left no outcome ended, in one line."""
    if ended.how is not How.RETURNED:
        return ended.cause or str(ended.how)
    if isinstance(ended.value, JobReturn) and ended.value.status is JobStatus.FAILED:
        error = ended.value._return_value
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "the run left no outcome"
