"""The default engine: every job in a fresh process on this machine."""

import atexit
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path

from lowrung.engine import cores, gpus, submission
from lowrung.engine.base import Event, Exit, Job, Reported, require_room
from lowrung.engine.process import Running
from lowrung.engine.start import CUDA_CHECK, Method, Starter
from lowrung.errors import EngineError, FolderInUse

POLL_SECONDS = 0.1
"""Seconds between two readings of the mailboxes; the end of a process is noticed at once."""


class LocalEngine:
    """Runs jobs on this machine, each in a fresh process.

    With ``start="forkserver"`` the processes are forked from a server that has imported ``preload`` once. It starts
    with `preload`, and imports while the coordinator does other work; only the first `submit` waits for it. Where that
    is not possible, jobs are spawned, and a line on stderr says so: where the import touches CUDA, which does not
    survive a fork, or no server can run. On macOS jobs are always spawned.

    Children see the coordinator's environment as it is at `submit`, their slot's GPUs and their share of the cores.
    They ignore Ctrl-C, end when the coordinator ends, and print to the job's ``log.txt``. Each leads a session of its
    own; what it started there ends with it.

    Args:
        slots: how many jobs run at the same time.
        preload: modules to import once for all jobs.
        gpus_per_job: how many GPUs each job sees. Those that are visible now are divided into whole groups of this
            many, over which the slots take turns; what is left over is not used. With 1, a job runs without a GPU
            where none is visible.
        start: ``spawn`` gives every job a new interpreter, for what does not survive a fork.
        time_limit: seconds after which a job that still runs is ended, unless it is not limited; None lets it run.

    Raises:
        EngineError: when there is no slot, no group of GPUs for a job, or no time.
    """

    def __init__(
        self,
        slots: int = 1,
        preload: Sequence[str] = (),
        *,
        gpus_per_job: int = 1,
        start: Method = "forkserver",
        time_limit: float | None = None,
    ) -> None:
        if slots < 1:
            raise EngineError(f"`slots >= 1` must hold, but got {slots}. Give the engine at least one slot.")
        if time_limit is not None and time_limit <= 0:
            raise EngineError(f"`time_limit > 0` must hold, but got {time_limit} s. Without a limit leave it out.")
        self._slots = slots
        self._time_limit = time_limit
        self._groups = gpus.groups(gpus.visible(), gpus_per_job)
        self._running: dict[str, Running] = {}
        self._is_closed = False
        self._starter = Starter(preload, self.threads, start)
        atexit.register(self.close)  # else the interpreter would wait for jobs that nobody waits for

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._slots

    @property
    def threads(self) -> int:
        """How many CPU threads each job may use: an equal share of the cores that this process may use."""
        return max(1, cores.usable_cores() // self._slots)

    def resize(self, slots: int) -> None:
        """Takes another number of slots from now on, and with it of threads; nothing may be running.

        Raises:
            EngineError: when a job runs, or there is no slot.
        """
        if self._running or slots < 1:
            raise EngineError(f"An engine must be idle to be given {slots} slots, one at least. Wait for its jobs.")
        self._slots = slots

    def preload(self) -> None:
        """Starts the server that imports what is preloaded; see `lowrung.engine.base.Engine.preload`."""
        self._starter.preload()

    def submit(self, job: Job) -> None:
        """Starts a job; see `lowrung.engine.base.Engine.submit`."""
        folder = job.folder.resolve()
        self._refuse(job, folder)
        task = submission.pickled(job)
        self._starter.try_fork()
        submission.prepare(folder)
        slot = self._free_slot()
        limit = self._time_limit if job.is_limited else None
        self._running[job.key] = Running.start(
            self._starter, job.key, folder, slot, task, self._variables(slot, job.env), limit, Path.cwd()
        )

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none: jobs end with their coordinator; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Waits for reports and ends; see `lowrung.engine.base.Engine.wait`."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            events = [event for running in list(self._running.values()) for event in self._events_of(running)]
            left = deadline - time.monotonic()
            if events or not self._running or left <= 0:
                return events
            sources = [source for running in self._running.values() for source in running.sources()]
            connection.wait(sources, min(POLL_SECONDS, left))

    def waiting(self, key: str) -> None:
        """None: jobs begin at once; see `lowrung.engine.base.Engine.waiting`."""

    def tidy(self, folder: Path) -> None:
        """Finds nothing: jobs end with their coordinator; see `lowrung.engine.base.Engine.tidy`."""

    def cancel(self, key: str) -> None:
        """Ends a job by SIGTERM, and after 5 s by SIGKILL; an answer that has already arrived stands."""
        if key in self._running:
            self._running[key].stop(Exit.CANCELLED, "cancelled")

    def close(self) -> None:
        """Cancels what still runs and waits until it is gone; what it did is no longer reported."""
        self._is_closed = True
        for key in self._running:
            self.cancel(key)
        while self._running:
            self.wait()
        atexit.unregister(self.close)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse(self, job: Job, folder: Path) -> None:
        require_room(job.key, self._running, self._slots, is_closed=self._is_closed)
        if folder in (running.folder for running in self._running.values()):
            raise FolderInUse(f"Another job works in {folder}. Wait for it to end, or give this one its own folder.")

    def _free_slot(self) -> int:
        """The first free slot on the GPUs where the fewest jobs run."""
        taken = {running.slot for running in self._running.values()}
        groups = max(1, len(self._groups))
        jobs = Counter(slot % groups for slot in taken)
        return min(set(range(self._slots)) - taken, key=lambda slot: (jobs[slot % groups], slot))

    def _events_of(self, running: Running) -> Iterator[Event]:
        has_ended = running.process.exitcode is not None  # asked first: all that it did has happened by then
        running.listen()
        for report in running.reader.read():
            yield Reported(running.key, report)
        if has_ended:
            del self._running[running.key]
            yield running.end()
        else:
            running.enforce_limits()

    def _variables(self, slot: int, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **cores.thread_variables(self.threads), **CUDA_CHECK, **self._gpus(slot), **extra}

    def _gpus(self, slot: int) -> dict[str, str]:
        """The variable that shows a slot its GPUs; nothing where none is visible."""
        return {gpus.VISIBLE: ",".join(self._groups[slot % len(self._groups)])} if self._groups else {}
