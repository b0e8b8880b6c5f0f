"""Trials as paired differences from the best one: the plot that answers what a sweep asks."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, intervals, palette, style
from lowrung.report.plots.intervals import Intervals, Row
from lowrung.report.record import StudyRecord


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot, or why there is none."""
    found = intervals.of(study)
    if isinstance(found, str):
        return [found]
    rows = list(enumerate(found.rows))
    made = style.figure(
        [_trace(found, place, row) for place, row in rows],
        height=70 + style.ROW * len(rows),
        xaxis=style.axis(found.label, range=found.ends, nticks=6),
        yaxis=style.axis(range=[len(rows) - 0.4, -0.9], showticklabels=False, showgrid=False),
        annotations=[_text(place, row) for place, row in rows],
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
    )
    if found.is_paired:
        made.add_vline(x=0, line={"color": style.LINE, "width": 1}, layer="below")
    return [Plot("differences", found.title, found.about, made)]


def _trace(found: Intervals, place: int, row: Row) -> go.Scatter:
    colour = palette.COLOURS.get(row.verdict, palette.GREY)
    is_off = found.is_off(row)
    low, high = found.ends
    is_high = row.mean > high
    inside = 0.015 * (high - low)
    x = row.mean if not is_off else high - inside if is_high else low + inside
    arrow = "triangle-right" if is_high else "triangle-left"
    symbol = palette.SYMBOLS.get(row.verdict, "circle")
    is_compared = found.is_paired and row.verdict != "best"
    against = f" {row.mean:+.4g} [{row.low:.4g}, {row.high:.4g}]" if is_compared else ""
    return go.Scatter(
        x=[x],
        y=[place],
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": arrow if is_off else symbol, "line": {"color": colour}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row.high - row.mean],
            "arrayminus": [row.mean - row.low],
            "visible": found.is_paired and row.high > row.low and not is_off,
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        hovertemplate=(
            f"{row.name}<br>{found.scores.metric} {row.value:.6g}<br>" + f"{row.verdict}{against}<extra></extra>"
        ),
    )


def _text(place: int, row: Row) -> dict[str, object]:
    colour = palette.COLOURS.get(row.verdict, palette.GREY)
    words = f'<span style="color:{colour}"><b>{row.words}</b></span>'
    return style.note(f"{row.brief}   {words}", yref="y", y=place, yshift=13, yanchor="middle")
