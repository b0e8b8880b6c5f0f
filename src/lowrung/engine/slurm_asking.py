"""Asking SLURM beside the coordinator's work: a controller that is away lets each command wait for 9 to 60 s."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lowrung.engine import slurm_commands
from lowrung.engine.slurm_commands import NoAnswer, State


@dataclasses.dataclass(frozen=True)
class Answered:
    """What SLURM answered.

    Attributes:
        asked: the jobs that it was asked for.
        states: of those that it knows; None where it did not answer.
        cancelled: the jobs that it was told to end.
        is_cancelled: whether it has taken that.
    """

    asked: Sequence[str]
    states: Mapping[str, State] | None
    cancelled: Sequence[str]
    is_cancelled: bool


class Asking:
    """One question at a time, in a thread; mailboxes and answers of jobs are read meanwhile."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slurm")
        self._asked: Future[Answered] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a question was asked whose answer was not taken."""
        return self._asked is not None

    def ask(self, jobs: Sequence[str], cancel: Sequence[str]) -> None:
        """Tells SLURM to end some jobs, then asks for the states of all."""
        self._asked = self._thread.submit(_ask, jobs, cancel)

    def answer(self) -> Answered | None:
        """The answer, once; None where there is none yet."""
        if self._asked is None or not self._asked.done():
            return None
        answered, self._asked = self._asked.result(), None
        return answered

    def close(self) -> None:
        """Asks nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _ask(jobs: Sequence[str], cancel: Sequence[str]) -> Answered:
    is_cancelled = slurm_commands.cancel(cancel) if cancel else True
    try:
        return Answered(jobs, slurm_commands.states(jobs), cancel, is_cancelled)
    except NoAnswer:
        return Answered(jobs, None, cancel, is_cancelled)
