"""A job of SLURM's between its submission and its `Ended`, as its engine sees it."""

import contextlib
import dataclasses
import time
from pathlib import Path

from lowrung.engine.node import Request
from lowrung.engine.slurm_asking import Answered
from lowrung.engine.slurm_commands import PENDING, State
from lowrung.engine.slurm_ends import is_told
from lowrung.engine.slurm_job import Answer
from lowrung.engine.slurm_submission import Submitted
from lowrung.store import disk, mailbox
from lowrung.store.outcome import Status

SETTLE_SECONDS = 5.0
"""How long an answer may take to show in the coordinator's view of the shared storage, after a job's end."""


@dataclasses.dataclass
class Running:
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
        has_reported: whether it has posted something.
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
    has_reported: bool = False
    gone_at: float | None = None

    @property
    def is_to_end(self) -> bool:
        """Whether it was cancelled here, or waits while its run was asked to end with the sweep."""
        is_waiting = self.state is not None and self.state.name == PENDING
        return self.is_cancelled or (is_waiting and mailbox.stop_reason(self.folder) == Status.CANCELLED)

    @property
    def waiting(self) -> str | None:
        """Why it has not begun; see `lowrung.engine.base.Engine.waiting`."""
        if self.job is None:
            return ""
        is_waiting = self.state is not None and self.state.name == PENDING and not self.has_reported
        return self.state.reason if is_waiting and self.state else None

    def hear(self, answered: Answered) -> None:
        """Takes what SLURM says of it; where it does not answer, what it said last holds."""
        assert self.job is not None
        if answered.states is not None:
            self.state = answered.states.get(self.job.job)
        if self.job.job in answered.cancelled and not answered.is_cancelled:  # it may have ended, or SLURM is away
            self.is_cancel_sent = False
        if self.state is not None and self.state.name == PENDING:  # a controller that was away has not heard it
            self.is_cancel_sent = False

    def has_ended(self) -> bool:
        """Whether nothing more comes from it: it has answered, or SLURM says so and no answer has shown up."""
        if self.job is None:
            return self.is_cancelled
        is_open = self.state is not None and not self.state.has_ended
        if not is_open and self.answer is None:
            disk.look_again(self.job.files)
        self.answer = self.answer or self.job.answer()
        if self.answer is not None:  # of a job that was told to end, only its last state says by whom
            return self.is_cancelled or not (is_open and is_told(self.answer))
        if is_open:
            self.gone_at = None
            return False
        self.gone_at = self.gone_at or time.monotonic()
        never_began = self.state is not None and not self.state.nodes
        return never_began or time.monotonic() >= self.gone_at + SETTLE_SECONDS
