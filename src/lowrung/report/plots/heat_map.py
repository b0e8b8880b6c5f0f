"""Rank and rate, or the two axes that matter most: where the best lies, and whether that is an edge."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, cells, palette, style, units
from lowrung.report.plots.cells import Cells, Side
from lowrung.report.plots.scores import sentences
from lowrung.report.record import StudyRecord, TrialRecord

_WRITTEN = 8
"""Columns: values in more of them would overlap at 400 pixels."""

_LISTED = 6
"""Trials of a cell that its hover names, where they are of several stages."""

_DOTS = 150
"""Trials up to which each is seen in its cell: more would hide the values."""


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where fewer than two axes are searched."""
    found = cells.of(study)
    if isinstance(found, str):
        return [found] if found else []
    made = style.figure(
        [_map(found), _rest(found), *_marks(found), _best(found), _ground(found)],
        height=150 + max(34 * found.up.count, 120),
        xaxis=_axis(found.across),
        yaxis=_axis(found.up),
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
    )
    return [Plot("heat-map", found.title, sentences(found.about, _stages(found)), made)]


def _marks(found: Cells) -> list[go.Scatter]:
    """Trials where they stand; of stages, which ones have a trial in a cell."""
    if found.is_binned:
        return [_trials(found)] if len(found.scores.drawn) <= _DOTS else []
    return [_of_stages(found)] if found.scores.stages else []


def _stages(found: Cells) -> str:
    """What the marks mean; nothing where there are no stages, or too many trials for marks."""
    by_stage = found.scores.by_stage(palette.POINTS)
    means = ", ".join(f"{mark} {html.unescape(name)}" for name, mark in by_stage)
    return f"Small marks are trials by their stage: {means}." if by_stage and _marks(found) else ""


def _axis(side: Side) -> dict[str, object]:
    made = style.numeric(side.key, side.ticks, showgrid=False, range=[-0.5, side.count - 0.5])
    return made | {"title": {"text": side.key}}  # a standoff would put it among the ticks, beside a bar of colours


def _ground(found: Cells) -> go.Heatmap:
    """What shows that a cell was tried of which nothing has a value: else its marks would stand in no cell."""
    grey = "rgba(128,128,128,0.15)"
    return go.Heatmap(
        z=[[1 if (x, y) in found.empty else None for x in range(found.across.count)] for y in range(found.up.count)],
        colorscale=[[0, grey], [1, grey]],
        showscale=False,
        xgap=2,
        ygap=2,
        hoverinfo="skip",
    )


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
    others = "<br>".join(f"{found.scores.label(one)} {found.scores.standing(one)}" for one in trials if one is not best)
    more = f"<br>{len(trials)} trials" if len(trials) > 1 else ""
    more += f"<br>{others}" if found.scores.stages and 1 < len(trials) <= _LISTED else ""
    return f"{found.scores.label(best)}<br>{found.scores.metric} {found.scores.value(best):.6g}{more}"


def _rest(found: Cells) -> go.Scatter:
    """Cells of which nothing was trained to its end: in words where there is room, or else a cross."""
    return go.Scatter(
        x=[x for x, _ in found.empty],
        y=[y for _, y in found.empty],
        mode="text" if found.across.count <= _WRITTEN else "markers",
        marker={"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": palette.PURPLE}},
        text=[words.replace(" ", "<br>") for words in found.empty.values()],
        textfont={"size": 10},
        hovertemplate="%{text}<extra></extra>",
    )


def _trials(found: Cells) -> go.Scatter:
    """Where trials stand in the parts of an interval."""
    at = [(trial, found.across.at(trial), found.up.at(trial)) for trial in found.scores.drawn]
    there = [(trial, x, y) for trial, x, y in at if x is not None and y is not None]
    lower = cells.BELOW * (not found.up.is_binned)
    shapes = [_shape(found, trial) for trial, _, _ in there]
    return go.Scatter(
        x=[round(x, 3) for _, x, _ in there],
        y=[round(y - lower, 3) for _, _, y in there],
        mode="markers",
        marker={"size": 5, "color": palette.RED, "opacity": 0.7, "symbol": shapes},
        customdata=[found.scores.name(trial) for trial, _, _ in there],
        text=[f"{found.scores.value(trial):.6g}" for trial, _, _ in there],
        hovertemplate=f"%{{customdata}}<br>{found.scores.metric} %{{text}}<extra></extra>",
    )


def _of_stages(found: Cells) -> go.Scatter:
    """A mark for each stage that has a trial in a cell, along the cell's lower edge."""
    there = {
        (cell, trial.stage): trial for cell, trials in found.inside.items() for trial in reversed(trials) if trial.stage
    }
    places = {stage: -0.4 + 0.12 * place for place, stage in enumerate(found.scores.stages)}
    return go.Scatter(
        x=[round(x + places[stage], 3) for (x, _), stage in there],
        y=[y - cells.BELOW for (_, y), _ in there],
        mode="markers",
        marker={"size": 6, "color": palette.RED, "symbol": [_shape(found, trial) for trial in there.values()]},
        customdata=[f"{found.scores.label(trial)} {found.scores.standing(trial)}" for trial in there.values()],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _shape(found: Cells, trial: TrialRecord) -> str:
    stages = found.scores.stages
    return palette.of_stage(palette.SHAPES, stages.index(trial.stage) if stages else 0)


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
