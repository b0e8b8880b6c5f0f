"""What a study has used of its budget: the time of each job, whatever came of it, times its GPUs or its threads."""

import contextlib
import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.engine import gpus
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.store.parts import last_checkpoint
from lowrung.sweeps import tries
from lowrung.sweeps.budget import Budget, amount
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.runs import Run, RunMaker
from lowrung.sweeps.tries import HOUR, Try

if TYPE_CHECKING:
    from lowrung.search.study import Study


def gpus_of(launcher: Mapping[str, Any], slots: int) -> float:
    """The GPUs of a job: those that it sees, or its part of them where several jobs share them.

    Args:
        launcher: the fields of ``hydra.launcher``.
        slots: how many jobs run at the same time.
    """
    each = float(launcher.get("gpus_per_trial", 1)) if signature.device_kind() == "cuda" else 0.0
    if not each or "workers_per_gpu" not in launcher:
        return each
    groups = max(1, len(gpus.visible()) // max(1, int(each)))
    return each * min(1.0, groups / slots)


def waits(launcher: Mapping[str, Any]) -> bool:
    """Whether a job waits before it has its GPU, on SLURM and Ray: that is no use of one."""
    return "partition" in launcher or "address" in launcher


class Spending:
    """Holds a study to its budget, and notes what its jobs take, also where it has none yet.

    Args:
        study: where it is noted, so that the next start knows it.
        plan: the sweep's.
        maker: gives the folders of runs.
        master: the sweep's composed config.
        slots: how many jobs run at the same time.
        starting: gives the configs that the runs of a point without intervals start with.
        note: has the study remember a run's jobs.
        say: prints a line for the user.
    """

    def __init__(
        self,
        study: "Study",
        plan: Plan,
        maker: RunMaker,
        master: DictConfig,
        slots: int,
        starting: Callable[[GridPoint], Sequence[Config]],
        note: Callable[[Run, list[dict[str, Any]]], None],
        say: Callable[[str], None],
    ) -> None:
        self.budget = Budget.of(plan.settings.budget)
        self._plan = plan
        self._maker = maker
        self._starting = starting
        self._note = note
        self._say = say
        self._gpus = gpus_of(master.hydra.launcher, slots)
        self._waits = waits(master.hydra.launcher)
        self._tries: defaultdict[int, dict[int, list[Try]]] = defaultdict(dict)
        self._running: dict[str, Run] = {}
        self._starts: dict[str, float] = {}
        """When the jobs of runs began that have their GPUs, by the clock that nobody sets."""
        self._least_refused: float | None = None
        self._planned: dict[int, float] = {}
        self._cut: dict[tuple[int, int], str] = {}
        store = Path(plan.config.store).absolute()
        for trial in study.trials:
            for seed, facts in study.runs(trial).items():
                known = tries.of_run(facts, store, waits=self._waits)
                self._tries[trial.number][seed] = [job for job, _ in known]
                if known and (shown := known[-1][1]):  # a job that another one has followed has its end
                    self._cut[trial.number, seed] = shown
        ended = [each for trial in self._tries.values() for known in trial.values() for each in known]
        self._ended = len(ended), sum(each.seconds or 0.0 for each in ended), sum(map(self._hours, ended))

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def begin(self, run: Run, *, is_adopted: bool = False) -> None:
        """Notes that a job of a run has started, or that one goes on."""
        self._running[run.key] = run
        self._least_refused = None
        jobs, cut = self._jobs(run), self._cut.pop((run.trial, run.seed), None)
        if cut and not is_adopted:
            self._say_cut(run.trial, cut)
        if is_adopted and jobs:
            self._count(jobs[-1], -1)
            jobs[-1] = dataclasses.replace(jobs[-1], seconds=None)
        else:
            claim = tries.text(run.folder.claim)
            jobs.append(Try(_now(), self._gpus, self._maker.threads, None, self._seconds_left(run.config), claim))
        self._taken(run)  # counts from now on, unless it waits
        self._write(run)

    def end(self, run: Run) -> None:
        """Notes that a job has ended."""
        jobs = self._jobs(run)
        jobs[-1] = Try(jobs[-1].began, jobs[-1].gpus, jobs[-1].threads, self._taken(run))
        self._count(jobs[-1], 1)
        del self._running[run.key]
        self._starts.pop(run.key, None)
        self._write(run)

    def break_off(self) -> None:
        """Notes that the jobs which run have ended, since the sweep ends."""
        for run in list(self._running.values()):
            with contextlib.suppress(Exception):  # the study's record may be what has failed
                self.end(run)

    def _jobs(self, run: Run) -> list[Try]:
        return self._tries[run.trial].setdefault(run.seed, [])

    def _count(self, job: Try, sign: int) -> None:
        """Adds a job that has ended to what was spent, or takes one away."""
        jobs, seconds, hours = self._ended
        self._ended = jobs + sign, seconds + sign * (job.seconds or 0.0), hours + sign * self._hours(job)

    def _hours(self, job: Try) -> float:
        """Of the budget that a job has taken, which has ended."""
        return 0.0 if self.budget is None else job.hours(self.budget.unit, job.seconds or 0.0)

    def _taken(self, run: Run) -> float:
        """The seconds that the job of a run has taken, which runs."""
        if run.key not in self._starts:  # read once: each point of a grid that is asked for needs it
            start = tries.start_of(self._jobs(run)[-1], run.folder, waits=self._waits)
            if start is None:
                return 0.0
            self._starts[run.key] = _counted() - max(0.0, _now() - start)
        return _counted() - self._starts[run.key]

    def _write(self, run: Run) -> None:
        self._note(run, [each.written for each in self._jobs(run)])

    # -- the budget ----------------------------------------------------------------------------------------------------

    @property
    def hours(self) -> float:
        """What was spent so far, jobs that run included; 0 without a budget."""
        return self._ended[-1] + self._under_way(planned=False)

    def of_trial(self, trial: int) -> float:
        """What the jobs of a trial have taken that has ended."""
        return sum(self._hours(each) for jobs in self._tries[trial].values() for each in jobs)

    def _under_way(self, *, planned: bool) -> float:
        """Hours of the jobs that run now: so far, or to their ends by the plan where that is more."""
        if self.budget is None:
            return 0.0
        total = 0.0
        for run in self._running.values():
            job = self._jobs(run)[-1]
            total += job.hours(self.budget.unit, max(self._taken(run), job.planned if planned else 0.0))
        return total

    def may_start(self, run: Run) -> bool:
        """Whether a job of a run keeps to the budget by the plan, beside those that run now."""
        return self.budget is None or self._has_room_for(self.budget, self._seconds_left(run.config))

    def may_begin(self, point: GridPoint) -> bool:
        """Whether all runs of a point without intervals do; those with results in the store take nothing."""
        if self.budget is None:
            return True
        if id(point) not in self._planned:  # a grid's points live as long as the sweep
            due = [config for config in self._starting(point) if kept_outcome(self._maker.folder(config)) is None]
            self._planned[id(point)] = sum(map(self._seconds_left, due)) if due else -1.0
        seconds = self._planned[id(point)]
        return seconds < 0 or self._has_room_for(self.budget, seconds)

    @property
    def seconds_left(self) -> float:
        """Of runs, until the budget is spent; infinite without one."""
        if self.budget is None:
            return math.inf
        return max(0.0, self.budget.hours - self.hours) * HOUR / self._rate(self.budget)

    def _rate(self, budget: Budget) -> float:
        """What an hour of a run counts for."""
        return self._gpus if budget.unit == "gpu_hours" else self._maker.threads

    def _has_room_for(self, budget: Budget, seconds: float) -> bool:
        needed = seconds / HOUR * self._rate(budget)
        fits = self._fits(budget, needed)
        if not fits:
            self._least_refused = needed if self._least_refused is None else min(self._least_refused, needed)
        return fits

    def _fits(self, budget: Budget, needed: float) -> bool:
        committed = self._ended[-1] + self._under_way(planned=True)
        return committed < budget.hours and committed + needed <= budget.hours * (1 + 1e-9)

    def _seconds_left(self, config: Config) -> float:
        """What a run will still take: it goes on from its checkpoint."""
        steps = inputs.steps(config, self._plan.preflight(config))
        done = min(last_checkpoint(self._maker.folder(config)) / steps, 1.0) if steps else 0.0
        return self._seconds(config) * (1 - done)

    def _seconds(self, config: Config) -> float:
        """Of a whole run, by the plan; where it does not say, the mean of the jobs so far."""
        predicted = self._plan.predict(config, self._maker.threads)
        if predicted is not None:
            return predicted.seconds
        jobs, seconds, _ = self._ended
        return seconds / jobs if jobs else 0.0

    # -- in words ------------------------------------------------------------------------------------------------------

    @property
    def over(self) -> str | None:
        """Why nothing more starts, where the last run that was asked for would have passed the budget, and would now.

        One that was refused beside others may fit since they have ended, sooner than was planned.
        """
        if self.budget is None or self._least_refused is None or self._fits(self.budget, self._least_refused):
            return None
        needed = amount(self._least_refused)
        return (
            f"hydra.sweeper.budget: {self.budget.shown(self.hours)} spent; the next run needs {needed} by the plan; the"
            " same command with a larger budget goes on"
        )

    def say_first(self) -> None:
        """Says what was spent before the first run, where there is a budget."""
        if self.budget is not None and self.hours:
            self._say(f"hydra.sweeper.budget: {self.in_words} spent before")

    def say_last(self) -> None:
        """Says which jobs were cut that no other one has followed; one that a run goes on with was not cut."""
        for (trial, _), cut in self._cut.items():
            self._say_cut(trial, cut)
        self._cut.clear()

    def _say_cut(self, trial: int, cut: str) -> None:
        if self.budget is not None:
            self._say(f"trial {trial} {cut}")

    @property
    def in_words(self) -> str:
        """What was spent, and what it cost; empty without a budget."""
        return "" if self.budget is None else self.budget.with_cost(self.hours)

    @property
    def shown(self) -> str:
        """What was spent, for the live view; empty without a budget."""
        return "" if self.budget is None else f"spent {self.budget.shown(self.hours)}"

    @property
    def numbers(self) -> dict[str, float]:
        """What was spent, by name; none without a budget."""
        return {} if self.budget is None else self.budget.numbers(self.hours)

    @property
    def of_ended(self) -> tuple[int, dict[str, float]]:
        """How many jobs have ended, and what they took, by name; nothing without a budget."""
        jobs, _, hours = self._ended
        return jobs, {} if self.budget is None else self.budget.numbers(hours)

    def numbers_of(self, trial: int) -> dict[str, float]:
        """The same of a trial."""
        return {} if self.budget is None else self.budget.numbers(self.of_trial(trial))


def _now() -> float:
    """Seconds since 1970."""
    return time.time()


def _counted() -> float:
    """Seconds by a clock that nobody sets."""
    return time.monotonic()
