"""Rank and rate, or the two axes that matter most: where the best lies, and whether that is an edge."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, cells, palette, style, units
from lowrung.report.plots.cells import Cells, Side
from lowrung.report.record import StudyRecord

_WRITTEN = 8
"""Columns: values in more of them would overlap at 400 pixels."""


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where fewer than two axes are searched."""
    found = cells.of(study)
    if isinstance(found, str):
        return [found] if found else []
    made = style.figure(
        [_map(found), _rest(found), *([_trials(found)] if found.is_binned else []), _best(found)],
        height=150 + max(34 * found.up.count, 120),
        xaxis=_axis(found.across),
        yaxis=_axis(found.up),
        margin={"l": 8, "r": 12, "t": 8, "b": 50},
    )
    return [Plot("heat-map", found.title, found.about, made)]


def _axis(side: Side) -> dict[str, object]:
    return style.numeric(side.key, side.ticks, showgrid=False, range=[-0.5, side.count - 0.5])


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
        textfont={"size": 11},
        customdata=[[_hover(found, x, y) for x in range(found.across.count)] for y in range(found.up.count)],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "y": 1.0,
            "yanchor": "bottom",
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
    return f"{found.scores.name(best)}<br>{found.scores.metric} {found.scores.value(best):.6g}{more}"


def _rest(found: Cells) -> go.Scatter:
    """Cells of which nothing was trained to its end."""
    return go.Scatter(
        x=[x for x, _ in found.empty],
        y=[y for _, y in found.empty],
        mode="text",
        text=[words if found.across.count <= _WRITTEN else "none" for words in found.empty.values()],
        textfont={"size": 10},
        customdata=list(found.empty.values()),
        hovertemplate="%{customdata}<extra></extra>",
    )


def _trials(found: Cells) -> go.Scatter:
    """Where trials stand in the parts of an interval; below the text of a cell that is one value high."""
    at = [(trial, found.across.at(trial), found.up.at(trial)) for trial in found.scores.drawn]
    there = [(trial, x, y) for trial, x, y in at if x is not None and y is not None]
    lower = 0.0 if found.up.is_binned else 0.33
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
    is_value = not found.is_binned
    return go.Scatter(
        x=[x - 0.5 * is_value],
        y=[y + 0.5 * is_value],
        mode="markers",
        cliponaxis=False,
        marker={"symbol": "star", "size": 15, "color": palette.RED, "line": {"width": 1, "color": "white"}},
        hovertemplate=f"best: {_hover(found, *_cell(found))}<extra></extra>",
    )


def _cell(found: Cells) -> tuple[int, int]:
    best = found.scores.best
    assert best is not None
    x, y = found.across.cell(best), found.up.cell(best)
    assert x is not None
    assert y is not None
    return x, y
