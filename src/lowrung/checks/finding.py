"""What a check has found."""

import dataclasses
import enum


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
        """In a line, with the remedy below it."""
        line = f"{self.level:<5}  {self.name:<18}  {self.found}"
        return line if self.remedy is None else f"{line}\n{'':<7}{'':<18}  -> {self.remedy}"


def ok(name: str, found: str) -> Finding:
    """A thing that is as it should be."""
    return Finding(Level.OK, name, found)


def note(name: str, found: str, remedy: str | None = None) -> Finding:
    """A thing that is good to know."""
    return Finding(Level.NOTE, name, found, remedy)


def wrong(name: str, found: str, remedy: str) -> Finding:
    """A thing that stops a run or spoils it."""
    return Finding(Level.WRONG, name, found, remedy)
