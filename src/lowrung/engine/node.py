"""A job on a node of a cluster: what starts its process there, watches it and says how it ended.

The cluster's own process, a Ray worker say, imports nothing of the run. It keeps the fork server that has imported the
libraries, so the next job on it starts at once. What the job reports goes through files that the coordinator reads.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path

from lowrung.config import signature, source
from lowrung.engine import cores
from lowrung.engine.base import Ended, Exit
from lowrung.engine.process import Running
from lowrung.engine.start import CUDA_CHECK, Starter
from lowrung.errors import EngineError
from lowrung.store import atomic
from lowrung.store.layout import RunFolder
from lowrung.version import __version__

POLL_SECONDS = 0.5
"""Seconds between two looks at a job's time limit; its end is noticed at once."""

MISSING = "not installed"
"""Stands for the version of a package that a node lacks."""

CARRIED = ("HF_", "LOWRUNG_", "MLFLOW_", "TOKENIZERS_", "TRANSFORMERS_", "HYDRA_")
"""How the names of environment variables begin that jobs have from the coordinator. All others are the node's own."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a node must have to run jobs of a coordinator.

    Attributes:
        folder: a folder of the store.
        token: what the coordinator wrote into it.
        working_folder: the coordinator's, which paths in configs start from.
        made_with: `made_with` of the coordinator.
    """

    folder: Path
    token: str
    working_folder: Path
    made_with: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> "Needs":
        """Those of this process; leaves a token in the folder."""
        token = secrets.token_hex(8)
        atomic.write_text(RunFolder(folder).token, token)
        return cls(folder, token, Path.cwd(), made_with())

    def problems(self) -> list[str]:
        """Why this node, where it is called, cannot run them."""
        node = platform.node()
        found = [] if self._has_token() else [self._storage_problem(node, self.folder)]
        if not self.working_folder.is_dir():
            found.append(self._storage_problem(node, self.working_folder))
        here = made_with()
        differing = [
            f"{name} {here.get(name, MISSING)} instead of {there}"
            for name, there in self.made_with.items()
            if here.get(name, MISSING) != there
        ]
        if differing:
            found.append(
                f"Every node must run what the coordinator runs, but {node} has {', '.join(differing)}. Install the"
                " same versions there: results would differ."
            )
        return found

    def _has_token(self) -> bool:
        with contextlib.suppress(OSError):
            return RunFolder(self.folder).token.read_text(encoding="utf-8") == self.token
        return False

    @staticmethod
    def _storage_problem(node: str, folder: Path) -> str:
        return (
            f"The store and the working folder must be on storage that all nodes share, but {node} does not see in"
            f" {folder} what the coordinator has there. Set store=... to a folder on it, and start the sweep from one."
        )


@dataclasses.dataclass(frozen=True)
class Request:
    """A job, as it is sent to a node.

    Attributes:
        key: the job's.
        folder: the job's, resolved and prepared by the coordinator.
        task: by cloudpickle.
        variables: environment variables beside the node's own.
        threads: CPU threads of the job.
        preload: modules that are imported once for all jobs that the same process of the cluster starts.
        time_limit: seconds that the job may take; None is no limit.
        needs: what the node must have.
    """

    key: str
    folder: Path
    task: bytes
    variables: Mapping[str, str]
    threads: int
    preload: Sequence[str]
    time_limit: float | None
    needs: Needs


def made_with() -> dict[str, str]:
    """What a coordinator and its nodes must have in common: versions, and the code that determines results."""
    return {
        "lowrung": f"{__version__} ({source.digest()[:8]})",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in (*signature.PACKAGES, "bitsandbytes")},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def carried() -> dict[str, str]:
    """The coordinator's environment variables that its jobs have too; see `CARRIED`."""
    return {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}


def refused(key: str, problems: Sequence[str]) -> Ended:
    """The end of a job on a node that cannot run it."""
    return Ended(key, Exit.RAISED, EngineError("\n".join(problems)), cause=f"EngineError: {problems[0]}")


def work(request: Request) -> Ended:
    """Runs a job to its end, on a node that has what it needs.

    ``KeyboardInterrupt``, which is how Ray cancels a task, cancels the job.
    """
    record = {"token": request.needs.token, "node": platform.node(), "job": os.environ.get("SLURM_JOB_ID")}
    atomic.write_json(RunFolder(request.folder).node, record)
    starter = Starter(request.preload, request.threads, "forkserver")
    starter.try_fork()
    variables = {**os.environ, **CUDA_CHECK, **request.variables, **cores.thread_variables(request.threads)}
    try:
        with _interrupt_put_off():
            running = Running.start(
                starter,
                request.key,
                request.folder,
                0,
                request.task,
                variables,
                request.time_limit,
                request.needs.working_folder,
            )
        _watch(running)
    except KeyboardInterrupt:
        running.stop(Exit.CANCELLED, "cancelled")
        _watch(running)
    return running.end()


@contextlib.contextmanager
def _interrupt_put_off() -> Iterator[None]:
    """Raises ``KeyboardInterrupt`` after the block: a job's process that has just started would go on unwatched."""
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if told:
        raise KeyboardInterrupt


def _watch(running: Running) -> None:
    """Waits for the end of a job's process, and holds it to its limits."""
    while running.process.exitcode is None:
        connection.wait(running.sources(), POLL_SECONDS)
        running.listen()
        running.enforce_limits()
    running.listen()
