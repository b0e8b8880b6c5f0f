"""Rows that cannot be learnt: why, how many, and how they are named."""

import dataclasses
from collections.abc import Sequence

SHOWN = 3
"""How many bad rows a message names; in a file with the wrong columns every row is bad."""


class RowError(Exception):
    """A row cannot be learnt as it was written. The message gives the reason, without naming the row."""


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be learnt.

    Attributes:
        where: the setting and the line, ``data.path=answers.jsonl, line 7``; or the beginning of its text.
        reason: why, without a full stop.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}."


def problems(bad: Sequence[BadRow]) -> list[str]:
    """The first bad rows, the number of the others, and how to go on without them."""
    if not bad:
        return []
    more = [f"{len(bad) - SHOWN} more rows like these."] if len(bad) > SHOWN else []
    *first, last = [*map(str, _first(bad)), *more]
    return [*first, f"{last} data.on_bad_rows=drop leaves {'it' if len(bad) == 1 else 'them'} out."]


def note(bad: Sequence[BadRow]) -> list[str]:
    """What was left out, in one line; none where nothing was."""
    if not bad:
        return []
    named = "; ".join(f"{row.where}: {row.reason}" for row in _first(bad))
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return [f"data.on_bad_rows=drop left {len(bad)} {'row' if len(bad) == 1 else 'rows'} out: {named}{more}"]


def _first(bad: Sequence[BadRow]) -> list[BadRow]:
    """Those with the lowest lines; they come in the order in which the data was shuffled."""

    def place(row: BadRow) -> tuple[str, int]:
        before, _, line = row.where.rpartition(" ")
        return (before, int(line)) if line.isdigit() else ("", 0)

    return sorted(bad, key=place)[:SHOWN]
