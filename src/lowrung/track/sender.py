"""Sends records to a tracker from a thread of its own: whoever has something to record never waits for the tracker."""

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from lowrung.track.base import NullTracker, Tracker, TrackerLostError, TrackError

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a tracker that is away is asked again, and again; the last one for ever."""

SLOW_SECONDS = 5.0
"""A call that has waited so long for an answer may wait for ever: MLflow asks a server that halts for 16 minutes."""

_T = TypeVar("_T")


class Sender:
    """Carries out calls on a tracker, one after the other, in the order in which they came.

    A tracker that is away is asked again until it is back, and then gets what has gathered: every call must come to the
    same when it is repeated. A call that is refused is one warning. Nothing is raised to whoever asked for a call.

    Args:
        connect: opens the tracker; called in the thread, again and again while the tracker is away.
        say: prints a line.

    Attributes:
        is_held: whether calls gather, and none is carried out.
    """

    def __init__(self, connect: Callable[[], Tracker], say: Callable[[str], None] = print) -> None:
        self.say = say
        self._connect = connect
        self._tracker: Tracker | None = None
        self._calls: deque[tuple[Callable[[Tracker], Any], Future[Any], str]] = deque()
        self._changed = threading.Condition()
        self._since = 0.0
        self._problem: TrackError | None = None
        self._failures = 0
        self._is_closed = False
        self.is_held = False
        self._is_hurried = False
        self._is_said_slow = False
        self._warned: set[str] = set()
        threading.Thread(target=self._work, name="tracking", daemon=True).start()

    @classmethod
    def null(cls) -> "Sender":
        """One that records nothing."""
        return cls(NullTracker)

    @property
    def problem(self) -> TrackError | None:
        """Why the tracker did not answer when it was last asked; None where it did."""
        return self._problem

    @property
    def answers(self) -> bool:
        """Whether the tracker answered when it was last asked, or may do so yet; says so once where it halts."""
        if not self._is_said_slow and self._waited > SLOW_SECONDS:
            self._is_said_slow = True
            self._tell(
                f"warning: the tracker has not answered for {SLOW_SECONDS:.0f} s; all goes on, and it gets what is"
                " missing when it answers"
            )
        return self._problem is None and self._waited <= SLOW_SECONDS

    def send(self, call: Callable[[Tracker], _T], about: str) -> "Future[_T]":
        """Has a call carried out when its turn comes.

        Args:
            call: given the tracker.
            about: what is recorded, for a warning.
        """
        future: Future[_T] = Future()
        with self._changed:
            self._calls.append((call, future, about))
            self._changed.notify_all()
        return future

    def hold(self) -> None:
        """Carries out no more calls until `go_on`: somebody waits for what else this process does."""
        with self._changed:
            self.is_held = True

    def go_on(self) -> None:
        """Carries out what has gathered, and what comes."""
        with self._changed:
            self.is_held = False
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Waits until all calls were carried out; returns whether they were.

        A tracker that is away is asked once more, and not waited for where it is away still.

        Args:
            seconds: to wait at most. Those for which the present call has waited for an answer count.
        """
        with self._changed:
            self._is_hurried, failures = True, self._failures
            self._changed.notify_all()
            patience = max(seconds - self._waited, 0.0)
            self._changed.wait_for(lambda: not self._calls or self._failures > failures, patience)
            self._is_hurried = False
            return not self._calls

    def close(self) -> None:
        """Gives up what has not been sent."""
        with self._changed:
            self._is_closed = True
            for _, future, _ in self._calls:
                future.cancel()
            self._changed.notify_all()

    @property
    def _waited(self) -> float:
        """Seconds for which the present call has waited for an answer."""
        since = self._since
        return time.monotonic() - since if self._calls and since else 0.0

    # -- the thread's --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: (self._calls and not self.is_held) or self._is_closed)
                if self._is_closed:
                    return
                call, future, about = self._calls[0]
            self._carry_out(call, future, about)
            with self._changed:
                self._since = 0.0
                self._calls.popleft()
                self._changed.notify_all()

    def _carry_out(self, call: Callable[[Tracker], Any], future: "Future[Any]", about: str) -> None:
        for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
            self._since = time.monotonic()
            try:
                if self._tracker is None:
                    self._tracker = self._connect()
                result = call(self._tracker)
            except TrackerLostError as error:
                self._lose(error)
                if self._rest(pause):
                    return
            except Exception as error:
                _end(future, error=error)
                self._refused(error, about)
                return
            else:
                _end(future, result)
                self._found()
                return

    def _rest(self, seconds: float) -> bool:
        """Waits before the next try; returns whether there is to be none."""
        with self._changed:
            self._since = 0.0
            self._changed.wait_for(lambda: self._is_hurried or self._is_closed, seconds)
            self._is_hurried = False
            return self._is_closed

    def _lose(self, error: TrackError) -> None:
        is_new = self._problem is None
        with self._changed:
            self._problem, self._failures = error, self._failures + 1
            self._changed.notify_all()
        if is_new:
            self._tell(
                f"warning: the tracker is away ({error}); all goes on, and it gets what is missing when it is back"
            )

    def _found(self) -> None:
        if self._problem is not None:
            self._problem = None
            self._tell("the tracker is back")

    def _refused(self, error: Exception, about: str) -> None:
        if self._warned.isdisjoint({about, str(error)}):  # where all is refused, each run is
            self._warned |= {about, str(error)}
            self._tell(f"warning: not all of {about} is tracked: {error}")

    def _tell(self, text: str) -> None:
        """Prints a line; an output that cannot be written ends no thread."""
        with contextlib.suppress(OSError, ValueError):
            self.say(text)


def _end(future: "Future[Any]", result: Any = None, error: Exception | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
