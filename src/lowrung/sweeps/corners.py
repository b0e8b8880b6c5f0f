"""What stands for a space that is searched before anything is drawn: its corners and its middle."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lowrung.config.schema import Config
from lowrung.search.axes import Interval, Params, Value
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.points import GridPoint

ALL_CORNERS = 3
"""Intervals of which all corners are shown; of more, the one of all low ends and the one of all high ends."""

CORNER, MIDDLE = "corner", "middle"


@dataclasses.dataclass(frozen=True)
class Case:
    """A point of the grid, or a corner or the middle of a space.

    Attributes:
        at: `CORNER`, `MIDDLE`, or empty for a point of the grid.
        texts: its values; an interval that nothing planned depends on stands as it is.
        configs: one for each seed.
        is_drawn: whether its trials' values are drawn, so that nothing is known of their results.
    """

    at: str
    texts: Mapping[str, str]
    configs: Sequence[Config]
    is_drawn: bool


def cases(point: GridPoint, composer: Composer, weigh: Callable[[Config], Any]) -> list[Case]:
    """A point as it is, or what stands for it where it has intervals.

    Args:
        point: of a grid.
        composer: composes the corners.
        weigh: what is planned of a run with a config; intervals that do not change it are left open.
    """
    if not point.is_open:
        return [Case("", point.space.texts(point.params), point.configs, False)]
    found = _Corners(point, composer, weigh)
    open_axes = [axis for axis in point.space.intervals if not found.matters(axis)]
    axes = [axis for axis in point.space.intervals if axis not in open_axes]
    as_it_is = {axis.key: str(axis) for axis in open_axes}
    if not axes:
        return [Case("", {**point.space.texts(point.params), **as_it_is}, point.configs, True)]
    return [found.case(at, values, as_it_is) for at, values in _places(axes)]


def _places(axes: Sequence[Interval]) -> Iterator[tuple[str, Params]]:
    corners = list(itertools.product(*(axis.ends for axis in axes)))
    if len(axes) > ALL_CORNERS:
        corners = [corners[0], corners[-1]]
    yield from ((CORNER, dict(zip((axis.key for axis in axes), corner, strict=True))) for corner in corners)
    yield MIDDLE, {axis.key: middle(axis) for axis in axes}


def middle(axis: Interval) -> Value:
    """Halfway between both ends, in orders of magnitude where the axis is searched so."""
    value = math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2
    return round(value) if axis.integer else float(f"{value:.4g}")


class _Corners:
    """The points of a space at values of its intervals; those that are not given stand at their low ends."""

    def __init__(self, point: GridPoint, composer: Composer, weigh: Callable[[Config], Any]) -> None:
        self._point = point
        self._composer = composer
        self._weigh = weigh
        self._low: Params = {axis.key: axis.ends[0] for axis in point.space.intervals}

    def matters(self, axis: Interval) -> bool:
        """Whether what is planned depends on this interval."""
        low = self._weigh(self._point.config)
        return any(self._weigh(self._at({axis.key: value}).config) != low for value in (axis.ends[1], middle(axis)))

    def case(self, at: str, values: Params, as_it_is: Mapping[str, str]) -> Case:
        """The case at these values."""
        texts = {key: str(value) for key, value in values.items()}
        own = self._point.space.texts(self._point.params)
        return Case(at, {**own, **texts, **as_it_is}, self._at(values).configs, True)

    def _at(self, values: Params) -> GridPoint:
        return self._composer.exact(self._point.space, {**self._point.params, **self._low, **values})
