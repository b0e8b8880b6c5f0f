"""What an earlier start of a study has finished, and need not be run again."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lowrung.engine import hydra_job
from lowrung.runs.folder import kept_outcome
from lowrung.store import layout
from lowrung.store.layout import JobFolder
from lowrung.sweeps.happened import Finished
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.runs import BY_PLAN, Run, RunMaker
from lowrung.sweeps.stage_trials import StageTrials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from lowrung.search.study import Study


def kept_trials(
    study: "Study", trials: StageTrials, maker: RunMaker
) -> "Iterator[tuple[FrozenTrial, GridPoint, Mapping[int, Finished]]]":
    """The finished trials of a stage whose results are all in the store, each with its point and its runs by seed.

    A trial counts where the same command would give the same runs: their signatures are equal. A grid has each point
    once. A point whose results were deleted has been run again under another number; of its trials the first counts.

    Args:
        study: the sweep's.
        trials: the stage's, which are counted there.
        maker: makes the runs anew.
    """
    for trial in study.trials:
        runs = study.runs(trial)
        point = trials.point_of(trial.params) if study.stage_of(trial) == trials.stage.name else None
        if not trial.state.is_finished() or not runs or point is None:  # without a run: killed while it was asked for
            continue
        kept = {
            seed: _kept(
                trial,
                maker.make(
                    trial.number,
                    point,
                    trial.params,
                    seed,
                    stage=trials.stage.name,
                    overrides=facts.get("overrides"),
                    is_by_plan=facts.get(BY_PLAN, False),
                ),
                facts,
            )
            for seed, facts in runs.items()
        }
        finished = {seed: run for seed, run in kept.items() if run is not None}
        if len(finished) == len(runs) and not trials.is_repeat(point):
            trials.keep(trial.number, point, trial.params)
            yield trial, point, finished


def _kept(trial: "FrozenTrial", run: Run, facts: Mapping[str, Any]) -> Finished | None:
    if run.folder.path.name != facts.get("signature"):
        return None
    outcome = kept_outcome(run.folder, also=trial.user_attrs.get("status"))
    if outcome is None:
        return None
    _put_back(run)
    return Finished(run, outcome, is_reused=True)


def _put_back(run: Run) -> None:
    """Makes a trial's job folder lead to the trial's run again, where another run was started in it since."""
    job = JobFolder(hydra_job.output_folder(run.composed))
    if not layout.points_to(job.run, run.folder.path):
        layout.point_to(job.run, run.folder.path)
        hydra_job.leave_files(run.composed)
