"""The queue of runs: a run is answered from the store, waits for a slot or for another sweep, or trains."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction

from lowrung.costs.facts import SECONDS, Planned
from lowrung.engine import hydra_job
from lowrung.engine.base import Ended, Engine, Exit, Job, Reported
from lowrung.errors import FolderInUse
from lowrung.report.progress import Progress
from lowrung.runs import inputs, planned
from lowrung.runs.folder import kept_outcome, prepare_folder
from lowrung.runs.parallel import LOST
from lowrung.runs.task import Assigned, Assignment, Ran
from lowrung.store import disk, layout, mailbox, parts, results
from lowrung.store.outcome import Outcome, Status
from lowrung.store.parts import last_checkpoint
from lowrung.store.results import TakenBack
from lowrung.sweeps.happened import Evaluated, Finished, QueueEvent, Stopped
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.runs import Run
from lowrung.sweeps.spending import Spending
from lowrung.track import base, recording
from lowrung.track.base import Opening

CHECK_SECONDS = 1.0
"""Seconds between two checks whether a run that another sweep trains has ended."""


@dataclasses.dataclass
class _State:
    """What happens to a run that has no outcome yet.

    Attributes:
        losses: how often its process was lost.
        reached: the step of the checkpoint that its job goes on from.
        asked_to_end: as what it was asked to end, or None.
        is_elsewhere: whether another sweep was found to train it.
    """

    losses: int = 0
    reached: int = 0
    asked_to_end: Status | None = None
    is_elsewhere: bool = False


class Queue:
    """Runs on their way to their outcomes, as many at once as the engine has slots. It alone knows their states.

    Args:
        engine: where they run.
        plan: the sweep's.
        hydra_context: Hydra's.
        task_function: the function below ``@hydra.main``.
        track: gives how the tracker's run of a run begins; None where its process is not to track it.
        progress: shows what runs.
        budget: says what may start, and notes what did.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        *,
        track: Callable[[Run], Opening | None],
        progress: Progress,
        budget: Spending,
    ) -> None:
        self._engine = engine
        self._budget = budget
        self._plan = plan
        self._make_task = hydra_job.task_maker(hydra_context)
        self._task_function = task_function
        self._track = track
        self._progress = progress
        self._states: defaultdict[str, _State] = defaultdict(_State)
        self._running: dict[str, Run] = {}
        self._for_a_slot: list[Run] = []
        self._for_another: list[Run] = []
        self._for_money: list[Run] = []
        self._next_check = 0.0
        self._is_winding_down = False

    @property
    def has_room(self) -> bool:
        """Whether a further run would start at once."""
        return len(self._running) + len(self._for_a_slot) < self._engine.slots and not self._for_money

    @property
    def is_out_of_budget(self) -> bool:
        """Whether all that is left would pass the budget."""
        return bool(self._for_money) and len(self.unfinished) == len(self._for_money)

    @property
    def running(self) -> int:
        """How many runs have a slot."""
        return len(self._running)

    @property
    def unfinished(self) -> list[Run]:
        """All runs that have no outcome yet."""
        return [*self._running.values(), *self._for_a_slot, *self._for_another, *self._for_money]

    def add(self, run: Run) -> Outcome | None:
        """Takes a run. Its outcome is returned where the store has it; else it comes from `wait`."""
        layout.point_to(run.job.run, run.folder.path)
        outcome = kept_outcome(run.folder)
        if outcome is not None:
            self._states.pop(run.key, None)
            hydra_job.leave_files(run.composed)
        elif any(other.folder == run.folder for other in self._running.values()):
            self._for_another.append(run)
        elif len(self._running) >= self._engine.slots:
            self._for_a_slot.append(run)
        else:
            self._submit(run)
        return outcome

    def wait(self, timeout: float) -> list[QueueEvent]:
        """Waits until something happens, and starts runs that waited for a slot.

        Args:
            timeout: seconds after which the answer is empty.
        """
        if not self._is_winding_down and (answered := self._advance()):
            return answered
        if self._running:
            happened = self._engine.wait(timeout)
            ended = {each.key for each in happened if isinstance(each, Ended)}
            for key in self._running:
                if key not in ended:
                    self._progress.waits(key, self._engine.waiting(key))
            return [event for each in happened for event in self._events(each)]
        if self._for_another and not self._is_winding_down:
            time.sleep(timeout)
        return []

    def prune(self, run: Run) -> None:
        """Asks a run that has a slot to write a checkpoint and end; one that was asked before is not asked again."""
        if self._states[run.key].asked_to_end is None:
            self._ask_to_end(run, Status.PRUNED)

    def drop(self, trial: int) -> list[Run]:
        """Forgets a trial's runs that have no slot, and returns them."""
        dropped = [run for run in self.unfinished if run.trial == trial and run.key not in self._running]
        for run in dropped:
            self._states.pop(run.key, None)
        self._for_a_slot = [run for run in self._for_a_slot if run.trial != trial]
        self._for_another = [run for run in self._for_another if run.trial != trial]
        self._for_money = [run for run in self._for_money if run.trial != trial]
        return dropped

    def running_of(self, trial: int) -> list[Run]:
        """A trial's runs that have a slot."""
        return [run for run in self._running.values() if run.trial == trial]

    def wind_down(self) -> None:
        """Asks all runs to write a checkpoint and end, and starts no more."""
        self._is_winding_down = True
        asked = [run for run in self._running.values() if self._states[run.key].asked_to_end is None]
        if asked:
            self._progress.say("stopping: each run ends after its step, with a checkpoint; Ctrl-C again ends all now")
        for run in asked:
            self._ask_to_end(run, Status.CANCELLED)

    def _ask_to_end(self, run: Run, status: Status) -> None:
        self._states[run.key].asked_to_end = status
        mailbox.ask_to_stop(run.folder.path, str(status))

    # -- starting ------------------------------------------------------------------------------------------------------

    def _advance(self) -> list[QueueEvent]:
        """Tries again what waits: for a slot as soon as one is free, for another sweep every `CHECK_SECONDS`."""
        ready = self._for_a_slot[: max(0, self._engine.slots - len(self._running))]
        self._for_a_slot = self._for_a_slot[len(ready) :]
        if self._for_another and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_SECONDS
            room = max(0, self._engine.slots - len(self._running) - len(ready))
            ready += self._for_another[:room]
            self._for_another = self._for_another[room:]
        return [Finished(run, outcome, is_reused=True) for run in ready if (outcome := self.add(run))]

    def _submit(self, run: Run) -> None:
        try:
            is_adopted, planned_seconds = self._engine.adopt(run.key, run.folder.path), None
            if is_adopted:
                self._progress.say(f"{run.title}: goes on with the job that an earlier start of a sweep has left")
            elif not self._budget.may_start(run):
                self._for_money.append(run)
                return
            else:
                assignment = self._assignment(run)
                task = Assigned(self._task_function, assignment)
                self._engine.submit(Job(run.key, run.folder.path, self._make_task(task, run.composed)))
                planned_seconds = assignment.planned.numbers[SECONDS] if assignment.planned else None
        except FolderInUse:
            self._wait_for_another_sweep(run)
            return
        self._running[run.key] = run
        self._budget.begin(run, is_adopted=is_adopted)
        self._states[run.key].reached = reached = last_checkpoint(run.folder)
        planned_seconds = None if reached else planned_seconds  # it does a part of the plan
        self._progress.start(run.key, run.title, run.steps, self._engine.waiting(run.key), planned_seconds)

    def _assignment(self, run: Run) -> Assignment:
        """What the run's job is to know. The run's folder is the job's from now on."""
        preflight, threads = self._plan.preflight(run.config), self._engine.threads
        pinned, predicted = inputs.pinned(run.config, preflight), self._plan.predict(run.config, threads)
        return Assignment(
            folder=run.folder,
            claim=prepare_folder(run.folder, pinned, preflight, threads, self._progress.say),
            preflight=preflight,
            threads=threads,
            planned=Planned.of(predicted) if predicted else None,
            tracking=recording.tracking_uri(run.config),
            experiment=base.chosen_experiment(run.config.track.experiment),
            opening=self._track(run),
        )

    def _wait_for_another_sweep(self, run: Run) -> None:
        """Puts off a run that another sweep trains: its outcome counts here too, or this run goes on from there."""
        state = self._states[run.key]
        if not state.is_elsewhere:
            self._progress.say(f"{run.title}: another process works in {run.folder.path}; waiting for it")
        state.is_elsewhere, state.asked_to_end = True, None
        self._for_another.append(run)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _events(self, event: Reported | Ended) -> list[QueueEvent]:
        run = self._running[event.key]
        if isinstance(event, Ended):
            del self._running[event.key]
            self._budget.end(run)
            self._for_a_slot = [*self._for_money, *self._for_a_slot]  # the run may have taken less than was planned
            self._for_money = []
            return self._ended(run, event)
        step, metrics = event.report["step"], event.report["metrics"]
        self._progress.update(run.key, step, metrics)
        return [Evaluated(run, step, metrics)]

    def _ended(self, run: Run, ended: Ended) -> list[QueueEvent]:
        """Finds out how a run ended: its own record is trusted first, then what its process left behind."""
        raised = ended.value._return_value if isinstance(ended.value, JobReturn) else ended.value
        if isinstance(raised, TakenBack):
            self._wait_for_another_sweep(run)
            return []
        disk.look_again(run.folder.path)
        outcome, state = results.left_by(run.folder), self._states.pop(run.key, _State())
        if outcome is not None and LOST in outcome.facts:  # as if the run's own process had been lost
            if ended.exit is Exit.RETURNED:  # a time limit and an eviction count as what they are
                ended = dataclasses.replace(ended, exit=Exit.DIED, cause=outcome.cause)
            outcome = None
        is_cancelled = state.asked_to_end is Status.CANCELLED
        is_stopped = outcome is not None and outcome.status is Status.CANCELLED  # by a signal to its process alone
        is_lost = (is_stopped or (outcome is None and ended.exit in (Exit.DIED, Exit.EVICTED))) and not is_cancelled
        if is_lost and ended.exit is not Exit.TIMED_OUT and self._goes_on(run, ended, state):
            self._for_a_slot.insert(0, run)
            return []
        if outcome is None or (is_stopped and ended.exit in (Exit.TIMED_OUT, Exit.EVICTED)):
            status = Status.OOM if ended.exit is Exit.OUT_OF_MEMORY else Status.FAILED
            outcome = Outcome(status, {}, _time_of(run), cause=f"{_cause(ended)}; read {run.folder.log}")
        if is_cancelled and outcome.status not in (Status.COMPLETE, Status.DIVERGED):
            return [Stopped(run)]
        planned.note(run.config, self._plan.preflight(run.config), self._engine.threads, outcome)
        is_tracked = isinstance(raised, Ran) and raised.is_tracked
        return [Finished(run, outcome, is_tracked=is_tracked), *self._twins(run, outcome)]

    def _goes_on(self, run: Run, ended: Ended, state: _State) -> bool:
        """Whether a run that was lost is tried again; says so. An eviction after progress is no loss of the run's."""
        cause, reached = ended.cause or "it was told to stop", last_checkpoint(run.folder)
        if ended.exit is Exit.EVICTED and reached > state.reached:
            losses, said = state.losses, f"{cause}; goes on from step {reached}"
        elif state.losses < self._plan.settings.retries:
            losses, said = state.losses + 1, f"its process was lost ({cause}); tried again"
        else:
            return False
        self._progress.end(run.key, run.title, said)
        self._states[run.key] = dataclasses.replace(state, losses=losses, asked_to_end=None)
        return True

    def _twins(self, ended: Run, outcome: Outcome) -> list[Finished]:
        """Runs of other trials with the same signature: they waited for this outcome, and have it too."""
        twins = [run for run in self._for_another if run.folder == ended.folder]
        self._for_another = [run for run in self._for_another if run.folder != ended.folder]
        for run in twins:
            self._states.pop(run.key, None)
        return [Finished(run, outcome, is_reused=True) for run in twins]


def _time_of(run: Run) -> dict[str, float]:
    """What a run took that left no outcome; nothing of one that never began."""
    took = sum(part.seconds for part in parts.so_far(run.folder))
    return {"time/total_seconds": took} if took else {}


def _cause(ended: Ended) -> str:
    """Why a job that left no outcome ended, in one line."""
    if ended.exit is not Exit.RETURNED:
        return ended.cause or str(ended.exit)
    if isinstance(ended.value, JobReturn) and ended.value.status is JobStatus.FAILED:
        error = ended.value._return_value
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "the run left no outcome"
