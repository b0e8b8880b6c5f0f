"""What every engine offers: submit, wait, cancel. Engines know nothing of Optuna, MLflow or LoRA."""

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lowrung.errors import EngineError


@dataclasses.dataclass(frozen=True)
class Job:
    """One task for a process of its own.

    Attributes:
        key: names the job in events; unique among the jobs of an engine.
        folder: holds the job's mailbox (``reports.jsonl``, ``stop``), its log (``log.txt``) and its lock. The
            engine makes it.
        task: called without arguments in the job's process. It travels by cloudpickle, as does what it returns.
        env: environment variables for the job's process, set before the task is unpickled.
        is_limited: whether the engine's time limit holds for it. The limit is meant for runs. The preflight is no run,
            and may take long where it builds a model.
    """

    key: str
    folder: Path
    task: Callable[[], Any]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    is_limited: bool = True


class Exit(enum.StrEnum):
    """How a job's process ended. The coordinator decides what this means for a trial."""

    RETURNED = "returned"  # the task returned a value
    RAISED = "raised"  # the task raised an exception
    DIED = "died"  # the process ended without either: a crash, an exit, a signal
    OUT_OF_MEMORY = "out of memory"  # the system ended the process, since memory had run out
    CANCELLED = "cancelled"  # the engine was told to cancel it
    TIMED_OUT = "timed out"  # the engine ended it at its time limit
    EVICTED = "evicted"  # a scheduler took its node: preemption, its job's time limit, a failure of the node


@dataclasses.dataclass(frozen=True)
class Reported:
    """A running job appended one report to its mailbox."""

    key: str
    report: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Ended:
    """A job ended; no event for its key follows.

    Attributes:
        key: the job's.
        exit: how the process ended.
        value: what the task returned, or the exception that it raised.
        cause: for anything but ``returned``, one line that says why: ``ValueError: ...``, ``exit code 3``, ``SIGKILL``,
            ``ran past hydra.launcher.time_limit=30m``.
    """

    key: str
    exit: Exit
    value: Any = None
    cause: str | None = None


Event = Reported | Ended


class Engine(Protocol):
    """Runs jobs, each in a process of its own, so that what befalls one befalls no other.

    What a job has started ends with it, however it ends. A job ends with the coordinator, or can be adopted by the
    next one.
    """

    @property
    def slots(self) -> int:
        """How many jobs run at the same time; a further `submit` is an error."""

    @property
    def threads(self) -> int:
        """How many CPU threads each job may use, also given to it as ``OMP_NUM_THREADS``."""

    def preload(self) -> None:
        """Begins what all jobs need, beside what the caller does; the first `submit` begins it otherwise."""

    def submit(self, job: Job) -> None:
        """Starts a job.

        Raises:
            EngineError: when every slot is taken, when a running job has the same key, or after `close`.
            StoreError: when another process works in the job's folder.
        """

    def adopt(self, key: str, folder: Path) -> bool:
        """Goes on with a job that the engine of a coordinator which was killed has left in a folder.

        Args:
            key: names the job from now on; see `Job`.
            folder: the job's.

        Returns:
            whether there is one: it waits, runs or has just ended, and its events come from `wait`. Where there is none
            the job is to be submitted.

        Raises:
            StoreError: when the job is another coordinator's, which runs.
        """

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Waits until something happens and returns it, in order; a job's reports come before its end.

        Args:
            timeout: seconds after which an empty answer is given; None waits as long as a job runs.

        Returns:
            the events since the last call; empty when the time has passed or nothing is running.
        """

    def waiting(self, key: str) -> str | None:
        """Why a job that was submitted has not begun, in the words of the scheduler that has it.

        Returns:
            an empty text where the scheduler has not said why; None where the job has begun, or begins at once.
        """

    def tidy(self, folder: Path) -> None:
        """Deletes what jobs of coordinators which were killed have left beside the jobs' folders in this folder."""

    def cancel(self, key: str) -> None:
        """Ends a job by force. Its `Ended` event comes from `wait`. An unknown or ended key is ignored."""

    def close(self) -> None:
        """Cancels what still runs and frees what the engine holds. It may be called twice."""


def require_room(key: str, running: Collection[str], slots: int, *, is_closed: bool) -> None:
    """Refuses a job that an engine cannot take now; see `Engine.submit`.

    Args:
        key: of the new one.
        running: the keys of the engine's jobs.
        slots: the engine's.
        is_closed: whether `Engine.close` was called.

    Raises:
        EngineError: when it cannot be taken.
    """
    if is_closed:
        raise EngineError(f"An engine must be open to take a job, but {key} came after close(). Make a new one.")
    if key in running:
        raise EngineError(f"The keys of running jobs must differ, but {key} is running. Wait for it to end.")
    if len(running) >= slots:
        raise EngineError(f"A job needs a free slot, but all {slots} are taken. Wait for a job to end.")
