"""Where the values of an axis stand: numbers where all of them are, and places in a list otherwise."""

import dataclasses
import functools
import html
import math
from collections.abc import Iterable, Sequence

from lowrung.report.leaderboard import shown
from lowrung.report.record import Axis, StudyRecord, TrialRecord

_WORD = 12
"""Characters of a word beside an axis."""
_LONG = 16
"""A list of more numbers is ticked like an interval, at round ones."""
_NEAREST = 0.055
"""Ticks that stand nearer to each other, as a share of the axis, are left out: at 400 pixels they overlap."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis of the search, as it is drawn.

    Attributes:
        axis: what was searched.
        texts: of a list of words, in order; none where the values are numbers.
        numbers: the distinct values that were tried or listed, rising; none of a list of words.
    """

    axis: Axis
    texts: Sequence[str]
    numbers: Sequence[float]

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers."""
        return not self.texts

    @property
    def is_interval(self) -> bool:
        """Whether it was searched between two ends."""
        return self.axis.low is not None and self.axis.high is not None

    @functools.cached_property
    def is_log(self) -> bool:
        """Whether it is drawn by orders of magnitude."""
        return self.axis.is_log and self.is_numeric and self.low > 0

    @property
    def low(self) -> float:
        """The lower end, of the interval or of what was tried; 0 of a list of words."""
        ends = [self.axis.low] if self.axis.low is not None else []
        return min([*self.numbers, *ends], default=0.0)

    @property
    def high(self) -> float:
        """The upper end; of a list of words the place of the last one."""
        ends = [self.axis.high] if self.axis.high is not None else []
        return max([*self.numbers, *ends], default=max(len(self.texts) - 1, 0))

    @property
    def size(self) -> int:
        """How many distinct values there are."""
        return len(self.texts) or len(self.numbers)

    def at(self, trial: TrialRecord) -> float | None:
        """Where a trial stands: its number, or its word's place; None where it has none."""
        text = trial.point.get(self.axis.key)
        if text is None:
            return None
        return number(text) if self.is_numeric else float(self.texts.index(text))

    def share(self, value: float) -> float:
        """How far a value is from the lower end to the upper one, from 0 to 1; 0.5 where there is one value."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high == low else (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their texts, far enough from each other; those of a list where it is one."""
        if not self.is_numeric:
            return [(float(place), cut(text)) for place, text in enumerate(self.texts)]
        is_rounded = self.is_interval or self.size > _LONG
        values = steps(self.low, self.high, is_log=self.is_log) if is_rounded else self.numbers
        kept: list[float] = []
        for value in values:
            if not kept or self.share(value) - self.share(kept[-1]) >= _NEAREST:
                kept.append(value)
        return [(value, shown(f"{value:.6g}")) for value in kept]


def of(axis: Axis, trials: Sequence[TrialRecord]) -> Scale:
    """The scale of an axis.

    Args:
        axis: what was searched.
        trials: all of the study, since a point to try first may lie beside the list.
    """
    tried = [trial.point[axis.key] for trial in trials if axis.key in trial.point]
    texts = list(dict.fromkeys([*axis.values, *tried]))
    numbers = [number(text) for text in texts]
    if all(value is not None for value in numbers) and (numbers or axis.low is not None):
        return Scale(axis, (), sorted({value for value in numbers if value is not None}))
    return Scale(axis, texts, ())


def varied(study: StudyRecord) -> list[Scale]:
    """The scales of a study's axes of which trials have two values or more, the most important first."""
    found = [of(axis, study.trials) for axis in study.axes]
    kept = [scale for scale in found if len(_tried(scale, study.trials)) > 1]
    return sorted(kept, key=lambda scale: -study.importance.get(scale.axis.key, 0.0))


def cut(text: str) -> str:
    """A word of a list as HTML, as much of it as there is room for under one of four places on a phone."""
    return html.escape(text if len(text) <= _WORD else f"{text[: _WORD - 1]}…", quote=False)


def number(text: str) -> float | None:
    """A finite number; None of anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def steps(low: float, high: float, *, is_log: bool = False) -> list[float]:
    """Round numbers between two ends: powers of ten with 2 and 5 between where they are few, or four to eight steps."""
    if not high > low:
        return [low]
    if is_log:
        tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for parts in ((1,), (1, 3), (1, 2, 5)):
            found = [part * 10.0**ten for ten in tens for part in parts if low <= part * 10.0**ten <= high * 1.0001]
            if len(found) > 3:
                break
        return found if len(found) > 1 else [low, high]
    rough = (high - low) / 5
    ten = 10.0 ** math.floor(math.log10(rough))
    step = min((part * ten for part in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    return [step * place for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tried(scale: Scale, trials: Iterable[TrialRecord]) -> set[float]:
    return {place for trial in trials if (place := scale.at(trial)) is not None}
