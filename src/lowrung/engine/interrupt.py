"""Ctrl-C: once to end in good order, twice to end now."""

import signal
import threading


class CtrlC:
    """While the block runs, the first Ctrl-C is only remembered; the second raises KeyboardInterrupt.

    It is remembered too, since Python drops an exception that comes inside a finaliser. Outside the main thread, where
    no signal arrives, it does nothing.
    """

    def __init__(self) -> None:
        self.presses = 0

    @property
    def was_pressed(self) -> bool:
        """Whether to end in good order."""
        return self.presses > 0

    def check(self) -> None:
        """Raises KeyboardInterrupt when Ctrl-C was pressed a second time."""
        if self.presses > 1:
            raise KeyboardInterrupt

    def __enter__(self) -> "CtrlC":
        self._is_listening = threading.current_thread() is threading.main_thread()
        if self._is_listening:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_listening:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        self.presses += 1
        self.check()
