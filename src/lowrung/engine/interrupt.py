"""Ctrl-C, SIGTERM and SIGHUP: the first to end in good order, the second to end now."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from lowrung.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: Ctrl-C; schedulers, `docker stop` and `kill`; a terminal that was closed."""

SAME_SECONDS = 2.0
"""How long after a SIGTERM another one is the same: where another job takes a node, SLURM sends two within 50 ms, and
the second would end a run that writes its checkpoint."""


class StopSignals:
    """While the block runs, the first signal to end is only remembered; the second raises `Interrupted`.

    Of SIGTERM the second is one that comes `SAME_SECONDS` later. It is remembered too, since Python drops an exception
    that comes inside a finaliser. A signal that this process ignores stays ignored: Ctrl-C in a worker, SIGHUP below
    `nohup`. Blocks inside one another remember the same signals. Outside the main thread, where no signal arrives, it
    does nothing.
    """

    def __init__(self) -> None:
        self._came: list[tuple[int, float]] = []
        """Signals, each with when it came by the monotonic clock."""
        self._before: dict[int, object] = {}

    @property
    def is_to_stop(self) -> bool:
        """Whether to end in good order."""
        return bool(self._came)

    @property
    def interruption(self) -> Interrupted:
        """What to raise at the end."""
        return Interrupted(self._came[0][0] if self._came else signal.SIGINT)

    def check(self) -> None:
        """Raises `Interrupted` when a second signal has come."""
        if len(self._came) > 1:
            raise self.interruption

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in STOPS}
            for outer in (getattr(handler, "__self__", None) for handler in handlers.values()):
                if isinstance(outer, StopSignals):
                    self._came = outer._came
            self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
            for number in self._before:
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _take(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        told_at = max((at for came, at in self._came if came == signal.SIGTERM), default=float("-inf"))
        if number == signal.SIGTERM and now < told_at + SAME_SECONDS:
            return
        self._came.append((number, now))
        if number == signal.SIGHUP:
            _leave_the_terminal()
        self.check()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Has SIGTERM and SIGHUP raise `Interrupted` while the block runs, where Python leaves them to the system.

    So what the program has opened is closed, as it is after Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_the_terminal()
    raise Interrupted(number)


def _leave_the_terminal() -> None:
    """Drops what is printed from now on, where it would go to a terminal that is gone: each line would raise."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.isatty() or not _can_be_written(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _can_be_written(descriptor: int) -> bool:
    try:
        os.write(descriptor, b"")
    except OSError:
        return False
    return True
