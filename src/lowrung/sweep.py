"""Many trials: ask, submit, wait for the first to end, tell. The only client of the study."""

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lowrung import app, atomic, layout, recording, schema
from lowrung.app import Assignment, RunFailed
from lowrung.engine import hydra_job
from lowrung.engine.base import Ended, Engine, How, Job, Reported
from lowrung.errors import UsageError
from lowrung.layout import JobFolder, RunFolder
from lowrung.outcome import Outcome, Status
from lowrung.plan import Composer, GridPoint, Plan
from lowrung.report import leaderboard
from lowrung.report.progress import Progress
from lowrung.schema import Config
from lowrung.track.base import Point, Tracker, TrackError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial


PRELOAD = ("lowrung.finetune.run", "lowrung.finetune.preflight", "lowrung.adapters.verify", "lowrung.track.mlflow")
"""What every run imports: 10 to 13 s that the engine spends once."""


CHECK_SECONDS = 1.0
"""How often a sweep looks whether Ctrl-C was pressed, where the exception did not reach it."""


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
    n_trials: int | None,
    objectives: Mapping[str, str],
) -> None:
    """Runs a sweep to its end and prints its leaderboard.

    Args:
        overrides: the search space and what is fixed, as Hydra overrides.
        hydra_context: Hydra's.
        task_function: the function below ``@hydra.main``.
        config: the sweep's composed config, Hydra's node included.
        launcher: a `Launcher`.
        n_trials: trials in total; see `LowrungSweeperConf`.
        objectives: metrics with ``minimize`` or ``maximize``.

    Raises:
        UsageError: before anything has started.
        RunFailed: when a trial failed; all results that there are have been kept.
    """
    if not hasattr(launcher, "make_engine"):
        raise UsageError(
            f"hydra/launcher must be local with lowrung's sweeper, but is {type(launcher).__name__}."
            " Leave it out, or add hydra/sweeper=basic to run plain batches without a study."
        )
    composer = Composer(hydra_context, config)
    space = composer.space(overrides, n_trials, objectives)
    points = composer.points(space, objectives)
    with closing(launcher.make_engine(PRELOAD)) as engine:
        _require_a_device_map(points, config.hydra.launcher.get("gpus_per_trial", 1))
        planned = Plan.make(composer, space, points, config, n_trials, objectives, engine)
        with atomic.lock(planned.folder.lock):
            sweep = Sweep(planned, composer, task_function, engine)
            sweep.run()
    sweep.report()


def _require_a_device_map(points: Sequence[GridPoint], gpus: int) -> None:
    """Refuses several GPUs for a model that would lie on one: SFTTrainer takes the rest for DataParallel and raises."""
    if gpus > 1 and any(point.config.model.device_map != "auto" for point in points):
        raise UsageError(
            f"hydra.launcher.gpus_per_trial={gpus} needs a model that is spread over them, but model.device_map is"
            " null. Add model.device_map=auto."
        )


@dataclasses.dataclass
class Trying:
    """A trial between ask and tell."""

    trial: "Trial"
    point: Mapping[str, str]
    config: Config
    folder: RunFolder
    tracked: str

    @property
    def key(self) -> str:
        """Names it in the engine and on the screen."""
        return str(self.trial.number)

    @property
    def title(self) -> str:
        """What a person knows it by."""
        return f"trial {self.trial.number}" + (f" ({leaderboard.name(self.point)})" if self.point else "")


class CtrlC:
    """Raises KeyboardInterrupt on Ctrl-C, and remembers it: Python drops an exception that comes inside a finaliser."""

    def __init__(self) -> None:
        self._was_pressed = False

    def check(self) -> None:
        """Raises KeyboardInterrupt when Ctrl-C was pressed."""
        if self._was_pressed:
            raise KeyboardInterrupt

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        self._was_pressed = True
        raise KeyboardInterrupt


