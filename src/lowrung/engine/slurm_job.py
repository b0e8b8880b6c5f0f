"""A job of SLURM's as it is on its node: what submitit calls there."""

import dataclasses
import os
import platform
import signal
from collections.abc import Sequence

from lowrung.engine import node
from lowrung.engine.base import Ended
from lowrung.engine.node import Request
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Status

WARNING = signal.SIGUSR2
"""What SLURM sends some time before a job's time is up; submitit asks for it."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a job leaves for the coordinator.

    Attributes:
        ended: how it ended; None where its node cannot run it.
        problems: why it cannot.
        told: the signals that came, by which SLURM told it to end.
    """

    ended: Ended | None
    problems: Sequence[str] = ()
    told: Sequence[int] = ()


def run(request: Request) -> Answer:
    """Runs a job to its end. What SLURM sends before it takes the node away asks for a checkpoint first.

    SLURM signals all processes of a job, so the run hears SIGTERM by itself; a second one would end it at once. So it
    is asked by its mailbox, which may be done twice.
    """
    told: list[int] = []

    def hear(number: int, _: object) -> None:
        told.append(number)
        mailbox.ask_to_stop(request.folder, str(Status.CANCELLED))

    for number in (signal.SIGTERM, WARNING):
        signal.signal(number, hear)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if problems := request.needs.problems():
        return Answer(None, problems)
    atomic.write_json(
        RunFolder(request.folder).node,
        {"token": request.needs.token, "node": platform.node(), "job": os.environ.get("SLURM_JOB_ID")},
    )
    return Answer(node.work(request), told=told)
