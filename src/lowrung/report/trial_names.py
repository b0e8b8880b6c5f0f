"""Trials in words: by what sets them apart, as short as that can be said."""

from collections.abc import Sequence

from lowrung.report.leaderboard import TrialRow, shown

_LENGTH = 48
"""Characters that a list of settings may take; trials whose settings take more are named by their numbers."""
_LONGEST = 72
"""The same of a trial that is named by both: the one to take, which nobody should have to look up."""
_LISTED = 8
"""How many numbers are listed."""


class TrialNames:
    """Names for the trials of a sweep.

    Args:
        rows: all trials among which a name must be clear.
    """

    def __init__(self, rows: Sequence[TrialRow]) -> None:
        keys = dict.fromkeys(key for row in rows for key in row.point)
        self._varied = [key for key in keys if len({row.point.get(key) for row in rows}) > 1]

    def one(self, row: TrialRow) -> str:
        """``lora.r=16``, or ``trial 2`` where that takes too much room or nothing is varied."""
        return self._settings(row, _LENGTH) or f"trial {row.number}"

    def numbered(self, row: TrialRow) -> str:
        """``lora.r=16 (trial 2)``."""
        settings = self._settings(row, _LONGEST)
        return f"{settings} (trial {row.number})" if settings else f"trial {row.number}"

    def several(self, rows: Sequence[TrialRow]) -> str:
        """``lora.r=4, 8 and 16`` where nothing else sets them apart from each other, or ``trials 0, 3 and 7``."""
        if len(rows) == 1:
            return self.one(rows[0])
        varied = [key for key in self._varied if len({row.point.get(key) for row in rows}) > 1]
        if len(varied) == 1 and all(varied[0] in row.point for row in rows):
            key = varied[0]
            values = listed([shown(row.point[key]) for row in rows])
            if len(values) <= _LENGTH:
                return f"{key}={values}"
        return trials([row.number for row in rows])

    def _settings(self, row: TrialRow, most: int) -> str:
        """The varied settings of a trial; empty where there are none, or they are too long."""
        text = " ".join(f"{key}={shown(row.point[key])}" for key in self._varied if key in row.point)
        return text if len(text) <= most else ""


def listed(texts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def trials(numbers: Sequence[int]) -> str:
    """``trial 3``, ``trials 0, 3 and 7``, ``12 trials``."""
    if len(numbers) > _LISTED:
        return f"{len(numbers)} trials"
    return f"trial{'s' * (len(numbers) > 1)} {listed([str(number) for number in numbers])}"
