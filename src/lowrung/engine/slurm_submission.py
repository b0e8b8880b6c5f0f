"""Jobs as submitit hands them to SLURM: what they ask for, and the files through which job and engine speak."""

import contextlib
import dataclasses
import math
import os
import pickle
import secrets
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from lowrung.engine import cores, node, slurm_commands, slurm_job, slurm_words
from lowrung.engine.node import Request
from lowrung.engine.slurm_commands import NoAnswer
from lowrung.engine.slurm_job import Answer
from lowrung.engine.slurm_words import Wanted
from lowrung.errors import EngineError
from lowrung.store import atomic, layout, records
from lowrung.store.layout import RunFolder

WARNING_SECONDS = 90
"""How long before its time is up a job is told to write its checkpoint."""

SETUP_FAILED = 97
"""The exit code of a job of which a setup line failed."""

_TOO_MANY = "MaxSubmitJob"
_LATER = ("Unable to contact slurm controller", "timed out", "temporarily", _TOO_MANY)
"""What sbatch says where it may take the same job later: the controller is away, or enough jobs are there."""

_OWN = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
"""What a job has of the coordinator's environment besides `lowrung.engine.node.CARRIED`: what finds its programs."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What each job asks SLURM for; None leaves it to the cluster.

    Attributes:
        partition: or several, with commas.
        account: that pays.
        qos: quality of service.
        gres: generic resources, GPUs among them.
        minutes: after which SLURM ends a job.
        memory: of a node, with its unit.
        constraint: features that a node must have.
        setup: lines of the shell that come before the job on its node.
        has_gpus: whether jobs run on GPUs.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    minutes: int | None = None
    memory: str | None = None
    constraint: str | None = None
    setup: Sequence[str] = ()
    has_gpus: bool = False

    @classmethod
    def of(cls, wanted: Wanted, *, setup: Sequence[str], has_gpus: bool) -> "Options":
        """What a launcher wants, on a cluster whose jobs run on GPUs or not."""
        return cls(
            partition=wanted.partition,
            account=wanted.account,
            qos=wanted.qos,
            gres=slurm_words.gres(wanted, has_gpus),
            minutes=None if wanted.time is None else math.ceil(slurm_words.minutes(wanted.time) or 0),
            memory=wanted.memory,
            constraint=wanted.constraint,
            setup=setup,
            has_gpus=has_gpus,
        )

    def parameters(self, cpus: int) -> dict[str, object]:
        """Submitit's, for jobs of so many CPUs.

        SLURM itself does not start a job again: the coordinator does, which knows of checkpoints. Of the environment
        only names are in the job's script; SLURM brings the values.
        """
        asked = {name: getattr(self, name) for name in ("partition", "account", "qos", "gres", "constraint")}
        exported = sorted(node.carried().keys() | {name for name in _OWN if name in os.environ})
        return {
            **asked,
            "job_name": "lowrung",
            "time": self.minutes,
            "mem": self.memory,
            "cpus_per_task": cpus,
            "setup": [line for each in self.setup for line in (each, _checked(each))],
            "stderr_to_stdout": True,
            "wckey": None,
            "srun_args": ["--export=ALL", f"--cpus-per-task={cpus}"],
            "additional_parameters": {
                "signal": f"TERM@{WARNING_SECONDS}",  # submitit's own, SIGUSR2, would kill what does not expect it
                "no-requeue": True,
                "export": ",".join(exported),
                "chdir": str(Path.cwd()),
            },
        }


def _own_code() -> dict[str, str]:
    """The variable by which jobs import lowrung from the coordinator's checkout, also where it is not installed."""
    if layout.CHECKOUT is None:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(layout.CHECKOUT / "src"), os.environ.get("PYTHONPATH")]))}


def _checked(line: str) -> str:
    """What ends a job's script where the line before it has failed."""
    said = f"lowrung: setup line failed (hydra.launcher.setup): {line}"
    return f"[ $? = 0 ] || {{ echo {shlex.quote(said)}; exit {SETUP_FAILED}; }}"


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A job that SLURM has.

    Attributes:
        job: SLURM's number; that of a job in an array has a part behind ``_``.
        files: the folder that submitit's files are in.
    """

    job: str
    files: Path

    @classmethod
    def of(cls, folder: RunFolder) -> "Submitted | None":
        """The one that was noted in a folder."""
        if not folder.slurm_job.is_file():
            return None
        noted = records.read(folder.slurm_job)
        return cls(noted["job"], Path(noted["files"]))

    def note(self, folder: RunFolder) -> None:
        """Notes it, for a coordinator that comes after this one."""
        atomic.write_json(folder.slurm_job, {"job": self.job, "files": str(self.files)})

    @property
    def _paths(self) -> JobPaths:
        return JobPaths(self.files, self.job, 0)

    def answer(self) -> "Answer | str | None":
        """What it left; a text where submitit could not run it there; None where it left nothing."""
        try:
            with self._paths.result_pickle.open("rb") as file:
                kind, value = pickle.load(file)  # noqa: S301  (of our own job)
        except (OSError, EOFError):
            return None
        return value if kind == "success" else str(value).strip().splitlines()[-1]

    @property
    def printed(self) -> str:
        """What its script printed, and what printed before the run's own log was opened."""
        with contextlib.suppress(OSError):
            return Path(self._paths.stdout).read_text(encoding="utf-8", errors="replace")
        return ""

    def clean(self) -> None:
        """Deletes its files; the folder too where it was the last of those that were submitted together."""
        for path in (self._paths.submitted_pickle, self._paths.result_pickle, self._paths.stdout):
            path.unlink(missing_ok=True)
        if not any(self.files.glob("*_submitted.pkl")):
            remove(self.files)


def is_for_want_of_room(error: NoAnswer) -> bool:
    """Whether SLURM has as many jobs of this user's as it takes, and might take fewer."""
    return _TOO_MANY in str(error)


def remove(files: Path) -> None:
    """Deletes a folder of submitit's files, and the folder of all of them where it was the last one."""
    shutil.rmtree(files, ignore_errors=True)
    with contextlib.suppress(OSError):
        files.parent.rmdir()


def submit(requests: Sequence[Request], options: Options, cpus: int) -> list[Submitted]:
    """Hands jobs to SLURM, several of them as one array: one call, whose parts start as there is room for each.

    Args:
        requests: whose folders lie in the same folder.
        options: what each asks for.
        cpus: of each.

    Raises:
        NoAnswer: when the controller is away, or has no place for more jobs now.
        EngineError: when SLURM refuses them.
    """
    files = layout.slurm_folder(requests[0].folder) / secrets.token_hex(4)
    files.mkdir(parents=True)
    try:
        with slurm_commands.outside_of_jobs(), cores.environment(_own_code()):
            executor = SlurmExecutor(files)
            executor.update_parameters(**options.parameters(cpus), array_parallelism=len(requests))
            if len(requests) == 1:
                jobs = [executor.submit(slurm_job.run, requests[0])]
            else:
                with executor.batch():
                    jobs = [executor.submit(slurm_job.run, request) for request in requests]
    except FailedJobError as error:
        remove(files)
        said = str(error).strip() or "sbatch failed"
        if any(words in said for words in _LATER):
            raise NoAnswer(said.splitlines()[-1]) from error
        raise EngineError(f"SLURM must take the sweep's jobs, but it does not: {said.splitlines()[-1]}") from error
    return [Submitted(job.job_id, files) for job in jobs]
