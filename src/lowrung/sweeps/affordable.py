"""Which runs of a plan a budget has room for, as `lowrung.sweeps.spending` starts them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.report.planned import PlannedBudget, PlannedStage
from lowrung.store import addresses
from lowrung.sweeps import tries
from lowrung.sweeps.budget import UNITS, Budget
from lowrung.sweeps.filling import Left
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.predicting import is_time_known
from lowrung.sweeps.spending import gpus_of, waits
from lowrung.sweeps.tries import HOUR


@dataclasses.dataclass(frozen=True)
class Affordable:
    """What of a sweep starts.

    Attributes:
        left: the runs of the first stage.
        stages: the others, with the runs and seconds that start.
        budget: what it takes; None where there is none.
    """

    left: Sequence[Left]
    stages: Sequence[PlannedStage]
    budget: PlannedBudget | None


def of(
    plan: Plan,
    launcher: Mapping[str, Any],
    slots: int,
    threads: int,
    trials: Sequence[Sequence[Left]],
    stages: Sequence[PlannedStage],
) -> Affordable:
    """What starts of the runs that are left.

    Args:
        plan: the sweep's.
        launcher: the fields of ``hydra.launcher``.
        slots: how many runs there are at a time.
        threads: of each.
        trials: the runs of the first stage that are left, by trial.
        stages: the others; one starts nothing where the budget has kept runs of an earlier one back.

    Raises:
        StoreError: when the study's database cannot be read, which says what was spent.
    """
    every = [run for trial in trials for run in trial]
    budget = Budget.of(plan.settings.budget)
    if budget is None:
        return Affordable(every, stages, None)
    spent, runs = _spent(plan, launcher, budget), len(every) + sum(stage.runs for stage in stages)
    found = PlannedBudget(UNITS[budget.unit], budget.hours, spent, None, runs, None, budget.price)
    is_known = all(run.found for run in every) and all(stage.seconds is not None for stage in stages)
    if not is_known or not is_time_known():
        return Affordable(every, stages, found)
    each = (gpus_of(launcher, slots) if budget.unit == "gpu_hours" else threads) / HOUR
    seconds = sum(map(_seconds, every)) + sum(stage.seconds or 0.0 for stage in stages)
    room = _Room(budget.hours, spent)
    left = [run for trial in trials if room.takes(sum(map(_seconds, trial)) * each) for run in trial]
    later = [_started(stage, room, each) for stage in stages]
    starts = len(left) + sum(stage.runs for stage in later)
    return Affordable(left, later, dataclasses.replace(found, needed=seconds * each, starts=starts))


@dataclasses.dataclass
class _Room:
    """What a budget has left while runs are given their parts of it.

    Attributes:
        hours: the budget.
        committed: what was spent, and what was given away.
        is_over: whether something has found no room.
    """

    hours: float
    committed: float
    is_over: bool = False

    def takes(self, hours: float) -> bool:
        """Whether there is room for so many hours, which are given away then; none are needed of what is done."""
        fits = not hours or (self.committed < self.hours and self.committed + hours <= self.hours * (1 + 1e-9))
        self.committed += hours if fits else 0.0
        self.is_over |= not fits
        return fits


def _started(stage: PlannedStage, room: _Room, each: float) -> PlannedStage:
    """A stage with the runs that start of it."""
    if not stage.runs or room.is_over:
        return dataclasses.replace(stage, runs=0, seconds=0.0)
    seconds = (stage.seconds or 0.0) / stage.runs
    runs = 0
    while runs < stage.runs and room.takes(seconds * each):
        runs += 1
    return dataclasses.replace(stage, runs=runs, seconds=seconds * runs)


def _seconds(run: Left) -> float:
    return run.found.seconds * run.share if run.found else 0.0


def _spent(plan: Plan, launcher: Mapping[str, Any], budget: Budget) -> float:
    """What earlier starts of the study have used, by its database, which is only read."""
    from lowrung.search import recorded

    file = addresses.sqlite_path(plan.storage)
    if plan.settings.fresh or (file is not None and not file.exists()):
        return 0.0
    study = recorded.read(plan.storage, plan.study)
    store = Path(plan.config.store).absolute()
    known = [
        job
        for trial in (study.trials if study else ())
        for facts in trial.runs.values()
        for job, _ in tries.of_run(facts, store, waits=waits(launcher))
    ]
    return sum(job.hours(budget.unit, job.seconds or 0.0) for job in known)
