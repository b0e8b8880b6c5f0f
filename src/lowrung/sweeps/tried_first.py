"""The points that a sweep's first stage tries first, held to its points."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.search import first
from lowrung.search.axes import Params
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.searched import Search
from lowrung.sweeps.stage_trials import total

Points = Mapping[str, Sequence[GridPoint]]
"""The points of each stage, by its name."""


def problems(asked: Any, search: Search, points: Points) -> list[str]:
    """What is wrong with ``hydra.sweeper.first``.

    Args:
        asked: as written.
        search: what is searched.
        points: of its stages, those of equal runs once.
    """
    stage = search.stages[0]
    grid = points[stage.name]
    if found := first.problems(asked, search.spaces[stage.name]):
        return found
    wanted = first.read(asked, search.spaces[stage.name])
    n_trials = total(stage, len(grid), is_open=any(point.is_open for point in grid))
    if len(wanted) > n_trials:
        found.append(
            f"{first.NAME} must have no more points than there are trials, {n_trials}, but has {len(wanted)}. Leave"
            f" some out, or raise {stage.n_trials_setting}."
        )
    found += [
        f"{first.NAME} must have points whose runs differ, but the runs of point {number} are those of another point,"
        " which is tried anyway. Leave it out."
        for number, is_there in enumerate(_are_there(wanted, grid), start=1)
        if not is_there
    ]
    return found


def _are_there(wanted: Sequence[Params], grid: Sequence[GridPoint]) -> list[bool]:
    if any(point.is_open for point in grid):
        return [any(first.fits(point, at.params, at.space) for at in grid) for point in wanted]
    return [index >= 0 for index in _in_turn(wanted, grid)]


def _in_turn(wanted: Sequence[Params], grid: Sequence[GridPoint]) -> list[int]:
    return first.in_turn(wanted, [(point.params, point.space) for point in grid])


def of_search(asked: Any, search: Search) -> list[Params]:
    """The points that are tried first; `problems` has found none."""
    return first.read(asked, search.spaces[search.stages[0].name])


def in_order(asked: Any, search: Search, points: Points) -> dict[str, Sequence[GridPoint]]:
    """The points of each stage; in an exact grid, those that are tried first come first."""
    stage = search.stages[0]
    grid = points[stage.name]
    if any(point.is_open for point in grid):
        return dict(points)
    chosen = _in_turn(of_search(asked, search), grid)
    rest = (point for index, point in enumerate(grid) if index not in chosen)
    return {**points, stage.name: [*(grid[index] for index in chosen), *rest]}
