"""An engine on SLURM: each job is a job of the cluster, which waits in its queue, and may be taken off its node.

SLURM starts no job again. Retries are the coordinator's, which knows of checkpoints.
"""

import atexit
import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.config import signature
from lowrung.engine import node, slurm_commands, slurm_submission, submission
from lowrung.engine.base import Ended, Event, Exit, Job, Reported, require_room
from lowrung.engine.node import Request
from lowrung.engine.slurm_commands import PENDING, NoAnswer, State
from lowrung.engine.slurm_ends import Unfit, ended, is_told
from lowrung.engine.slurm_job import Answer
from lowrung.engine.slurm_submission import Options, Submitted
from lowrung.errors import FolderInUse
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Status

TICK_SECONDS = 0.2
"""Seconds between two readings of the mailboxes and answers."""

SETTLE_SECONDS = 5.0
"""How long an answer may take to show in the coordinator's view of the shared storage, after a job's end."""

CLOSE_SECONDS = 90.0
"""How long jobs that were cancelled may take to end: SLURM's KillWait is 30 s."""


@dataclasses.dataclass
class _Running:
    """A job between `submit` and its `Ended`.

    Attributes:
        folder: the job's, resolved.
        held: the coordinator's lock on it.
        reader: of the job's mailbox.
        request: what is to be submitted; None where it was.
        job: what SLURM has; None before.
        state: what SLURM last said.
        answer: what the job left.
        is_cancelled: whether the engine was told to cancel it.
        is_cancel_sent: whether SLURM was.
        gone_at: since when it has ended, by the monotonic clock.
    """

    folder: Path
    held: contextlib.ExitStack
    reader: mailbox.Reader
    request: Request | None = None
    job: Submitted | None = None
    state: State | None = None
    answer: Answer | str | None = None
    is_cancelled: bool = False
    is_cancel_sent: bool = False
    gone_at: float | None = None


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
        self._poll_seconds, self._next_poll = poll_seconds, 0.0
        self._running: dict[str, _Running] = {}
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
            self._running[job.key] = _Running(folder, held.pop_all(), mailbox.Reader(folder), request)

    def adopt(self, key: str, folder: Path) -> bool:
        """Goes on with a job that waits or runs; see `lowrung.engine.base.Engine.adopt`."""
        folder = self._free(key, folder)
        with contextlib.ExitStack() as held:
            if (job := Submitted.of(RunFolder(folder))) is None:
                return False
            held.enter_context(_held(folder))
            state = slurm_commands.states([job.job]).get(job.job)
            if state is None or state.has_ended:
                return False
            self._running[key] = _Running(folder, held.pop_all(), mailbox.Reader(folder), job=job, state=state)
        return True

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Waits for reports and ends; see `lowrung.engine.base.Engine.wait`.

        Raises:
            EngineError: when SLURM takes no jobs, or the first node that was given to one cannot run it.
        """
        self._send()
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            events = list(self._events())
            left = deadline - time.monotonic()
            if events or not self._running or left <= 0:
                return events
            time.sleep(min(TICK_SECONDS, left))

    def cancel(self, key: str) -> None:
        """Ends a job: one that waits at once, one that runs by SIGTERM and after SLURM's KillWait by SIGKILL."""
        if key in self._running:
            self._running[key].is_cancelled = True

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
        """Ends a job that a coordinator which was killed has left here: of two in one folder one would be in vain."""
        job = Submitted.of(folder)
        if job is None:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        slurm_commands.cancel([job.job])
        while time.monotonic() < deadline:
            state = slurm_commands.states([job.job]).get(job.job)
            if state is None or state.has_ended:
                break
            time.sleep(TICK_SECONDS)
        job.clean()
        folder.slurm_job.unlink(missing_ok=True)

    def _send(self) -> None:
        """Hands what was submitted since the last call to SLURM, those whose folders lie together in one call."""
        waiting = [one for one in self._running.values() if one.request is not None and not one.is_cancelled]
        together: defaultdict[Path, list[_Running]] = defaultdict(list)
        for one in waiting:
            together[one.folder.parent].append(one)
        for group in together.values():
            requests = [one.request for one in group if one.request is not None]
            jobs = slurm_submission.submit(requests, self._options, self.threads)
            for one, job in zip(group, jobs, strict=True):
                job.note(RunFolder(one.folder))
                one.job, one.request, one.state = job, None, State(PENDING)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[Event]:
        self._send_cancels()
        self._poll()
        for key, running in list(self._running.items()):
            has_ended = self._has_ended(running)  # asked first: all that it did has happened
            for report in running.reader.read():
                self._has_a_node = True
                yield Reported(key, report)
            if has_ended:
                yield self._end(key)

    def _send_cancels(self) -> None:
        """Tells SLURM in one call what is to end; a job that waits cannot hear that the sweep ends."""
        due = [one for one in self._running.values() if one.job and not one.is_cancel_sent and _is_to_end(one)]
        for one in due:
            one.is_cancelled = one.is_cancel_sent = True
        if due:
            slurm_commands.cancel(one.job.job for one in due if one.job)
            self._next_poll = 0.0

    def _poll(self) -> None:
        """Asks SLURM for all jobs at once; where it does not answer, what it said last holds."""
        jobs = {one.job.job: one for one in self._running.values() if one.job}
        if not jobs or time.monotonic() < self._next_poll:
            return
        with contextlib.suppress(NoAnswer):
            known = slurm_commands.states(jobs)
            for job, one in jobs.items():
                one.state = known.get(job)
        is_ending = any(one.is_cancelled or one.answer is not None for one in jobs.values())
        self._next_poll = time.monotonic() + (min(1.0, self._poll_seconds) if is_ending else self._poll_seconds)

    def _has_ended(self, running: _Running) -> bool:
        if running.job is None:
            return running.is_cancelled
        running.answer = running.answer or running.job.answer()
        is_open = running.state is not None and not running.state.has_ended
        if running.answer is not None:
            if is_told(running.answer) and not running.is_cancelled and is_open:
                self._next_poll = min(self._next_poll, time.monotonic() + 1.0)
                return False
            return True
        if is_open:
            running.gone_at = None
            return False
        running.gone_at = running.gone_at or time.monotonic()
        never_began = running.state is not None and not running.state.nodes
        return never_began or time.monotonic() >= running.gone_at + SETTLE_SECONDS

    def _end(self, key: str) -> Ended:
        """A job's end; its files go.

        Raises:
            EngineError: when it could not run on its node, and no job could before it.
        """
        running = self._running.pop(key)
        with running.held:
            if running.job is None:
                return Ended(key, Exit.CANCELLED, cause="cancelled")
            try:
                end = ended(
                    key,
                    running.job,
                    running.answer,
                    running.state,
                    RunFolder(running.folder),
                    is_cancelled=running.is_cancelled,
                )
            except Unfit as error:
                if not self._has_a_node and not self._is_closed:
                    raise
                end = node.refused(key, [str(error)])
            else:
                self._has_a_node |= RunFolder(running.folder).node.is_file()
            RunFolder(running.folder).slurm_job.unlink(missing_ok=True)
            running.job.clean()
            return end


def _held(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The lock by which a coordinator keeps a folder for its job, also while the job waits.

    Raises:
        FolderInUse: when another coordinator has it.
    """
    return atomic.lock(RunFolder(folder).submitted)


def _is_to_end(running: _Running) -> bool:
    """Whether a job was cancelled here, or waits while its run was asked to end with the sweep."""
    if running.is_cancelled:
        return True
    is_waiting = running.state is not None and running.state.name == PENDING
    return is_waiting and mailbox.stop_reason(running.folder) == Status.CANCELLED