class Sweep:
    """The coordinator."""

    def __init__(self, plan: Plan, composer: Composer, task_function: TaskFunction, engine: Engine) -> None:
        from lowrung.search.study import Study

        self._plan = plan
        self._composer = composer
        self._task_function = task_function
        self._engine = engine
        self._study: Study = Study(
            plan.study,
            database=plan.folder.database,
            space=plan.space,
            objectives=plan.objectives,
            seed=plan.config.seed,
        )
        self._tracker: Tracker = recording.make_tracker(plan.config)
        self._trying: dict[str, Trying] = {}
        self._twins: list[Trying] = []
        self._rows: dict[int, leaderboard.Row] = {}
        self._children: dict[int, str] = {}
        self._progress = Progress()

    def run(self) -> None:
        """Runs all trials that are still to run. Ctrl-C ends those that are running; they go on at the next start."""
        OmegaConf.save(self._composer.master, self._plan.folder.path / "multirun.yaml")
        self._keep_finished()
        with self._progress:
            self._progress.say(f"study {self._plan.study}: {self._plan.n_trials} trials, {len(self._rows)} done before")
            try:
                with CtrlC() as ctrl_c:
                    self._loop(ctrl_c)
            except BaseException as error:
                self._break_off(error)
                raise

    def _break_off(self, error: BaseException) -> None:
        """Closes the tracked runs of a sweep that ends early; they are opened again when it goes on."""
        if isinstance(error, KeyboardInterrupt):
            self._progress.say("interrupted; the same command goes on from here")
        with suppress(TrackError):
            for trying in (*self._trying.values(), *self._twins):
                self._tracker.end_run(trying.tracked, Status.CANCELLED)
            self._tracker.end_run(self._parent, Status.CANCELLED)

    def _loop(self, ctrl_c: CtrlC) -> None:
        adopted = self._study.interrupted()
        while True:
            ctrl_c.check()
            while len(self._trying) < self._engine.slots and (trial := self._next(adopted)):
                self._start(trial)
            if not self._trying:
                return
            for event in self._engine.wait(timeout=CHECK_SECONDS):
                if isinstance(event, Reported):
                    self._progress.update(event.key, event.report["step"], event.report["metrics"])
                else:
                    self._end(self._trying[event.key], event)

    @cached_property
    def _parent(self) -> str:
        """The tracker's run of the whole sweep, the same for every start of the study."""
        known = self._study.facts.get("tracked")
        if known is not None and self._tracker.has_run(known):
            return str(known)
        tags = {"lowrung.kind": "sweep", "lowrung.study": self._plan.study}
        parent = self._tracker.start_run(self._plan.study, tags=tags)
        self._study.note("tracked", parent)
        return parent

    def _keep_finished(self) -> None:
        """Takes over trials that an earlier start of this study finished, where the same run would come out."""
        for trial in self._study.trials:
            signature = trial.user_attrs.get("signature")
            if not trial.state.is_finished() or signature is None:  # without one it was never whole
                continue
            folder = self._folder(self._composer.config(self._plan.space.overrides(trial.params)))
            outcome = app.kept(folder) if folder.path.name == signature else None
            if outcome is not None:
                self._children[trial.number] = trial.user_attrs.get("tracked", "")
                self._add_row(trial, folder, outcome, is_reused=True)

    def _folder(self, config: Config) -> RunFolder:
        signature = app.run_signature(config, self._plan.preflight(config), self._engine.threads)
        return layout.run_folder(Path(config.store).absolute(), signature)

    def _next(self, adopted: list["Trial"]) -> "Trial | None":
        """The next trial: one that was interrupted, else at the grid's point that has had the fewest trials."""
        if adopted:
            return adopted.pop(0)
        taken = [*self._rows, *(trying.trial.number for trying in (*self._trying.values(), *self._twins))]
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

    def _start(self, trial: "Trial") -> None:
        """Answers a trial from the store, or submits it; one whose run is under way already waits for that."""
        plan, number = self._plan, trial.number
        overrides = plan.space.overrides(trial.params)
        composed = self._composer.job(overrides, number)
        config = schema.resolve(composed)
        folder = self._folder(config)
        job = JobFolder(hydra_job.output_folder(composed))
        trying = Trying(trial, plan.space.texts(trial.params), config, folder, self._track(trial, config))
        trial.set_user_attr("signature", folder.path.name)
        layout.point_to(job.run, folder.path)
        outcome = app.kept(folder)
        if outcome is not None:
            hydra_job.leave_files(composed)
            recording.replay(self._tracker, trying.tracked, folder)
            self._finish(trying, outcome, is_reused=True)
            return
        if any(other.folder == folder for other in self._trying.values()):
            self._twins.append(trying)
            return
        preflight = plan.preflight(config)
        app.prepare_folder(folder, app.pinned(config, preflight.revision), preflight, self._engine.threads)
        uri = recording.tracking_uri(config)
        assignment = Assignment(
            folder=str(folder.path),
            data=str(preflight.data_folder),
            revision=preflight.revision,
            threads=self._engine.threads,
            tracking=uri,
            experiment=config.track.experiment,
            run=trying.tracked,
        )
        assignment.write(job.assignment)
        task = hydra_job.hydra_task(self._composer.hydra_context, self._task_function, composed)
        self._engine.submit(Job(trying.key, folder.path, task))
        self._trying[trying.key] = trying
        self._progress.start(trying.key, trying.title, app.steps(config, preflight))

    def _track(self, trial: "Trial", config: Config) -> str:
        """Opens the trial's run in the tracker; an interrupted trial has one already."""
        known = trial.user_attrs.get("tracked")
        if known is not None and self._tracker.has_run(known):
            self._children[trial.number] = known
            return str(known)
        point = self._plan.space.texts(trial.params)
        tracked = self._tracker.start_run(
            leaderboard.name(point) or f"trial {trial.number}",
            parent=self._parent,
            params={**point, **recording.key_params(config)},
            tags={"lowrung.kind": "trial", "lowrung.trial": str(trial.number), "lowrung.study": self._plan.study},
        )
        trial.set_user_attr("tracked", tracked)
        self._children[trial.number] = tracked
        return tracked

    def _end(self, trying: Trying, ended: Ended) -> None:
        """Finds out how a run ended: its own record is trusted first, then what its process left behind."""
        del self._trying[trying.key]
        outcome = Outcome.read(trying.folder.outcome)
        if outcome is None:
            outcome = Outcome(Status.FAILED, cause=f"{_cause(ended)}; read {trying.folder.log}")
        self._finish(trying, outcome)
        twins, self._twins = self._twins, []
        for twin in twins:
            if twin.folder == trying.folder:
                self._finish(twin, outcome, is_reused=True)
            else:
                self._twins.append(twin)

    def _finish(self, trying: Trying, outcome: Outcome, *, is_reused: bool = False) -> None:
        """Ends a trial everywhere: in the study, in the tracker, on the screen."""
        self._study.tell(trying.trial, outcome)
        recording.finish(
            self._tracker, trying.tracked, trying.folder, outcome, self._plan.preflight(trying.config).splits
        )
        self._add_row(self._study.trials[trying.trial.number], trying.folder, outcome, is_reused=is_reused)
        self._log_best()
        self._progress.end(trying.key, trying.title, _ending(outcome, is_reused))

    def _add_row(self, trial: "FrozenTrial", folder: RunFolder, outcome: Outcome, *, is_reused: bool) -> None:
        point = self._plan.space.texts(trial.params)
        self._rows[trial.number] = leaderboard.Row(trial.number, point, outcome, folder.path, is_reused)

    # -- after the last trial ------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Prints the leaderboard and where everything is; then a failed trial is an error.

        Raises:
            RunFailed: when a trial ended as failed, oom or cancelled.
        """
        rows, plan = list(self._rows.values()), self._plan
        leaderboard.write(plan.folder.leaderboard, rows, plan.objectives)
        self._close_parent(rows)
        print("\n" + leaderboard.render(rows, plan.objectives) + "\n")
        for row in rows:
            if row.outcome.cause:
                print(f"trial {row.number} {row.outcome.status}: {row.outcome.cause}")
            for failure in row.outcome.facts.get("gate_failures", ()):
                print(f"warning: trial {row.number}: the merged-vs-adapter gate failed: {failure}")
        print(f"results:  {plan.folder.path}")
        self._print_comparison()
        bad = [row for row in rows if not row.outcome.status.is_kept]
        if bad:
            raise RunFailed(
                f"{len(bad)} of {len(rows)} trials failed (first: trial {bad[0].number}, {bad[0].outcome.cause})."
                " The others' results are kept; the same command runs the failed ones again."
            )

    def _log_best(self) -> None:
        """Gives the sweep's run the best trial's metrics so far, over the number of trials that have ended.

        MLflow's charts are empty for a run without metrics; this way they show the search's progress.
        """
        best = leaderboard.ranked(list(self._rows.values()), self._plan.objectives)[0]
        if best.outcome.status is Status.COMPLETE:
            ended = sum(trial.state.is_finished() for trial in self._study.trials)
            self._tracker.log(self._parent, [Point(ended, time.time(), best.outcome.numbers)])
            self._tracker.set_tags(self._parent, {"lowrung.best_trial": str(best.number)})

    def _close_parent(self, rows: Sequence[leaderboard.Row]) -> None:
        self._tracker.log_artifact(self._parent, self._plan.folder.leaderboard)
        has_failed = any(not row.outcome.status.is_kept for row in rows)
        self._tracker.end_run(self._parent, Status.FAILED if has_failed else Status.COMPLETE)

    def _print_comparison(self) -> None:
        tracked = [self._children[number] for number in sorted(self._rows)]
        fragment = self._tracker.comparison([child for child in tracked if child])
        if fragment is not None:
            print(f"compare:  make ui, then http://127.0.0.1:5000/{fragment}")


def _cause(ended: Ended) -> str:
    """Why a job that left no outcome ended, in one line."""
    if ended.how is not How.RETURNED:
        return ended.cause or str(ended.how)
    if isinstance(ended.value, JobReturn) and ended.value.status is JobStatus.FAILED:
        error = ended.value._return_value
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "the run left no outcome"


def _ending(outcome: Outcome, is_reused: bool) -> str:
    """How a trial ended, for the screen."""
    if outcome.status is not Status.COMPLETE:
        return f"{outcome.status}: {outcome.cause}"
    gate = {None: "", 1.0: ", merge verified", 0.0: ", MERGE CHECK FAILED"}[outcome.metrics.get("merge/passed")]
    seconds = outcome.measurements.get("time/total_seconds", 0)
    how = "reused" if is_reused else f"complete in {seconds:.0f} s"
    return f"{how}, eval loss {outcome.metrics['base/eval_loss']:.3f} → {outcome.metrics['eval/loss']:.3f}{gate}"
