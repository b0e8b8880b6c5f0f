"""An engine for tests: the job runs in their own process."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from lowrung.engine import cores
from lowrung.engine.base import Ended, Event, Exit, Job, Reported
from lowrung.engine.batches import run_here
from lowrung.errors import EngineError
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder


class InlineEngine:
    """Runs one job at a time in this very process, inside `wait`, so that breakpoints work.

    What needs a process of its own is missing: a job that dies takes the coordinator with it, reports arrive when
    the job has ended, nothing is pickled, output stays where it is, and only a job that `wait` has not started can be
    cancelled.
    """

    def __init__(self) -> None:
        self._job: Job | None = None
        self._is_cancelled = False
        self._is_closed = False
        self._lock = contextlib.ExitStack()

    @property
    def slots(self) -> int:
        """Always one."""
        return 1

    @property
    def threads(self) -> int:
        """All the cores that this process may use."""
        return cores.usable_cores()

    def preload(self) -> None:
        """Does nothing; see `lowrung.engine.base.Engine.preload`."""

    def submit(self, job: Job) -> None:
        """Takes a job, for the next `wait` to run; see `lowrung.engine.base.Engine.submit`."""
        if self._is_closed:
            raise EngineError(
                f"An engine must be open to take a job, but {job.key} came after close(). Make a new one."
            )
        if self._job is not None:
            raise EngineError(f"A job needs a free slot, but {self._job.key} has the only one. Wait for it to end.")
        self._lock.enter_context(atomic.lock(RunFolder(job.folder).lock))
        mailbox.clear(job.folder)
        self._job = job
        self._is_cancelled = False

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Runs the job to its end, whatever ``timeout`` says; see `lowrung.engine.base.Engine.wait`."""
        job, self._job = self._job, None
        if job is None:
            return []
        with self._lock:
            if self._is_cancelled:
                return [Ended(job.key, Exit.CANCELLED, cause="cancelled")]
            with cores.environment({**cores.thread_variables(self.threads), **job.env}):
                ended = run_here(job)
            return [*(Reported(job.key, report) for report in mailbox.Reader(job.folder).read()), ended]

    def waiting(self, key: str) -> None:
        """None: jobs begin at once; see `lowrung.engine.base.Engine.waiting`."""

    def tidy(self, folder: Path) -> None:
        """Finds nothing: jobs end with their coordinator; see `lowrung.engine.base.Engine.tidy`."""

    def cancel(self, key: str) -> None:
        """Keeps a job from being run by the next `wait`."""
        self._is_cancelled = self._is_cancelled or (self._job is not None and self._job.key == key)

    def close(self) -> None:
        """Drops a job that was not run."""
        self._is_closed = True
        self._job = None
        self._lock.close()
