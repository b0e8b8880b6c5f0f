"""SLURM's own commands: what its queue says of jobs, and how jobs are cancelled. One call serves all jobs."""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lowrung.engine.cores import environment_kept
from lowrung.errors import EngineError

NEEDED = ("sbatch", "squeue", "scancel", "sinfo", "srun")
"""What must be on PATH where the coordinator runs."""

ANSWER_SECONDS = 60.0
"""How long a command may take: a busy controller answers late."""

PENDING = "PENDING"

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
"""States from which a job does not come back; all others may change."""

_OURS = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_", "SRUN_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_DEBUG_FLAGS")


class NoAnswer(EngineError):  # noqa: N818  (it names a state)
    """A command of SLURM's failed; the message is what it printed last."""


@dataclass(frozen=True)
class State:
    """What SLURM says of a job.

    Attributes:
        name: ``PENDING``, ``RUNNING``, ``CANCELLED``, ...
        nodes: where it runs or ran; empty where it has not begun.
        reason: why it waits or how it ended, in SLURM's words; empty where SLURM has not said.
    """

    name: str
    nodes: str = ""
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it stays as it is."""
        return self.name in ENDED


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hides the job that this process is a part of: its variables would set options of the commands in the block."""
    ours = os.environ.keys() - _outside_of_jobs().keys()
    with environment_kept(ours):
        for name in ours:
            del os.environ[name]
        yield


def _outside_of_jobs() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS) or name in _KEPT}


def ask(*command: str) -> str:
    """What a command prints.

    Raises:
        NoAnswer: when it fails, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, env=_outside_of_jobs())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{command[0]} does not answer ({type(error).__name__})") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise NoAnswer(said[-1])
    return done.stdout


def states(jobs: Iterable[str]) -> dict[str, State]:
    """What SLURM's queue says of jobs, in one call; those that it has forgotten, some minutes after their end, lack.

    Raises:
        NoAnswer: when the controller does not answer.
    """
    whole = sorted({job.partition("_")[0] for job in jobs})
    try:
        listed = ask(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", f"--jobs={','.join(whole)}"
        )
    except NoAnswer as error:
        if "Invalid job id" in str(error):  # it is the only one asked for, and was forgotten
            return {}
        raise
    rows = (line.strip().split("|", 3) for line in listed.splitlines() if line.strip())
    return {job: State(name, nodes, "" if reason == "None" else reason) for job, name, nodes, reason in rows}


def recorded_state(job: str) -> str | None:
    """What SLURM's accounting says of a job that the queue has forgotten; None where there is none."""
    with contextlib.suppress(NoAnswer):
        lines = ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={job}").split()
        return lines[0] if lines else None
    return None


def cancel(jobs: Iterable[str]) -> bool:
    """Tells jobs to end: those that wait at once, those that run by SIGTERM and after SLURM's KillWait by SIGKILL.

    Returns:
        whether SLURM has taken it for all of them; one may just have ended, or the controller is away.
    """
    try:
        ask("scancel", *jobs)
    except NoAnswer:
        return False
    return True
