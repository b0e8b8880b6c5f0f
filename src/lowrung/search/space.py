"""The search space: Hydra's sweep overrides as an exact grid, intervals to search, or both."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lowrung.config import commandline

Value = str | int | float | bool | None
Params = dict[str, Value]
"""One point, or the part of it that is fixed: values by key, as Optuna keeps them."""


SEED = "seed"
"""The one key whose list is no axis: every point is trained with each of its values."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """An axis of the grid: a comma list, ``range()`` or ``glob()``.

    Attributes:
        key: the setting or group.
        values: as Optuna keeps them: numbers as numbers, anything else as it was written.
        texts: as Hydra reads them, in the same order.
    """

    key: str
    values: tuple[Value, ...]
    texts: tuple[str, ...]

    @property
    def distinct(self) -> tuple[Value, ...]:
        """Each value once, in an order that does not depend on how they were written: shuffle() writes any."""
        return tuple(sorted(dict.fromkeys(self.values), key=_order))


@dataclasses.dataclass(frozen=True)
class Interval:
    """An axis that is searched: ``interval(low, high)``, both ends included.

    Attributes:
        key: the setting.
        low: smallest value.
        high: largest value.
        log: whether orders of magnitude are equally likely: ``tag(log, interval(...))``.
        integer: whether only whole numbers are drawn: ``int(interval(...))``.
    """

    key: str
    low: float
    high: float
    log: bool
    integer: bool

    def spaced(self, n_values: int) -> Choice:
        """Evenly spaced values, both ends included, of four digits; fewer where there are fewer whole numbers."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        values = [low + (high - low) * index / (n_values - 1) for index in range(n_values)]
        numbers = [math.exp(value) if self.log else value for value in values]
        texts = tuple(dict.fromkeys(str(round(number)) if self.integer else f"{number:.4g}" for number in numbers))
        return Choice(self.key, tuple(int(text) if self.integer else float(text) for text in texts), texts)

    def __str__(self) -> str:
        """As Hydra reads it."""
        text = f"interval({self.low:g},{self.high:g})"
        text = f"int({text})" if self.integer else text
        return f"tag(log,{text})" if self.log else text


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        choices: the grid's axes, in command-line order.
        intervals: the searched axes.
        fixed: overrides that hold for every point.
        seeds: those that every point is trained with; empty where that is left to the config.
    """

    choices: tuple[Choice, ...]
    intervals: tuple[Interval, ...]
    fixed: tuple[str, ...]
    seeds: tuple[int, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The keys of all axes."""
        return [choice.key for choice in self.choices] + [interval.key for interval in self.intervals]

    def grid(self) -> list[Params]:
        """The exact grid in command-line order, the last axis fastest; one empty point where there is no axis."""
        axes = [dict.fromkeys(axis.values) for axis in self.choices]
        return [
            dict(zip((axis.key for axis in self.choices), values, strict=True)) for values in itertools.product(*axes)
        ]

    def on_a_grid(self, n_values: int) -> "Space":
        """The space with so many evenly spaced values, both ends included, instead of each interval."""
        return dataclasses.replace(
            self, choices=(*self.choices, *(axis.spaced(n_values) for axis in self.intervals)), intervals=()
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        """The axes as Optuna knows them."""
        choices = {axis.key: CategoricalDistribution(axis.distinct) for axis in self.choices}
        return {**choices, **{axis.key: _distribution(axis) for axis in self.intervals}}

    def described(self) -> dict[str, dict[str, str]]:
        """The space in words, the same however it was written."""
        choices = {axis.key: ",".join(map(str, axis.distinct)) for axis in self.choices}
        intervals = {axis.key: str(axis) for axis in self.intervals}
        seeds = {SEED: ",".join(map(str, sorted(self.seeds)))} if self.seeds else {}
        return {"axes": {**choices, **intervals}, "seeds": seeds}

    def texts(self, params: Mapping[str, Value]) -> dict[str, str]:
        """A point's values as Hydra reads them."""
        written = {axis.key: dict(zip(axis.values, axis.texts, strict=True)) for axis in self.choices}
        return {key: written[key][value] if key in written else str(value) for key, value in params.items()}

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """The Hydra overrides that make a point, without its seeds; an interval that is left open is at its low end."""
        open_ends: Params = {a.key: int(a.low) if a.integer else a.low for a in self.intervals if a.key not in params}
        texts = self.texts({**params, **open_ends})
        return [*self.fixed, *(f"{key}={texts[key]}" for key in self.keys)]


def parse(overrides: Sequence[str], parser: OverridesParser) -> Space:
    """Reads a search space from overrides. Where a key comes twice, its last value counts, at its first position.

    Args:
        overrides: Hydra overrides, a preset's before the command line's.
        parser: Hydra's; it must know a config loader for ``glob()``.
    """
    last: dict[str, Override] = {}
    for override in parser.parse_overrides(list(overrides)):
        last[override.get_key_element()] = override
    choices = [_choice(o) for o in last.values() if o.is_sweep_override() and not o.is_interval_sweep()]
    return Space(
        choices=tuple(choice for choice in choices if choice.key != SEED),
        intervals=tuple(_interval(o) for o in last.values() if o.is_interval_sweep()),
        fixed=tuple(o.input_line or "" for o in last.values() if not o.is_sweep_override()),
        seeds=tuple(int(text) for choice in choices if choice.key == SEED for text in dict.fromkeys(choice.texts)),
    )


def _order(value: Value) -> tuple[str, float, str]:
    number = value if isinstance(value, int | float) else 0
    return (str(type(value)), number, str(value))


def _choice(override: Override) -> Choice:
    elements = tuple(override.sweep_iterator(transformer=Transformer.identity))  # once: shuffle() differs each time
    texts = tuple(str(Transformer.encode(element)) for element in elements)
    values = tuple(
        element if isinstance(element, int | float) else text for element, text in zip(elements, texts, strict=True)
    )
    return Choice(override.get_key_element(), values, texts)


def _interval(override: Override) -> Interval:
    sweep = commandline.interval(override)
    low, high = sweep.start, sweep.end
    assert low is not None  # `problems` has refused such an interval
    assert high is not None
    integer = isinstance(low, int) and isinstance(high, int)
    return Interval(override.get_key_element(), low, high, "log" in sweep.tags, integer)


def _distribution(axis: Interval) -> BaseDistribution:
    if axis.integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def problems(overrides: Sequence[Override], n_trials: int | None, *, needs_n_trials: bool = True) -> list[str]:
    """What is wrong with the axes themselves; each override's values are checked elsewhere.

    Args:
        overrides: all of them.
        n_trials: as was asked for.
        needs_n_trials: whether an interval is searched without an end.
    """
    found = []
    all_intervals = [override for override in overrides if override.is_interval_sweep()]
    intervals = [override for override in all_intervals if override.get_key_element() != SEED]
    if intervals and n_trials is None and needs_n_trials:
        keys = ", ".join(override.get_key_element() for override in intervals)
        found.append(
            f"hydra.sweeper.n_trials must be set where an interval is searched ({keys}), since it has no end of"
            " its own. Add hydra.sweeper.n_trials=20, say."
        )
    if n_trials is not None and n_trials < 1:
        found.append(f"hydra.sweeper.n_trials must be at least 1, but is {n_trials}.")
    for override in intervals:
        found += _interval_problems(override.get_key_element(), commandline.interval(override))
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    found += [f"{key} {UNSEARCHED[key]}" for key in dict.fromkeys(swept) if key in UNSEARCHED]
    if len(all_intervals) > len(intervals):
        found.append(
            "seed must not be searched: it would be chosen for its luck. Give a list, such as seed=0,1,2, to train"
            " every trial with each of them and to compare the means."
        )
    return found


UNSEARCHED = {
    "sweeps": "must name one preset: each is a sweep of its own. Run them one after the other.",
    "study": "must have one value: it names the sweep. Leave it out, or run a sweep for each.",
}


def _interval_problems(key: str, interval: IntervalSweep) -> list[str]:
    low, high = interval.start, interval.end
    if low is None or high is None or not low < high:
        return [f"{key} must be searched from a low end to a higher one, but got interval({low}, {high})."]
    if "log" in interval.tags and low <= 0:
        return [f"{key} must be above 0 to be searched by orders of magnitude, but got interval({low}, {high})."]
    return []
