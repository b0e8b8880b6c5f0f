"""Several spaces in one study: which keys tell them apart, and which values each key has in all of them.

A trial has the parameters of its own space only. Optuna asks that a parameter's choices are the same in all trials of
a study, and that an interval stays one, with or without a logarithm; its ends may change.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.config import repeats
from lowrung.search.axes import Axis, Choice, Interval, Value, in_order
from lowrung.search.space import SEED, Space, choice

_NO_PARAMETERS = ("study", "sweeps", SEED, "verify.enabled", "verify.forgetting")
"""Keys of the sweep as a whole; seeds, which are not searched; and whether a gate follows, which no training needs."""


@dataclasses.dataclass(frozen=True)
class Union:
    """The spaces of a study.

    Attributes:
        domains: what each key that is a parameter of any trial has in all of the spaces: its values, or an interval
            that holds them.
    """

    domains: Mapping[str, tuple[Value, ...] | Interval]

    @classmethod
    def of(cls, spaces: Sequence[Space]) -> "Union":
        """The union of these; `problems` has refused those of which there is none."""
        return cls({key: _domain(axes) for key, axes in _axes(spaces).items()})

    def joined(self, space: Space) -> Space:
        """A space as a part of the union: its fixed values are parameters where other spaces have others."""
        return dataclasses.replace(space, parts=tuple(self._recorded(part, space.keys) for part in space.parts))

    def _recorded(self, part: str | Axis, swept: Sequence[str]) -> str | Axis:
        axis = _axis(part, swept)
        if not isinstance(axis, Choice) or axis.key not in self.domains:
            return part
        return dataclasses.replace(axis, among=self.domains[axis.key])

    def described(self) -> dict[str, str]:
        """The keys and what they have, in words."""
        return {
            key: str(domain if isinstance(domain, Interval) else Choice(key, domain, ()))
            for key, domain in self.domains.items()
        }


def problems(spaces: Sequence[Space]) -> list[str]:
    """What keeps spaces from being parts of one study."""
    found: list[str] = []
    known = _axes(spaces)
    for key, axes in known.items():
        found += _axis_problems(key, axes)
    for space in spaces if len(spaces) > 1 else ():
        keys = Counter(axis.key for part in space.parts if (axis := _axis(part)) and axis.key in known)
        found += [
            f"{key} must be given once, but is {count} times, by dicts that Hydra would merge. Write out the dicts."
            for key, count in keys.items()
            if count > 1
        ]
    return list(dict.fromkeys(found))


def _axes(spaces: Sequence[Space]) -> dict[str, list[Axis]]:
    """All that a key has in the spaces, by key, where it is an axis in any or not the same in all."""
    each = [_by_key(space) for space in spaces]
    swept = {key for space in spaces for key in space.keys}
    keys = dict.fromkeys(key for one in each for key in one)
    return {
        key: [axis for one in each for axis in one.get(key, ())]
        for key in keys
        if key in swept or len({tuple(map(str, one.get(key, ()))) for one in each}) > 1
    }


def _by_key(space: Space) -> dict[str, list[Axis]]:
    found: dict[str, list[Axis]] = {}
    for part in space.parts:
        if axis := _axis(part, space.keys):
            found.setdefault(axis.key, []).append(axis)
    return found


def _axis(part: str | Axis, swept: Sequence[str] = ()) -> Axis | None:
    """A part as an axis; None for a key of the whole sweep, one that is deleted, or a dict that swept ones go into."""
    if not isinstance(part, str):
        return part
    override = OverridesParser.create().parse_override(part)
    key = repeats.bare_key(override)
    is_none = key in (*_NO_PARAMETERS, *swept) or key.startswith(("hydra.", "hydra/"))
    return None if is_none or override.is_delete() else choice(override)


def _domain(axes: Sequence[Axis]) -> tuple[Value, ...] | Interval:
    """What a key has in all spaces: its values, or an interval that holds them all."""
    intervals = [axis for axis in axes if isinstance(axis, Interval)]
    values = [value for axis in axes if isinstance(axis, Choice) for value in axis.values]
    if not intervals:
        return in_order(values)
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    ends = [end for axis in intervals for end in (axis.low, axis.high)]
    return dataclasses.replace(intervals[0], low=min(*numbers, *ends), high=max(*numbers, *ends))


def _axis_problems(key: str, axes: Sequence[Axis]) -> Iterator[str]:
    """What Optuna cannot keep as one parameter."""
    intervals = [axis for axis in axes if isinstance(axis, Interval)]
    by_kind = {(axis.log, axis.integer): axis for axis in reversed(intervals)}
    if len(by_kind) > 1:
        yield (
            f"{key} must be searched in one way, but is in several: {' and '.join(map(str, by_kind.values()))}. Let all"
            " of them have tag(log, ...), or none; and int(...), or none."
        )
    for value in in_order(value for axis in axes if isinstance(axis, Choice) for value in axis.values):
        if intervals and (why := _misfit(value, intervals[0])):
            yield (
                f"{key} must be numbers of one kind where it is searched in an interval, {intervals[0]}, but is {value}"
                f" elsewhere, which is {why}. Give it lists of values everywhere, or values that fit."
            )


def _misfit(value: Value, interval: Interval) -> str | None:
    """Why a parameter that is searched in an interval cannot be this value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no number"
    if interval.integer and not float(value).is_integer():
        return "no whole number"
    return "not above 0" if interval.log and value <= 0 else None
