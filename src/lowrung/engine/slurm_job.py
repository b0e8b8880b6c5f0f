"""A job of SLURM's as it is on its node: what submitit calls there."""

import dataclasses
import signal
import time
from collections.abc import Sequence
from types import FrameType

from lowrung.engine import node
from lowrung.engine.base import Ended
from lowrung.engine.node import Request
from lowrung.store import mailbox
from lowrung.store.outcome import Status

TOLD_SECONDS = 5.0
"""How much later than the run this process may hear SLURM's SIGTERM, which comes to one process after the other."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a job leaves for the coordinator.

    Attributes:
        ended: how it ended; None where its node cannot run it.
        problems: why it cannot.
        is_told: whether SLURM told it to end: SIGTERM comes before its time is up, when another job takes its node,
            and when somebody cancels it.
    """

    ended: Ended | None
    problems: Sequence[str] = ()
    is_told: bool = False


def run(request: Request) -> Answer:
    """Runs a job to its end. When SLURM tells it to end, the run is asked for a checkpoint first.

    SLURM signals all processes of a job, so the run hears SIGTERM by itself; one more would end it at once. So it is
    asked by its mailbox, which may be done twice.
    """
    told: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        told.append(number)
        if mailbox.stop_reason(request.folder) is None:  # what the coordinator has asked for stands
            mailbox.ask_to_stop(request.folder, str(Status.CANCELLED))

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if problems := request.needs.problems():
        return Answer(None, problems)
    ended = node.work(request)
    deadline = time.monotonic() + TOLD_SECONDS
    while ended.cause == "SIGTERM" and not told and time.monotonic() < deadline:
        time.sleep(0.05)
    return Answer(ended, is_told=bool(told))
