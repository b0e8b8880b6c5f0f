"""The axes of a search space: lists of values, and intervals that are searched."""

import dataclasses
import math
from collections.abc import Iterable

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = str | int | float | bool | None
Params = dict[str, Value]
"""One point, or the part of it that is fixed: values by key, as Optuna keeps them."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """An axis of the grid: a comma list, ``range()`` or ``glob()``.

    Attributes:
        key: the setting or group.
        values: as Optuna keeps them: numbers as numbers, anything else as its text.
        texts: as Hydra reads them, in the same order, the same however they were spelled.
        prefix: ``+`` or ``++`` where the key is added.
        among: what the key has in all spaces of a search; see `lowrung.search.union`. None is the values.
    """

    key: str
    values: tuple[Value, ...]
    texts: tuple[str, ...]
    prefix: str = ""
    among: "tuple[Value, ...] | Interval | None" = None

    @property
    def distinct(self) -> tuple[Value, ...]:
        """Each value once, in an order that does not depend on how they were written: shuffle() writes any."""
        return in_order(self.values)

    @property
    def distribution(self) -> BaseDistribution:
        """The axis as Optuna knows it: its choices may not change from one trial of a study to another."""
        if isinstance(self.among, Interval):
            return self.among.distribution
        return CategoricalDistribution(self.distinct if self.among is None else self.among)

    def __str__(self) -> str:
        """In one spelling, whatever the order."""
        return ",".join(map(_spelled, self.distinct))


@dataclasses.dataclass(frozen=True)
class Interval:
    """An axis that is searched: ``interval(low, high)``, both ends included.

    Attributes:
        key: the setting.
        low: smallest value.
        high: largest value.
        log: whether orders of magnitude are equally likely: ``tag(log, interval(...))``.
        integer: whether only whole numbers are drawn: ``int(interval(...))``.
        prefix: ``+`` or ``++`` where the key is added.
    """

    key: str
    low: float
    high: float
    log: bool
    integer: bool
    prefix: str = ""

    @property
    def ends(self) -> tuple[Value, Value]:
        """The smallest and the largest value, as they are drawn."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    @property
    def distribution(self) -> BaseDistribution:
        """The axis as Optuna knows it."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def spaced(self, n_values: int) -> Choice:
        """Evenly spaced values, both ends included, of four digits; fewer where there are fewer whole numbers."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        steps = [low + (high - low) * index / (n_values - 1) for index in range(n_values)]
        numbers = [math.exp(step) if self.log else step for step in steps]
        texts = tuple(dict.fromkeys(str(round(number)) if self.integer else f"{number:.4g}" for number in numbers))
        values = tuple(int(text) if self.integer else float(text) for text in texts)
        return Choice(self.key, values, texts, self.prefix)

    def __str__(self) -> str:
        """As Hydra reads it."""
        text = f"interval({self.low:g},{self.high:g})"
        text = f"int({text})" if self.integer else text
        return f"tag(log,{text})" if self.log else text


Axis = Choice | Interval
"""A key that has several values, or may have."""


def in_order(values: Iterable[Value]) -> tuple[Value, ...]:
    """Each value once, in an order that follows from the values alone."""
    return tuple(sorted(dict.fromkeys(values), key=_order))


def _order(value: Value) -> tuple[str, float, str]:
    number = value if isinstance(value, int | float) else 0
    return (str(type(value)), number, str(value))


def _spelled(value: Value) -> str:
    """A value in one spelling: a whole number is the same with a point and without."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
