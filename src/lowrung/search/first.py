"""Points to try first, ``hydra.sweeper.first``: whole ones, or parts whose other values are drawn or taken in turn."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lowrung.config import grammar, presets
from lowrung.errors import UsageError, did_you_mean
from lowrung.search.axes import Choice, Interval, Params, Value
from lowrung.search.space import Space

NAME = "hydra.sweeper.first"


def read(first: Any, spaces: Sequence[Space]) -> list[Params]:
    """The points as Optuna keeps them, in their order.

    Args:
        first: as written: dicts of values by key; a text is read as on the command line. None is no point.
        spaces: the search space, or those whose union it is.

    Raises:
        UsageError: with everything that is wrong with them.
    """
    if first is None:
        return []
    if not isinstance(first, list):
        raise UsageError(f"{NAME} must be a list of points such as [{{lora.r:8}}], but is {first!r}.")
    points: list[Params] = []
    found: list[str] = []
    for number, written in enumerate(first, start=1):
        try:
            points.append(_point_of_any(written, spaces))
        except UsageError as error:
            found += [f"{NAME}, point {number}: {problem}" for problem in error.problems]
    if found := found or list(_repeats(points)):
        raise UsageError(found)
    return points


def problems(first: Any, spaces: Sequence[Space]) -> list[str]:
    """What is wrong with the points; see `read`."""
    try:
        read(first, spaces)
    except UsageError as error:
        return error.problems
    return []


def _point_of_any(written: Any, spaces: Sequence[Space]) -> Params:
    """A point of the first space that has it."""
    errors: list[UsageError] = []
    for space in spaces:
        try:
            return _point(written, space)
        except UsageError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    whys = dict.fromkeys(" ".join(error.problems) for error in errors)
    raise UsageError(f"a point must lie in one of the spaces, but this one does in none: {' Or: '.join(whys)}")


def _point(written: Any, space: Space) -> Params:
    if not isinstance(written, Mapping) or not written:
        raise UsageError(f"a point must give a value to one setting or more, such as {{lora.r:8}}, but is {written!r}.")
    axes: dict[str, Choice | Interval] = {axis.key: axis for axis in space.choices}
    axes.update((axis.key, axis) for axis in space.intervals)
    point: Params = {}
    found = []
    for name, value in presets.flat(written).items():
        try:
            point[name.lstrip("+")] = _value(name, value, axes)
        except ValueError as error:
            found.append(str(error))
    if found:
        raise UsageError(found)
    return point


def _value(name: str, written: Any, axes: Mapping[str, Choice | Interval]) -> Value:
    """A value as its axis has it.

    Raises:
        ValueError: what is wrong with it, in a sentence.
    """
    key = name.lstrip("+")
    if key not in axes:
        swept = f"what is swept is {', '.join(axes)}" if axes else "nothing is swept"
        raise ValueError(f"{key} must be swept for a point to have it, but {swept}.{did_you_mean(key, list(axes))}")
    element, axis = _element(key, written), axes[key]
    return _listed(axis, element) if isinstance(axis, Choice) else _inside(axis, element)


def _element(key: str, written: Any) -> Any:
    """A value as Hydra reads it on the command line."""
    text = written if isinstance(written, str) else grammar.quote(written)
    try:
        override = OverridesParser.create().parse_override(grammar.as_typed(f"{key}={text}"))
    except HydraException:
        raise ValueError(f"{key}={text} cannot be read. Quote values with special characters.") from None
    if override.is_sweep_override():
        raise ValueError(f"{key} must have one value, but has several: {text}. Make each a point of its own.")
    return override.value()


def _listed(axis: Choice, element: Any) -> Value:
    text = grammar.quote(element)
    for value, one in zip(axis.values, axis.texts, strict=True):
        if one == text or (_is_number(value) and _is_number(element) and value == element):
            return value
    raise ValueError(f"{axis.key} must be one of {', '.join(dict.fromkeys(axis.texts))}, but is {text}.")


def _inside(axis: Interval, element: Any) -> Value:
    if not _is_number(element) or not axis.low <= element <= axis.high or (axis.integer and element != int(element)):
        raise ValueError(f"{axis.key} must be in {axis}, but is {grammar.quote(element)}.")
    return int(element) if axis.integer else float(element)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _repeats(points: Sequence[Params]) -> Iterator[str]:
    for number, point in enumerate(points):
        if (before := points.index(point)) < number:
            yield f"{NAME} must have each point once, but point {number + 1} is point {before + 1} again. Leave it out."


def fits(point: Params, at: Params, space: Space) -> bool:
    """Whether a point can be had at a point of a space's grid: it has its values, and lies in its intervals."""
    intervals = {axis.key: axis for axis in space.intervals}
    return all(
        at[key] == value if key in at else key in intervals and _is_in(intervals[key], value)
        for key, value in point.items()
    )


def _is_in(interval: Interval, value: Value) -> bool:
    return isinstance(value, int | float) and interval.low <= value <= interval.high


def in_turn(points: Sequence[Params], grid: Sequence[tuple[Params, Space]]) -> list[int]:
    """Which points of an exact grid come first, as their indices; -1 where none is left that fits.

    A point with few values fits many points of the grid, so those with more values choose before it.
    """
    chosen = [-1] * len(points)
    for i in sorted(range(len(points)), key=lambda i: -len(points[i])):
        free = (index for index, at in enumerate(grid) if index not in chosen and fits(points[i], *at))
        chosen[i] = next(free, -1)
    return chosen
