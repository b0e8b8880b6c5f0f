"""Rank and rate, or the two axes that matter most: where the best lies, and whether that is an edge."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, cells, palette, style, units
from lowrung.report.plots.cells import Cells, Side
from lowrung.report.record import StudyRecord

_WRITTEN = 8
"""Columns: values in more of them would overlap at 400 pixels."""

_DOTS = 150
"""Trials up to which each is seen in its cell: more would hide the values."""


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where fewer than two axes are searched."""
    found = cells.of(study)
    if isinstance(found, str):
        return [found] if found else []
    made = style.figure(
        [_map(found), _rest(found), *([_trials(found)] if _has_dots(found) else []), _best(found)],
        height=150 + max(34 * found.up.count, 120),
        xaxis=_axis(found.across),
        yaxis=_axis(found.up),
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
    )
    return [Plot("heat-map", found.title, found.about, made)]


def _has_dots(found: Cells) -> bool:
    return found.is_binned and len(found.scores.drawn) <= _DOTS


def _axis(side: Side) -> dict[str, object]:
    made = style.numeric(side.key, side.ticks, showgrid=False, range=[-0.5, side.count - 0.5])
    return made | {"title": {"text": side.key}}  # a standoff would put it among the ticks, beside a bar of colours


def _map(found: Cells) -> go.Heatmap:
    rows = [[found.values.get((x, y)) for x in range(found.across.count)] for y in range(found.up.count)]
    low, high = found.ends
    return go.Heatmap(
        z=rows,
        zmin=low,
        zmax=high,
        colorscale=style.SCALE,
        reversescale=not found.scores.is_maximised,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        texttemplate="%{z:.4g}" if found.across.count <= _WRITTEN else "",
        textfont={"size": 11 if found.across.count < _WRITTEN else 9},
        customdata=[[_hover(found, x, y) for x in range(found.across.count)] for y in range(found.up.count)],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "y": 1.0,
            "yanchor": "bottom",
            "ypad": 8,
            "nticks": 5,
            "title": {"text": units.of(found.scores.metric).label, "side": "top", "font": {"size": 11}},
            "outlinewidth": 0,
        },
    )


def _hover(found: Cells, x: int, y: int) -> str:
    trials = found.inside.get((x, y), ())
    if (x, y) not in found.values:
        return ""
    best = min((one for one in trials if one in found.scores.drawn), key=found.scores.cost)
    more = f"<br>{len(trials)} trials" if len(trials) > 1 else ""
    return f"{found.scores.label(best)}<br>{found.scores.metric} {found.scores.value(best):.6g}{more}"


def _rest(found: Cells) -> go.Scatter:
    """Cells of which nothing was trained to its end: in words where there is room, or else a cross."""
    return go.Scatter(
        x=[x for x, _ in found.empty],
        y=[y for _, y in found.empty],
        mode="text" if found.across.count <= _WRITTEN else "markers",
        marker={"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": palette.PURPLE}},
        text=list(found.empty.values()),
        textfont={"size": 10},
        hovertemplate="%{text}<extra></extra>",
    )


def _trials(found: Cells) -> go.Scatter:
    """Where trials stand in the parts of an interval."""
    at = [(trial, found.across.at(trial), found.up.at(trial)) for trial in found.scores.drawn]
    there = [(trial, x, y) for trial, x, y in at if x is not None and y is not None]
    lower = cells.BELOW * (not found.up.is_binned)
    return go.Scatter(
        x=[round(x, 3) for _, x, _ in there],
        y=[round(y - lower, 3) for _, _, y in there],
        mode="markers",
        marker={"size": 5, "color": palette.RED, "opacity": 0.7},
        customdata=[found.scores.name(trial) for trial, _, _ in there],
        text=[f"{found.scores.value(trial):.6g}" for trial, _, _ in there],
        hovertemplate=f"%{{customdata}}<br>{found.scores.metric} %{{text}}<extra></extra>",
    )


def _best(found: Cells) -> go.Scatter:
    x, y = found.best
    return go.Scatter(
        x=[x],
        y=[y - cells.BELOW * (not found.up.is_binned)],
        mode="markers",
        cliponaxis=False,
        marker={"symbol": "star", "size": 13, "color": palette.RED, "line": {"width": 1, "color": "white"}},
        hovertemplate=f"best: {_hover(found, *_cell(found))}<extra></extra>",
    )


def _cell(found: Cells) -> tuple[int, int]:
    best = found.scores.best
    assert best is not None
    x, y = found.across.cell(best), found.up.cell(best)
    assert x is not None
    assert y is not None
    return x, y
