"""The inside of a job's process: what happens there before, around and after the task."""

import contextlib
import faulthandler
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from lowrung.engine import put_off
from lowrung.engine.base import Exit
from lowrung.engine.interrupt import STOPS
from lowrung.errors import EngineError
from lowrung.store import atomic
from lowrung.store.layout import RunFolder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CUDA_TOUCHED = 3
"""The exit code of `try_fork` where a forked process cannot use CUDA."""

BITS_LOADED = 4
"""The same where what was put off had to be imported, which touches it."""

GOES_FIRST = 250
"""Thousandths of all memory that count beside what the process has, where the system chooses one to end."""

_HELD = contextlib.ExitStack()
"""Keeps the folder's lock: nothing closes it, so the lock lasts as long as the process."""


def main(link: Connection, task: bytes, folder: Path, variables: Mapping[str, str], working_folder: Path) -> None:
    """Runs one task in a process of its own; the target of the engine's `multiprocessing.Process`.

    Args:
        link: to the coordinator. The answer goes out on it; nothing comes in but its end.
        task: the task, by cloudpickle.
        folder: the job's.
        variables: the whole environment of the process.
        working_folder: the coordinator's. That of the fork server may be of an earlier sweep.
    """
    gc.freeze()  # what was preloaded stays: a walk over it takes 0.3 s, and a run asks for five
    gc.enable()  # see lowrung.engine.uncollected
    go_first()
    os.setsid()  # a process group of its own, so that what the task starts can be ended with it
    for number in (signal.SIGINT, signal.SIGHUP):  # of the coordinator's terminal
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    multiprocessing.set_start_method(None, force=True)  # the task's own processes start as they do elsewhere
    redirect_output(RunFolder(folder).log)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(working_folder)
    threading.Thread(target=_end_with_coordinator, args=(link,), daemon=True).start()
    _HELD.enter_context(atomic.lock(RunFolder(folder).lock, wait=True))
    link.send_bytes(answer(task))


def go_first() -> None:
    """Has the system choose this process, and not those that have started it, where memory runs out.

    It chooses the largest one, and the fork server is nearly as large as a job in its first seconds: its jobs would
    count as lost.
    """
    with contextlib.suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text()) + GOES_FIRST)))


def redirect_output(log: Path) -> None:
    """Appends all that this process prints to ``log``: Python's output, that of C code, and crash traces.

    What finds no room on the disk is dropped: a line of the log that cannot be written is no reason to fail.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, number)
        raw = io.BufferedWriter(_Forgiving(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True))
    os.close(file)
    faulthandler.enable(file=2)


class _Forgiving(io.FileIO):
    """A file that takes what it cannot write as written."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """See `io.FileIO.write`."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _end_with_coordinator(link: Connection) -> None:
    """Ends this process and all that it started when the coordinator is gone: no orphan writes beside its successor."""
    with contextlib.suppress(EOFError, OSError):
        link.recv_bytes()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def answer(task: bytes) -> bytes:
    """Runs a pickled task; the answer is for `read_answer`. What the task raises is printed with its traceback."""
    try:
        _settle_torch()
        return _pack(Exit.RETURNED, cloudpickle.loads(task)())
    except Exception as error:
        traceback.print_exc()
        return _pack(Exit.RAISED, portable(error), describe(error))


def _settle_torch() -> None:
    """Where torch was preloaded it read the environment then, before this job's was set. What was put off is imported.

    Raises:
        EngineError: when CUDA was touched before the fork, after which it cannot be used here.
    """
    if is_cuda_touched():
        raise EngineError(
            "What is preloaded must not touch CUDA, but CUDA was in use before this job's process was forked. "
            "Preload less, or make the engine with start='spawn'."
        )
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    put_off.load()


def is_cuda_touched() -> bool:
    """Whether CUDA was in use here before this process ran its task, or in the process that it was forked from."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return bool(torch.cuda._is_in_bad_fork() or torch.cuda.is_initialized())  # the latter is always False after a fork


def try_fork() -> None:
    """Ends with `CUDA_TOUCHED` or `BITS_LOADED` where jobs that are forked like this process could not use CUDA."""
    if put_off.is_asked_for():
        sys.exit(BITS_LOADED)
    sys.exit(CUDA_TOUCHED if is_cuda_touched() else 0)


def _pack(exit: Exit, value: Any, cause: str | None = None) -> bytes:
    try:
        payload = cloudpickle.dumps(value)
    except Exception as error:
        raise EngineError(
            f"What a task returns must be picklable, but its {type(value).__name__} is not ({describe(error)}). "
            "Return plain values, and write anything else to the job's folder."
        ) from error
    packed: bytes = cloudpickle.dumps((exit, payload, cause))
    return packed


def read_answer(message: bytes) -> tuple[Exit, Any, str | None]:
    """What `answer` packed: how the task ended, its value or exception, and the cause."""
    exit, payload, cause = cloudpickle.loads(message)
    try:
        return exit, cloudpickle.loads(payload), cause
    except Exception as error:
        problem = EngineError(
            f"What a task returns must be picklable, but it cannot be unpickled ({describe(error)}). "
            "Return plain values, and write anything else to the job's folder."
        )
        return Exit.RAISED, problem, describe(problem)


def portable(error: BaseException) -> BaseException:
    """The exception itself where it survives pickling, else an `EngineError` with its text."""
    try:
        copy = cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return EngineError(describe(error))
    return error if type(copy) is type(error) else EngineError(describe(error))


def describe(error: BaseException) -> str:
    """One line that says what was raised: ``ValueError: ...``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
