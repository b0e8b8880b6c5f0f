"""The search space: Hydra's sweep overrides as an exact grid, intervals to search, or both."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lowrung.config import commandline, grammar, repeats

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
        values: as Optuna keeps them: numbers as numbers, anything else as its text.
        texts: as Hydra reads them, in the same order, the same however they were spelled.
        prefix: ``+`` or ``++`` where the key is added.
    """

    key: str
    values: tuple[Value, ...]
    texts: tuple[str, ...]
    prefix: str = ""

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


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        parts: the axes, and between them the overrides that hold for every point, in command-line order: Hydra applies
            one after the other.
        seeds: those that every point is trained with; empty where that is left to the config.
    """

    parts: tuple[str | Choice | Interval, ...]
    seeds: tuple[int, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The grid's axes, in command-line order."""
        return tuple(part for part in self.parts if isinstance(part, Choice))

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The searched axes."""
        return tuple(part for part in self.parts if isinstance(part, Interval))

    @property
    def fixed(self) -> tuple[str, ...]:
        """Overrides that hold for every point."""
        return tuple(part for part in self.parts if isinstance(part, str))

    def with_study(self, override: str) -> "Space":
        """The space of a study: the override that names it is in the place of any that was typed."""
        parts = (part for part in self.parts if not isinstance(part, str) or not part.lstrip("+").startswith("study="))
        return dataclasses.replace(self, parts=(override, *parts))

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
        parts = [part.spaced(n_values) if isinstance(part, Interval) else part for part in self.parts]
        return dataclasses.replace(self, parts=tuple(parts))

    def distributions(self) -> dict[str, BaseDistribution]:
        """The axes as Optuna knows them."""
        choices = {axis.key: CategoricalDistribution(axis.distinct) for axis in self.choices}
        return {**choices, **{axis.key: _distribution(axis) for axis in self.intervals}}

    def described(self) -> dict[str, dict[str, str]]:
        """The space in words, the same however it was written."""
        choices = {axis.key: ",".join(map(_spelled, axis.distinct)) for axis in self.choices}
        intervals = {axis.key: str(axis) for axis in self.intervals}
        seeds = {SEED: ",".join(map(str, sorted(self.seeds)))} if self.seeds else {}
        return {"axes": {**choices, **intervals}, "seeds": seeds}

    def texts(self, params: Mapping[str, Value]) -> dict[str, str]:
        """A point's values as Hydra reads them."""
        written = {axis.key: dict(zip(axis.values, axis.texts, strict=True)) for axis in self.choices}
        return {key: written[key][value] if key in written else str(value) for key, value in params.items()}

    def overrides(self, params: Mapping[str, Value], *, seed: int | None = None, is_high: bool = False) -> list[str]:
        """The Hydra overrides that make a point.

        Args:
            params: the point's values.
            seed: one of the space's.
            is_high: whether an interval that is left open is at its high end, rather than at its low one.
        """
        open_ends = {axis.key: axis.ends[is_high] for axis in self.intervals if axis.key not in params}
        texts = self.texts({**params, **open_ends})
        made = [part if isinstance(part, str) else f"{part.prefix}{part.key}={texts[part.key]}" for part in self.parts]
        return made if seed is None else [*made, f"{SEED}={seed}"]


def parse(overrides: Sequence[str], parser: OverridesParser) -> Space:
    """Reads a search space from overrides; see `lowrung.config.repeats` for keys that come twice.

    Args:
        overrides: Hydra overrides, a preset's before the command line's.
        parser: Hydra's; it must know a config loader for ``glob()``.
    """
    parts = [_part(override) for override in repeats.in_force(parser.parse_overrides(list(overrides)), parser)]
    seeds = [part for part in parts if isinstance(part, Choice) and part.key == SEED]
    return Space(
        parts=tuple(part for part in parts if part not in seeds),
        seeds=tuple(int(text) for choice in seeds for text in dict.fromkeys(choice.texts)),
    )


def _part(override: Override) -> str | Choice | Interval:
    if override.is_interval_sweep():
        return _interval(override)
    return _choice(override) if override.is_sweep_override() else override.input_line or ""


def _order(value: Value) -> tuple[str, float, str]:
    number = value if isinstance(value, int | float) else 0
    return (str(type(value)), number, str(value))


def _spelled(value: Value) -> str:
    """A value in one spelling: a whole number is the same with a point and without."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _choice(override: Override) -> Choice:
    elements = tuple(override.sweep_iterator(transformer=Transformer.identity))  # once: shuffle() differs each time
    texts = tuple(map(grammar.quote, elements))
    values = tuple(
        element if isinstance(element, int | float) else text for element, text in zip(elements, texts, strict=True)
    )
    return Choice(repeats.bare_key(override), values, texts, _prefix(override))


def _interval(override: Override) -> Interval:
    sweep = commandline.interval(override)
    low, high = sweep.start, sweep.end
    assert low is not None  # `problems` has refused such an interval
    assert high is not None
    integer = isinstance(low, int) and isinstance(high, int)
    return Interval(repeats.bare_key(override), low, high, "log" in sweep.tags, integer, _prefix(override))


def _prefix(override: Override) -> str:
    return override.get_key_element().removesuffix(repeats.bare_key(override))


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
    intervals = [override for override in all_intervals if repeats.bare_key(override) != SEED]
    if intervals and n_trials is None and needs_n_trials:
        keys = ", ".join(map(repeats.bare_key, intervals))
        found.append(
            f"hydra.sweeper.n_trials must be set where an interval is searched ({keys}), since it has no end of"
            " its own. Add hydra.sweeper.n_trials=20, say."
        )
    if n_trials is not None and n_trials < 1:
        found.append(f"hydra.sweeper.n_trials must be at least 1, but is {n_trials}.")
    for override in intervals:
        found += _interval_problems(repeats.bare_key(override), commandline.interval(override))
    swept = Counter(repeats.bare_key(override) for override in overrides if override.is_sweep_override())
    found += [f"{key} {UNSEARCHED[key]}" for key in swept if key in UNSEARCHED]
    found += [
        f"{key} must be swept once, but is {count} times, by dicts that Hydra would merge. Write out the dicts."
        for key, count in swept.items()
        if count > 1
    ]
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
