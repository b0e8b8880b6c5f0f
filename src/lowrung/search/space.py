"""The search space: Hydra's sweep overrides as an exact grid, intervals to search, or both."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from optuna.distributions import BaseDistribution

from lowrung.config import commandline, grammar, repeats
from lowrung.search.axes import Axis, Choice, Interval, Params, Value

SEED = "seed"
"""The one key whose list is no axis: every point is trained with each of its values."""


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        parts: the axes, and between them the overrides that hold for every point, in command-line order: Hydra applies
            one after the other.
        seeds: those that every point is trained with; empty where that is left to the config.
    """

    parts: tuple[str | Axis, ...]
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
        return [axis.key for axis in self._axes]

    @property
    def _axes(self) -> list[Axis]:
        return [*self.choices, *self.intervals]

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
        return {axis.key: axis.distribution for axis in self._axes}

    def described(self) -> dict[str, dict[str, str]]:
        """The space in words, the same however it was written."""
        seeds = {SEED: ",".join(map(str, sorted(self.seeds)))} if self.seeds else {}
        return {"axes": {axis.key: str(axis) for axis in self._axes}, "seeds": seeds}

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


def _part(override: Override) -> str | Axis:
    if override.is_interval_sweep():
        return _interval(override)
    return choice(override) if override.is_sweep_override() else override.input_line or ""


def choice(override: Override) -> Choice:
    """An override as an axis: that of one value has one."""
    elements: tuple[Any, ...] = (override.value(),)
    if override.is_sweep_override():
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


def problems(
    overrides: Sequence[Override],
    n_trials: int | None,
    *,
    needs_n_trials: bool = True,
    setting: str = "hydra.sweeper.n_trials",
) -> list[str]:
    """What is wrong with the axes themselves; each override's values are checked elsewhere.

    Args:
        overrides: all of them.
        n_trials: as was asked for.
        needs_n_trials: whether an interval is searched without an end.
        setting: where the number of trials is given.
    """
    found = []
    all_intervals = [override for override in overrides if override.is_interval_sweep()]
    intervals = [override for override in all_intervals if repeats.bare_key(override) != SEED]
    if intervals and n_trials is None and needs_n_trials:
        keys = ", ".join(map(repeats.bare_key, intervals))
        found.append(
            f"{setting} must be set where an interval is searched ({keys}), since it has no end of its own. Add"
            f" {setting}=20, say."
        )
    if n_trials is not None and n_trials < 1:
        found.append(f"{setting} must be at least 1, but is {n_trials}.")
    for override in intervals:
        found += _interval_problems(repeats.bare_key(override), commandline.interval(override))
    swept = Counter(repeats.bare_key(override) for override in overrides if override.is_sweep_override())
    found += [f"{key} {UNSEARCHED[key]}" for key in swept if key in UNSEARCHED]
    found += [
        f"{key} must be swept once, but is {count} times, by dicts that Hydra would merge. Write out the dicts."
        for key, count in swept.items()
        if count > 1
    ]
    found += [
        f"{override.input_line} stands for no value at all. Give it at least one."
        for override in overrides
        if override.is_sweep_override() and not override.is_interval_sweep() and not list(override.sweep_iterator())
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
