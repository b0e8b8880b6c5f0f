"""What a check has found, and the time that it may take."""

import dataclasses
import enum
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator

from lowrung.errors import in_short
from lowrung.report import screen

_INDENT = 27
"""Columns before what was found."""


class Level(enum.StrEnum):
    """How a thing stands."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        level: ``ok``; ``note``, which is good to know; or ``wrong``, which stops a run or spoils it.
        name: of the thing that was checked.
        found: what it is, in words.
        remedy: what to do about it; null where there is nothing to do.
    """

    level: Level
    name: str
    found: str
    remedy: str | None = None

    def __str__(self) -> str:
        """In as many lines as the terminal needs, with the remedy below; its commands stay whole, to be copied."""
        head, width = f"{self.level:<5}  {self.name:<18}  ", screen.width()
        if width is None:
            text = head + self.found
        elif width < 2 * _INDENT:
            text = f"{head.rstrip()}\n{_filled(self.found, width, '    ', '    ')}"
        else:
            text = _filled(self.found, width, head, " " * _INDENT)
        return text if self.remedy is None else f"{text}\n{'':<{_INDENT}}-> {self.remedy}"


def _filled(text: str, width: int, first: str, others: str) -> str:
    text = screen.printable(text)
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def ok(name: str, found: str) -> Finding:
    """A thing that is as it should be."""
    return Finding(Level.OK, name, found)


def note(name: str, found: str, remedy: str | None = None) -> Finding:
    """A thing that is good to know."""
    return Finding(Level.NOTE, name, found, remedy)


def wrong(name: str, found: str, remedy: str) -> Finding:
    """A thing that stops a run or spoils it."""
    return Finding(Level.WRONG, name, found, remedy)


@dataclasses.dataclass(frozen=True)
class Check:
    """A question to a disk, a server or a program, any of which may hang.

    Attributes:
        name: of what is asked.
        ask: finds something.
        seconds: the longest that it may take.
        remedy: what to do where it takes longer.
    """

    name: str
    ask: Callable[[], Iterable[Finding]]
    seconds: float
    remedy: str

    def findings(self) -> Iterator[Finding]:
        """All that is found. A check that fails, or has no end, is a finding itself."""
        found: list[Finding] = []
        # A thread, since the system lets nobody wait for a disk with a limit; the process ends without it.
        asking = threading.Thread(target=self._ask_into, args=[found], daemon=True)
        asking.start()
        asking.join(self.seconds)
        hangs = asking.is_alive()
        yield from list(found)
        if hangs:
            yield wrong(self.name, f"did not answer in {self.seconds:g} s", self.remedy)

    def _ask_into(self, found: list[Finding]) -> None:
        try:
            found.extend(iter(self.ask()))
        except Exception as error:
            found.append(wrong(self.name, f"could not be checked ({in_short(error)})", "Report this."))
