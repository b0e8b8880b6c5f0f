"""A sweep from its overrides to its leaderboard: read, checked, run by a coordinator, reported."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lowrung.config import structured
from lowrung.config.schema import VerifyConf
from lowrung.engine.assumed import Machine, assume
from lowrung.engine.base import Engine
from lowrung.engine.batches import BatchEngine
from lowrung.errors import FolderInUse, UsageError
from lowrung.report import plan_text
from lowrung.runs.folder import kept_outcome
from lowrung.store import atomic, disk
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import budget, earlier, finalists, folders, tried_first, workers
from lowrung.sweeps.beforehand import Beforehand
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.coordinator import Coordinator
from lowrung.sweeps.dry_run import DryRun
from lowrung.sweeps.plan import Plan, require_a_use_of_gpus, schedules
from lowrung.sweeps.results import Results
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.settings import Settings
from lowrung.sweeps.stages import Asked

if TYPE_CHECKING:
    from lowrung.search.study import Study
    from lowrung.search.warm_start import Earlier

PRELOAD = (
    "lowrung.finetune.training.fine_tune",
    "lowrung.finetune.preflight",
    "lowrung.finetune.gate.verify",
    "lowrung.track.mlflow",
    "lowrung.commands.train",
    "lowrung.runs.preloaded",
)
"""What every run imports. It takes 10 to 13 s, which the engine spends once."""


def run(
    asked: Asked,
    *,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    launcher: Any,
    settings: Settings,
) -> Results:
    """Runs a sweep to its end and prints its leaderboard.

    Args:
        asked: the search space and what is fixed, by stages, as Hydra overrides.
        hydra_context: Hydra's.
        task_function: the function below ``@hydra.main``.
        config: the sweep's composed config, Hydra's node included.
        launcher: Hydra's; one of lowrung's has an engine, and any other runs batches.
        settings: the fields of ``hydra.sweeper``.

    Returns:
        all trials that have ended; those of a dry run are none.

    Raises:
        UsageError: before anything has started.
        RunFailed: when a trial failed; all results that there are have been kept.
    """
    machine = None if list(settings.plan_problems()) else Machine.of(settings.plan_for)  # they are said with all others
    with assume(machine):
        return _run(asked, Composer(hydra_context, config), task_function, launcher, settings)


def _run(asked: Asked, composer: Composer, task_function: TaskFunction, launcher: Any, settings: Settings) -> Results:
    config = composer.master
    verify = structured.typed(VerifyConf, config.verify)
    search = composer.search(finalists.verified(asked, verify), settings, also=_launcher_problems(launcher))
    points = composer.points_of(search, settings.measured)
    every = [point for each in points.values() for point in each]
    unfit = tried_first.problems(settings.first, search, points)
    if problems := settings.search_problems(search.all_spaces, schedules(every)) + unfit:
        raise UsageError(problems)
    taught_by = earlier.load(settings, search, config)
    ordered = tried_first.in_order(settings.first, search, points)
    with closing(_make_engine(launcher, settings, config)) as engine:
        require_a_use_of_gpus(every, config.hydra.launcher.get("gpus_per_trial", 1))
        if problems := list(budget.device_problems(settings.budget)):
            raise UsageError(problems)
        planned = Plan.make(composer, search, ordered, settings, engine)
        if taught_by is not None:
            print(f"note: {taught_by.note(planned.purpose, planned.inputs)}")
        if settings.dry_run:
            workers.settle(engine, planned, config.hydra.launcher)
            of_sweep = DryRun(planned, composer, engine).planned()
            print(plan_text.text(of_sweep))
            return Results(planned, planned=of_sweep)
        with _alone(planned):
            with closing(_open_study(planned, taught_by)) as study:
                workers.settle(engine, planned, config.hydra.launcher, study)
                maker = RunMaker.of(planned, composer, engine.threads)
                beforehand = Beforehand(planned, maker, config.hydra.launcher, engine.slots, maker.predict)
                for note in beforehand.announce():
                    print(f"note: {note}")
                for folder in (Path(config.store).absolute(), planned.folder.path):
                    engine.tidy(folder)
                trains = _trains(planned, maker, beforehand)
                if trains:
                    engine.preload()
                coordinator = Coordinator(
                    study, planned, composer, task_function, engine, beforehand, is_known=not trains
                )
                coordinator.run()
            engine.close()  # what is drawn and recorded now needs its memory
            return coordinator.report()


def _trains(plan: Plan, maker: RunMaker, beforehand: Beforehand) -> bool:
    """Whether a run is sure to be trained. Of a grid the first and the last point are asked: few go on from between."""
    first = plan.search.stages[0]
    points = [point for point in plan.points[first.name][: plan.at_most_of(first)] if not point.is_open]
    run = [point for point in (*points[:1], *points[-1:]) if beforehand.of_point(point).skipped is None]
    configs = [config for point in run for config in beforehand.starting(point)]
    return any(kept_outcome(maker.folder(config)) is None for config in configs)


def _launcher_problems(launcher: Any) -> list[str]:
    """What is wrong with the settings of one of lowrung's launchers."""
    return launcher.problems() if hasattr(launcher, "problems") else []


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Holds the study's lock while the block runs.

    Raises:
        UsageError: when another process works on the study.
    """
    existing = disk.nearest(plan.folder.path)
    with ExitStack() as held:
        try:
            held.enter_context(atomic.lock(plan.folder.lock))
        except FolderInUse:
            raise _in_use(plan, f"another process in {plan.folder.path}") from None
        if problems := list(folders.study_problems(plan.folder, plan.study)):  # since the plan was made
            raise UsageError(problems)
        with _left_as_found(plan.folder, existing):
            yield


@contextmanager
def _left_as_found(folder: StudyFolder, existing: Path) -> Iterator[None]:
    """Takes away a study that its database or its tracker refuses before it has begun; its lock is held meanwhile."""
    is_new = set(folder.path.iterdir()) <= {folder.lock}
    try:
        yield
    except UsageError:
        if is_new and not folder.config.exists():
            for made in (*folder.path.glob(f"{folder.database.name}*"), folder.lock):
                made.unlink(missing_ok=True)
            disk.remove_empty(folder.path, existing)
        raise


def _in_use(plan: Plan, holder: str) -> UsageError:
    return UsageError(
        f"study must not be in use, but {plan.study!r} is run by {holder}. Wait for it, stop it, or choose another name"
        " for this study."
    )


def _make_engine(launcher: Any, settings: Settings, config: DictConfig) -> Engine:
    """The engine of one of lowrung's launchers, or one that hands batches to another launcher of Hydra's.

    Raises:
        UsageError: when the launcher's settings are wrong, or a pruner is to stop runs that cannot be stopped.
    """
    from lowrung.search import pruning

    if hasattr(launcher, "make_engine"):
        engine: Engine = launcher.make_engine(PRELOAD)
        return engine
    if pruning.is_by_evaluations(settings.pruner):
        raise UsageError(
            f"hydra/sweeper/pruner={settings.pruner['name']} must be able to stop a run, but hydra/launcher is"
            f" {type(launcher).__name__}, which runs whole batches. Leave the launcher or the pruner out."
        )
    return BatchEngine(launcher, config)


def _open_study(plan: Plan, taught_by: "Earlier | None") -> "Study":
    """Opens the study, as its one coordinator, wherever its storage is.

    Raises:
        UsageError: when the storage does not open, or another process is the study's coordinator.
    """
    from lowrung.search.lease import StudyTaken

    try:
        return _study(plan, taught_by)
    except StudyTaken as error:
        raise _in_use(plan, str(error)) from None


def _study(plan: Plan, taught_by: "Earlier | None") -> "Study":
    """The study. ``fresh`` deletes its record, its answer and its jobs' folders first; results stay in the store."""
    from lowrung.search.study import Study

    settings = plan.settings
    if settings.fresh:
        Study.delete(plan.study, plan.storage, plan.folder.lock)
        for said in (plan.folder.leaderboard, plan.folder.verdict):  # of trials that have the numbers of the new ones
            said.unlink(missing_ok=True)
        for job in plan.folder.path.iterdir():
            if job.name.isdigit():
                shutil.rmtree(job)
    return Study(
        plan.study,
        storage=plan.storage,
        space=plan.search.all_spaces[0],
        objectives=settings.objectives,
        constraints=settings.constraints,
        seed=plan.config.seed,
        sampler=settings.sampler,
        pruner=settings.pruner,
        unpruned=[stage.name for stage in plan.search.stages if not stage.prune],
        purpose=plan.purpose,
        inputs=plan.inputs,
        earlier=taught_by,
        lock=plan.folder.lock,
    )
