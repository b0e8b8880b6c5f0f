"""How jobs' processes are started: forked from a server that has imported the libraries, or spawned."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, Literal

from lowrung.engine import cores, worker
from lowrung.engine.interrupt import STOPS
from lowrung.errors import EngineError

Method = Literal["forkserver", "spawn"]

CUDA_CHECK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Lets torch find out whether there is a GPU without touching CUDA."""

RESTART_SECONDS = 2.0
"""How long a start that failed is tried again: a fork server that was killed still exists for a moment."""

_FIRST = ("lowrung.engine.uncollected", "lowrung.engine.untouched")
"""What the fork server imports before all else."""

_CUDA_TOUCHED = "importing them once for all jobs touched CUDA{by}, which fails in forked processes"


def can_fork() -> bool:
    """Whether jobs can be forked from a server that has imported libraries.

    macOS has fork servers, but its system libraries may crash in a process that was forked after they were loaded, as
    torch loads them. CPython spawns there by default for this reason (https://bugs.python.org/issue33725).
    """
    return sys.platform != "darwin" and "forkserver" in multiprocessing.get_all_start_methods()


class Starter:
    """Starts processes, and hides from the engine whether they are forked or spawned.

    The fork server belongs to the Python process: a second starter in the same process shares it, with what the first
    one preloaded. A module that cannot be imported there is left to the jobs, where its error shows.

    Args:
        preload: modules that the fork server imports once.
        threads: the CPU threads of each job. OpenMP reads this number once, when it is loaded.
        method: ``forkserver`` becomes ``spawn`` where no server can run or be forked from.
    """

    def __init__(self, preload: Sequence[str], threads: int, method: Method) -> None:
        self._preload = list(preload)
        self._threads = threads
        self._forks = method == "forkserver" and can_fork()
        self._is_fork_tried = not (self._forks and self._preload)
        self._is_begun = not self._forks
        self._context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
        if self._forks:
            self._context = multiprocessing.get_context("forkserver")

    def preload(self) -> None:
        """Starts the fork server, which imports while the coordinator goes on; a second call does nothing."""
        if self._is_begun:
            return
        self._is_begun = True
        forkserver.set_forkserver_preload([*_FIRST, *self._preload])
        try:
            self._ensure_server()
        except OSError as error:  # no room for its socket or its process; a TMPDIR that is too long for a socket
            self._spawn_from_now_on(f"no server could be started that imports them once for all jobs ({error})")

    def pipe(self) -> "tuple[Connection[Any, Any], Connection[Any, Any]]":
        """A link between the coordinator and a job."""
        return self._context.Pipe()

    def try_fork(self) -> None:
        """Forks once before the first job, and turns to spawn where a forked process could not use CUDA.

        bitsandbytes is put off until then (`lowrung.engine.put_off`). Another library may touch CUDA too.
        """
        self.preload()
        if self._is_fork_tried or not self._forks:
            return
        process = self.start(worker.try_fork, (), "try_fork", {})
        process.join()
        self._is_fork_tried = True
        if process.exitcode in (worker.CUDA_TOUCHED, worker.BITS_LOADED):
            by = " (bitsandbytes does)" if process.exitcode == worker.BITS_LOADED else ""
            self._spawn_from_now_on(_CUDA_TOUCHED.format(by=by))

    def start(
        self, target: Callable[..., None], arguments: Sequence[Any], name: str, variables: Mapping[str, str]
    ) -> BaseProcess:
        """Starts a process that calls ``target``.

        Args:
            target: a function of a module, since it is pickled.
            arguments: of the target.
            name: of the process.
            variables: the environment of a process that is spawned, beside the coordinator's own.

        Raises:
            EngineError: when the fork server ends while it imports what is preloaded.
        """
        process = self._context.Process(target=target, args=arguments, name=name)
        with _main_module_hidden():
            if self._forks:
                self._fork(process)
            else:
                with cores.environment(variables), _signals_blocked():
                    process.start()
        return process

    def _fork(self, process: BaseProcess) -> None:
        deadline = float("inf")
        while True:
            try:
                self._ensure_server()
                return process.start()
            except (OSError, EOFError) as error:  # the server was killed, or the process before it knew its task
                # The time runs from the first error, not from the start: a server imports first.
                deadline = min(deadline, time.monotonic() + RESTART_SECONDS)
                if time.monotonic() >= deadline:
                    raise EngineError(
                        f"Preloading must not fail, but the process that imports {', '.join(self._preload)} ended"
                        f" ({error!r}; its own message is above). Preload less, or make the engine with start='spawn'."
                    ) from error
            time.sleep(0.05)

    def _ensure_server(self) -> None:
        """Starts the fork server where none runs; it imports what is preloaded while the coordinator goes on.

        Python 3.11 gives the server no `sys.path`, and the server would import from the working folder first. Hence
        the environment.
        """
        resource_tracker.ensure_running()  # first: starting it would unblock the signals
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
        with cores.environment({**cores.thread_variables(self._threads), **CUDA_CHECK, **path}), _signals_blocked():
            forkserver.ensure_running()

    def _spawn_from_now_on(self, reason: str) -> None:
        self._forks, self._context = False, multiprocessing.get_context("spawn")
        print(f"note: each job imports its libraries itself, in some 10 s: {reason}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keeps a process that is started in the block from importing the program that starts it.

    `multiprocessing` has it import the script, and a script that calls `lowrung.sweep` without a check of ``__name__``
    would sweep there again. Jobs need nothing of it: cloudpickle brings along what a task has from there.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keeps signals to end from a process that is started in the block, from before its first line.

    It inherits the mask. A scheduler sends SIGTERM to all processes, and jobs whose fork server has gone count as lost.
    A job takes SIGTERM again when it has begun; see `lowrung.engine.worker.main`.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
