"""An engine on SLURM: each job is a job of the cluster, which waits in its queue, and may be taken off its node.

SLURM starts no job again. Retries are the coordinator's, which knows of checkpoints.
"""

import atexit
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.config import signature
from lowrung.engine import node, slurm_commands, slurm_leftovers, slurm_submission, submission
from lowrung.engine.base import Ended, Event, Exit, Job, Reported, require_room
from lowrung.engine.node import Request
from lowrung.engine.slurm_asking import Asking
from lowrung.engine.slurm_commands import PENDING, NoAnswer, State
from lowrung.engine.slurm_ends import Unfit, ended
from lowrung.engine.slurm_running import Running
from lowrung.engine.slurm_submission import Options, Submitted
from lowrung.errors import EngineError, FolderInUse
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder

TICK_SECONDS = 0.2
"""Seconds between two readings of the mailboxes and answers."""

ENDING_SECONDS = 1.0
"""Seconds between two calls of squeue while a job ends of which only its last state is wanted."""

PATIENCE_SECONDS = 600.0
"""How long SLURM may refuse all jobs, as a controller that is started again does, before the sweep ends."""

CLOSE_SECONDS = 90.0
"""How long jobs that were cancelled may take to end: SLURM's KillWait is 30 s."""


class SlurmEngine:
    """Runs jobs as jobs of a SLURM cluster.

    Args:
        slots: how many jobs wait or run at the same time.
        cpus_per_job: CPUs of each job, and its threads.
        options: what else each job asks for.
        preload: modules to import before the task.
        time_limit: seconds after which a job that still runs is ended, unless it is not limited; None lets it run.
        poll_seconds: seconds between two calls of squeue.
    """

    def __init__(
        self,
        *,
        slots: int,
        cpus_per_job: int,
        options: Options,
        preload: Sequence[str] = (),
        time_limit: float | None = None,
        poll_seconds: float = 10.0,
    ) -> None:
        self.slots, self.threads = slots, cpus_per_job
        self._options, self._preload, self._time_limit = options, list(preload), time_limit
        self._poll_seconds, self._next_poll, self._next_send = poll_seconds, 0.0, 0.0
        self._last_poll = 0.0
        self._asking, self._is_away = Asking(), False
        self._refused_since: float | None = None
        self._most = slots  # jobs that are handed to SLURM in one call
        self._running: dict[str, Running] = {}
        self._is_closed = False
        self._has_a_node = False
        self._device_before = signature.JOBS_DEVICE.set("cuda" if options.has_gpus else "cpu")
        atexit.register(self.close)

    def preload(self) -> None:
        """Does nothing: each job imports on its node."""

    def submit(self, job: Job) -> None:
        """Takes a job, which `wait` hands to SLURM; see `lowrung.engine.base.Engine.submit`."""
        folder = self._free(job.key, job.folder)
        task = submission.pickled(job)
        with contextlib.ExitStack() as held:
            held.enter_context(_held(folder))
            self._end_earlier(RunFolder(folder))
            submission.prepare(folder)
            RunFolder(folder).node.unlink(missing_ok=True)
            request = Request(
                key=job.key,
                folder=folder,
                task=task,
                variables=job.env,
                threads=self.threads,
                preload=self._preload,
                time_limit=self._time_limit if job.is_limited else None,
                needs=node.Needs.of(folder),
            )
            self._running[job.key] = Running(folder, held.pop_all(), mailbox.Reader(folder), request)

    def adopt(self, key: str, folder: Path) -> bool:
        """Goes on with a job that waits or runs; see `lowrung.engine.base.Engine.adopt`."""
        folder = self._free(key, folder)
        with contextlib.ExitStack() as held:
            held.enter_context(_held(folder))  # first: another sweep may be about to submit it
            job = Submitted.of(RunFolder(folder))
            if job is None or mailbox.stop_reason(folder) is not None:  # one that was told to stop is begun anew
                return False
            state: State | None = State("UNKNOWN")
            with contextlib.suppress(NoAnswer):  # a controller that is away will say it later
                state = slurm_commands.states([job.job]).get(job.job)
            if state is None or state.has_ended:
                return False
            self._running[key] = Running(folder, held.pop_all(), mailbox.Reader(folder), job=job, state=state)
        return True

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Waits for reports and ends; see `lowrung.engine.base.Engine.wait`.

        Raises:
            EngineError: when SLURM takes no jobs, or the first node that was given to one cannot run it.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            self._send()
            events = list(self._events())
            left = deadline - time.monotonic()
            if events or not self._running or left <= 0:
                return events
            time.sleep(min(TICK_SECONDS, left))

    def waiting(self, key: str) -> str | None:
        """Why a job waits, as ``squeue`` says it; see `lowrung.engine.base.Engine.waiting`."""
        return self._running[key].waiting if key in self._running else None

    def tidy(self, folder: Path) -> None:
        """Deletes the files of jobs that have ended without a coordinator; see `lowrung.engine.base.Engine.tidy`."""
        slurm_leftovers.tidy(folder)

    def cancel(self, key: str) -> None:
        """Ends a job: one that waits at once, one that runs by SIGTERM and after SLURM's KillWait by SIGKILL."""
        if key in self._running:
            self._running[key].is_cancelled, self._next_poll = True, 0.0

    def close(self) -> None:
        """Cancels what still waits or runs, and waits until it is gone; nothing is reported any more."""
        if self._is_closed:
            return
        self._is_closed = True
        for key in self._running:
            self.cancel(key)
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._running and time.monotonic() < deadline:  # a cluster that does not answer is left alone
            for _ in self._events():
                pass
            time.sleep(TICK_SECONDS if self._running else 0)
        for running in self._running.values():
            running.held.close()
        self._running.clear()
        self._asking.close()
        signature.JOBS_DEVICE.reset(self._device_before)
        atexit.unregister(self.close)

    def __enter__(self) -> "SlurmEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- submitting ----------------------------------------------------------------------------------------------------

    def _free(self, key: str, folder: Path) -> Path:
        """The folder of a new job, resolved, where the engine has room for it."""
        require_room(key, self._running, self.slots, is_closed=self._is_closed)
        folder = folder.resolve()
        if folder in (running.folder for running in self._running.values()):
            raise FolderInUse(f"Another job works in {folder}. Wait for it to end, or give this one its own folder.")
        return folder

    def _end_earlier(self, folder: RunFolder) -> None:
        """Ends a job that a coordinator which was killed has left here: of two in one folder one would be in vain.

        Raises:
            FolderInUse: when it is still there after `CLOSE_SECONDS`, or SLURM does not answer.
        """
        job = Submitted.of(folder)
        if job is None:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        slurm_commands.cancel([job.job])
        while not _is_gone(job):
            if time.monotonic() >= deadline:
                raise FolderInUse(f"SLURM's job {job.job} works in {folder.path}. End it: scancel {job.job}.")
            time.sleep(ENDING_SECONDS)
        job.clean()
        folder.slurm_job.unlink(missing_ok=True)

    def _send(self) -> None:
        """Hands what was submitted since the last call to SLURM, those whose folders lie together in one call.

        What SLURM cannot take now is tried again.

        Raises:
            EngineError: when it takes none of them, nor has any that might make room.
        """
        has_some = any(one.job for one in self._running.values())
        if time.monotonic() < self._next_send or (self._is_away and has_some):
            return
        waiting = [one for one in self._running.values() if one.request is not None and not one.is_cancelled]
        together: defaultdict[Path, list[Running]] = defaultdict(list)
        for one in waiting:
            together[one.folder.parent].append(one)
        for group in together.values():
            group = group[: self._most]
            requests = [one.request for one in group if one.request is not None]
            try:
                jobs = slurm_submission.submit(requests, self._options, self.threads)
            except NoAnswer as error:
                is_parted = len(group) > 1 and slurm_submission.is_for_want_of_room(error)
                self._most = max(1, len(group) // 2) if is_parted else self._most  # there may be room for some
                self._next_send = time.monotonic() + (0.0 if is_parted else self._poll_seconds)
                self._refused_since = self._refused_since or time.monotonic()
                if has_some or time.monotonic() < self._refused_since + PATIENCE_SECONDS:
                    return
                raise EngineError(f"SLURM must take the sweep's jobs, but it does not: {error}.") from error
            self._refused_since, self._most = None, 2 * self._most
            for one, job in zip(group, jobs, strict=True):
                job.note(RunFolder(one.folder))
                one.job, one.request, one.state = job, None, State(PENDING)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[Event]:
        self._hear()
        self._ask()
        for key, running in list(self._running.items()):
            has_ended = running.has_ended()  # asked first: all that it did has happened
            for report in running.reader.read():
                self._has_a_node = running.has_reported = True
                yield Reported(key, report)
            if has_ended:
                yield self._end(key)

    def _ask(self) -> None:
        """Tells SLURM what is to end, and asks for all states; a job that waits cannot hear that the sweep ends."""
        jobs = {one.job.job: one for one in self._running.values() if one.job}
        for one in jobs.values():
            if one.is_to_end and not one.is_cancelled:
                one.is_cancelled, self._next_poll = True, 0.0
        if any(one.is_cancelled or one.answer is not None for one in jobs.values()):  # only its last state is wanted
            self._next_poll = min(self._next_poll, self._last_poll + ENDING_SECONDS)
        if not jobs or self._asking.is_open or time.monotonic() < self._next_poll:
            return
        due = [job for job, one in jobs.items() if one.is_cancelled and not one.is_cancel_sent]
        for job in due:
            jobs[job].is_cancel_sent = True
        self._last_poll = time.monotonic()
        self._next_poll = self._last_poll + self._poll_seconds
        self._asking.ask(list(jobs), due)

    def _hear(self) -> None:
        """Takes what SLURM answered; where it did not, what it said last holds."""
        answered = self._asking.answer()
        if answered is None:
            return
        self._is_away = answered.states is None
        for one in self._running.values():
            if one.job and one.job.job in answered.asked:
                one.hear(answered)

    def _end(self, key: str) -> Ended:
        """A job's end; its files go.

        Raises:
            EngineError: when it could not run on its node, and no job could before it.
        """
        running = self._running.pop(key)
        folder, job = RunFolder(running.folder), running.job
        with running.held:
            if job is None:
                return Ended(key, Exit.CANCELLED, cause="cancelled")
            try:
                end = ended(key, job, running.answer, running.state, folder, is_cancelled=running.is_cancelled)
                self._has_a_node |= folder.node.is_file()
                return end
            except Unfit as error:
                if not self._has_a_node and not self._is_closed:
                    raise
                return node.refused(key, [str(error)])
            finally:
                folder.slurm_job.unlink(missing_ok=True)
                job.clean()


def _is_gone(job: Submitted) -> bool:
    """Whether SLURM says that a job has ended, or has forgotten it."""
    try:
        state = slurm_commands.states([job.job]).get(job.job)
    except NoAnswer:
        return False
    return state is None or state.has_ended


def _held(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The lock by which a coordinator keeps a folder for its job, also while the job waits.

    Raises:
        FolderInUse: when another coordinator has it.
    """
    return atomic.lock(RunFolder(folder).submitted)
