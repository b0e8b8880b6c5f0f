"""How a job of SLURM's ended, from its answer and from what SLURM says of it."""

import dataclasses
from typing import Any

from lowrung.engine import slurm_commands
from lowrung.engine.base import Ended, Exit
from lowrung.engine.slurm_commands import State
from lowrung.engine.slurm_job import Answer
from lowrung.engine.slurm_submission import Submitted
from lowrung.errors import EngineError
from lowrung.store.layout import RunFolder

EVICTIONS = {
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it could not end before its deadline",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "another job took its node",
    "TIMEOUT": "it reached its time limit",
}
"""States of a job whose node was taken from it, in words."""

CANCELLED = "its job was cancelled in SLURM (scancel)"

_OF_ITS_OWN = ("FAILED", "COMPLETED", "UNKNOWN")
"""States of a job that ended by what it did itself, or that nobody knows of."""


class Unfit(EngineError):  # noqa: N818  (it names a state)
    """A node cannot run the coordinator's jobs; the message says why."""


def is_told(answer: "Answer | str | None") -> bool:
    """Whether SLURM told a job to end; why, only its final state says."""
    return isinstance(answer, Answer) and answer.is_told


def ended(
    key: str,
    job: Submitted,
    answer: "Answer | str | None",
    state: State | None,
    folder: RunFolder,
    *,
    is_cancelled: bool,
) -> Ended:
    """How a job ended.

    Args:
        key: the job's.
        job: what SLURM had.
        answer: what it left.
        state: what SLURM says of it; None where it has forgotten it.
        folder: the job's.
        is_cancelled: whether the engine cancelled it.

    Raises:
        Unfit: when its node could not run it.
    """
    if is_cancelled and (answer is None or is_told(answer)):
        return Ended(key, Exit.CANCELLED, cause="cancelled")
    if isinstance(answer, Answer) and answer.ended is not None:
        how = _told(job, state) if answer.is_told else {}
        return dataclasses.replace(answer.ended, key=key, **how)
    if isinstance(answer, Answer):
        raise Unfit("\n".join(answer.problems))
    if answer is not None:
        raise Unfit(
            f"Every node must run what the coordinator runs, but {_where(job, state)} cannot ({answer})."
            " Install lowrung there, in the same versions."
        )
    return _lost(key, job, state, folder)


def _told(job: Submitted, state: State | None) -> dict[str, Any]:
    """How a job ended that SLURM told to end: by its own doing where its time was nearly up."""
    name = _name(job, state)
    if name == "CANCELLED":
        return {"exit": Exit.DIED, "cause": CANCELLED}
    return {"exit": Exit.EVICTED, "cause": f"SLURM ended its job: {EVICTIONS.get(name, 'its time was nearly up')}"}


def _lost(key: str, job: Submitted, state: State | None, folder: RunFolder) -> Ended:
    """The end of a job that left no answer."""
    name = _name(job, state)
    if name in EVICTIONS:
        return Ended(key, Exit.EVICTED, cause=f"SLURM ended its job: {EVICTIONS[name]}")
    if name == "CANCELLED":
        return Ended(key, Exit.DIED, cause=CANCELLED)
    printed = job.printed.strip()
    if printed:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(printed + "\n")
    if name in _OF_ITS_OWN and not folder.node.is_file():
        raise Unfit(_why_it_did_not_begin(job, state, printed, folder))
    how = Exit.OUT_OF_MEMORY if name == "OUT_OF_MEMORY" else Exit.DIED
    return Ended(key, how, cause=f"SLURM says that its job ended as {name}")


def _why_it_did_not_begin(job: Submitted, state: State | None, printed: str, folder: RunFolder) -> str:
    where = _where(job, state)
    if not printed:
        return (
            f"The store and the working folder must be on storage that all nodes share, but {where} ended without an"
            f" answer in {job.files}. Set store=... to a folder on it, and start the sweep from one."
        )
    last = printed.splitlines()[-1]
    return f"A job must begin, but {where} did not: {last} (the whole text is in {folder.log})."


def _name(job: Submitted, state: State | None) -> str:
    return state.name if state else (slurm_commands.recorded_state(job.job) or "UNKNOWN")


def _where(job: Submitted, state: State | None) -> str:
    return f"job {job.job}" + (f" on {state.nodes}" if state and state.nodes else "")
