"""The objective over each axis that is searched."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.report.plots import Plot, cells, palette, scales, style, units
from lowrung.report.plots.scales import Scale
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord, TrialRecord

MOST = 8
"""Axes: of more, the least important are left out."""
_HEIGHT = 210


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot with a part for each axis; nothing where none is searched or fewer than two trials can be ranked."""
    scores = Scores(study)
    found = scales.varied(study)
    shown = found[:MOST]
    if not shown or len(scores.drawn) < 2:
        return []
    made = style.figure(
        [
            trace
            for place, scale in enumerate(shown)
            for trace in [*_traces(scores, scale, place), _beyond(scores, scale, place), _rest(scores, scale, place)]
        ],
        height=_HEIGHT * len(shown) + 40,
        annotations=[style.standings(scores.standing(trial) for trial in scores.drawn)],
    )
    made.update_layout(_axes(scores, shown))
    about = sentences(
        f"Each trial's {scores.metric} over one axis at a time. A clear {'peak' if scores.is_maximised else 'valley'}"
        " says that the axis matters; a best value at an end, that the axis should go on.",
        " ".join(cells.at_edges(scores, [scale.axis.key for scale in shown])),
        scores.beyond and f"{scores.beyond} Arrows at the border say where.",
        f"The {len(shown)} most important of {len(found)} axes are drawn." if len(shown) < len(found) else "",
        "Strokes at the lower edge are trials without a value to compare." if scores.missing else "",
        scores.left_out,
    )
    return [Plot("slices", "Slices", about, made)]


def _traces(scores: Scores, scale: Scale, place: int) -> list[go.Scatter]:
    suffix = str(place + 1) if place else ""
    of: dict[str, list[tuple[float, TrialRecord]]] = {}
    for trial in reversed(scores.drawn):
        x = scale.at(trial)
        if x is not None and not scores.is_beyond(trial):
            of.setdefault(scores.standing(trial), []).append((x, trial))
    return [
        go.Scatter(
            x=[x for x, _ in there],
            y=[float(f"{scores.value(trial):.6g}") for _, trial in there],
            mode="markers",
            marker={
                "color": palette.COLOURS[standing],
                "symbol": palette.SYMBOLS[standing],
                "size": 13 if standing == "best" else 8,
                "opacity": 0.85,
            },
            customdata=[scores.name(trial) for _, trial in there],
            hovertemplate=f"%{{customdata}}<br>{scale.axis.key} %{{x}}<br>{scores.metric} %{{y}}<extra></extra>",
            xaxis=f"x{suffix}",
            yaxis=f"y{suffix}",
        )
        for standing, there in of.items()
    ]


def _beyond(scores: Scores, scale: Scale, place: int) -> go.Scatter:
    """Where trials are whose values are beyond what is shown, as arrows at the border."""
    there = [(x, trial) for trial in scores.drawn if scores.is_beyond(trial) and (x := scale.at(trial)) is not None]
    low, high = scores.limits
    inside = 0.04 * (high - low) * (1 if scores.is_maximised else -1)
    suffix = str(place + 1) if place else ""
    return go.Scatter(
        x=[x for x, _ in there],
        y=[scores.far + inside] * len(there),
        mode="markers",
        marker={"symbol": f"triangle-{'down' if scores.is_maximised else 'up'}", "size": 8, "color": palette.GREY},
        customdata=[scores.name(trial) for _, trial in there],
        text=[f"{scores.value(trial):.6g}" for _, trial in there],
        hovertemplate=f"%{{customdata}}<br>{scale.axis.key} %{{x}}<br>{scores.metric} %{{text}}<extra></extra>",
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def _rest(scores: Scores, scale: Scale, place: int) -> go.Scatter:
    """Where trials were tried that have no value to compare, as strokes at the lower edge."""
    drawn = {trial.number for trial in scores.drawn}
    others = [trial for trial in scores.study.trials if trial.number not in drawn]
    there = [(x, trial) for trial in others if (x := scale.at(trial)) is not None]
    suffix = str(place + 1) if place else ""
    return go.Scatter(
        x=[x for x, _ in there],
        y=[scores.limits[0]] * len(there),
        mode="markers",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 1.5, "color": palette.PURPLE}},
        customdata=[f"{scores.name(trial)}<br>{scores.standing(trial)}" for _, trial in there],
        hovertemplate="%{customdata}<extra></extra>",
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def _axes(scores: Scores, shown: Sequence[Scale]) -> dict[str, Any]:
    """A row for each axis."""
    below = [style.numeric(scale.axis.key, scale.ticks(), is_log=scale.is_log, **_room(scale)) for scale in shown]
    return style.stacked(
        below, title=units.of(scores.metric).label.split(" (")[0], limits=scores.limits, row_height=_HEIGHT
    )


def _room(scale: Scale) -> dict[str, Any]:
    """All of the axis, with a little room at both ends, half a place of a list of words."""
    if not scale.is_numeric:
        return {"range": [-0.5, scale.size - 0.5]}
    low, high = (math.log10(end) if scale.is_log else end for end in (scale.low, scale.high))
    room = 0.04 * (high - low)
    return {"range": [low - room, high + room]}
