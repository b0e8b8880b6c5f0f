"""A job's process as its engine sees it, from its start to its `Ended`."""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lowrung.engine import durations, memory, worker
from lowrung.engine.base import Ended, Exit
from lowrung.engine.start import Starter
from lowrung.store import mailbox

GRACE_SECONDS = 5.0
"""From SIGTERM, or from a job's answer, until a process that is still there is killed."""

NO_MEMORY = "memory ran out, and the system ended its process (SIGKILL)"
"""Why a process has ended that the system chose."""

_GONE = (ProcessLookupError, PermissionError)
"""What a signal raises when nothing is left to get it; on macOS the latter, where what is left are zombies."""


@dataclasses.dataclass
class Running:
    """A job between `submit` and its `Ended`.

    Attributes:
        key: the job's.
        folder: the job's, resolved.
        slot: which of the engine's slots it has.
        process: the job's process, just started, which runs `lowrung.engine.worker.main`.
        link: the coordinator's end of the process's link.
        reader: of the job's mailbox.
        time_limit: seconds from now until it is stopped; None is no limit.
        kills: how many processes the system had ended for want of memory before this one began.
        answer: what came over the link.
        is_link_done: whether nothing more comes over the link.
        stopped: its exit and the cause, where the engine stopped it.
        kill_at: when what still runs of it is killed, by the monotonic clock.
    """

    key: str
    folder: Path
    slot: int
    process: BaseProcess
    link: "Connection[Any, Any]"
    reader: mailbox.Reader
    time_limit: float | None
    kills: int
    answer: bytes | None = None
    is_link_done: bool = False
    stopped: tuple[Exit, str] | None = None
    kill_at: float = float("inf")

    def __post_init__(self) -> None:
        assert self.process.pid is not None
        self._pid = self.process.pid
        self._time_is_up_at = float("inf") if self.time_limit is None else time.monotonic() + self.time_limit

    @classmethod
    def start(
        cls,
        starter: Starter,
        key: str,
        folder: Path,
        slot: int,
        task: bytes,
        variables: Mapping[str, str],
        time_limit: float | None,
        working_folder: Path,
    ) -> "Running":
        """Starts a job's process.

        Args:
            starter: starts it.
            key: the job's.
            folder: the job's, resolved and prepared.
            slot: which of the engine's slots it has.
            task: by cloudpickle.
            variables: the whole environment of the process.
            time_limit: seconds from now until it is stopped; None is no limit.
            working_folder: of the process.
        """
        kills = memory.KILLS.count
        ours, theirs = starter.pipe()
        with theirs:
            process = starter.start(worker.main, (theirs, task, folder, variables, working_folder), key, variables)
        return cls(key, folder, slot, process, ours, mailbox.Reader(folder), time_limit, kills)

    def sources(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to wake up for."""
        return [self.process.sentinel] if self.is_link_done else [self.process.sentinel, self.link]

    def listen(self) -> None:
        """Takes the answer when it has come; one that breaks off counts as none."""
        if self.is_link_done or not self.link.poll():
            return
        self.is_link_done = True
        with contextlib.suppress(EOFError, OSError):
            self.answer = self.link.recv_bytes()
        self.kill_at = time.monotonic() + GRACE_SECONDS

    def stop(self, exit: Exit, cause: str) -> None:
        """Asks the job to end by SIGTERM; ignored when it has answered or was stopped before."""
        if self.answer is None and self.stopped is None:
            self.stopped = exit, cause
            self._signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + GRACE_SECONDS

    def enforce_limits(self) -> None:
        """Stops the job at its time limit, and kills it when the grace is over.

        A run ends in good order after SIGTERM, and at once after one that comes `lowrung.engine.interrupt.SAME_SECONDS`
        later: what is cancelled gets both.
        """
        if self.stopped is not None and self.stopped[0] is Exit.CANCELLED:
            self._signal(signal.SIGTERM)
        if self.time_limit is not None and time.monotonic() >= self._time_is_up_at:
            self.stop(Exit.TIMED_OUT, f"ran past hydra.launcher.time_limit={durations.text(self.time_limit)}")
        if time.monotonic() >= self.kill_at:
            self._signal(signal.SIGKILL)

    def end(self) -> Ended:
        """How the job ended, after its process did; what the process left behind is killed."""
        with contextlib.suppress(*_GONE):
            os.killpg(self._pid, signal.SIGKILL)
        code = self.process.exitcode
        self.process.close()
        self.link.close()
        if self.stopped is not None:  # an answer that came later is that of a task which heard SIGTERM
            exit, cause = self.stopped
            return Ended(self.key, exit, cause=cause)
        if self.answer is not None:
            return Ended(self.key, *worker.read_answer(self.answer))
        if code == -signal.SIGKILL and memory.KILLS.explain(self.kills):
            return Ended(self.key, Exit.OUT_OF_MEMORY, cause=NO_MEMORY)
        return Ended(self.key, Exit.DIED, cause=described_exit(code or 0))

    def _signal(self, number: int) -> None:
        """Signals the process and all that it started."""
        with contextlib.suppress(*_GONE):
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:  # it has not made its group yet
                os.kill(self._pid, number)


def described_exit(code: int) -> str:
    """How a process ended, in words: its exit code, or the signal's name."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # real-time signals have no name
        return f"signal {-code}"
