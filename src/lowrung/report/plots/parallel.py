"""All axes side by side, a line for each trial.

plotly's own kind, parcoords, says nothing when one points at a line, and needs WebGL, which printers and some browsers
lack; so these are lines over shares of each axis.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.report.leaderboard import shown as short
from lowrung.report.plots import Plot, palette, scales, style
from lowrung.report.plots.scales import Scale
from lowrung.report.plots.scores import Scores, sentences, short_keys, spread_out, thinned
from lowrung.report.record import StudyRecord, TrialRecord

_LINES = 240
"""Lines: of more, none can be followed."""
_COLOURS = 8
_TICKS = 6
"""Texts beside an axis."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """Trials of one colour, best last."""

    trials: Sequence[TrialRecord]
    colour: str
    width: float


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where fewer than two axes are searched."""
    scores, axes = Scores(study), scales.varied(study)
    trials = [trial for trial in scores.drawn if all(scale.at(trial) is not None for scale in axes)]
    if len(axes) < 2 or len(trials) < 2:
        return []
    kept = [trials[place] for place in spread_out(len(trials), _LINES)]
    short_names = short_keys([scale.axis.key for scale in axes])
    names = [short_names[scale.axis.key] for scale in axes] + [scores.metric]
    made = style.figure(
        [_trace(scores, axes, group, names) for group in _groups(scores, kept)],
        height=400,
        xaxis=style.axis(visible=False, range=[-0.1, len(names) - 0.65]),
        yaxis=style.axis(range=[-0.06, 1.06], visible=False),
        annotations=[text for place, scale in enumerate(axes) for text in _ticks(place, scale)]
        + _objective_ticks(scores, len(axes))
        + [_name(place, name, len(names)) for place, name in enumerate(names)],
        shapes=[_line(place) for place in range(len(names))],
        margin={"l": 12, "r": 12, "t": 28 + 18 * _rows(len(names)), "b": 8},
    )
    lacking = len(scores.drawn) - len(trials)
    about = sentences(
        f"A line for each trial, from value to value, the better by {scores.metric} the stronger; the best is green."
        " Where good lines meet on an axis, its value matters.",
        thinned(len(kept), len(trials), "trial"),
        scores.beyond,
        f"{lacking} without a value on every axis are left out." if lacking else "",
        scores.left_out,
    )
    return [Plot("parallel-coordinates", "All axes side by side", about, made)]


def _groups(scores: Scores, kept: Sequence[TrialRecord]) -> list[_Group]:
    """By quantiles of the objective, the worst first, and the best trial by itself."""
    rest = sorted((trial for trial in kept if trial is not scores.best), key=scores.cost, reverse=True)
    count = min(_COLOURS, len(rest))
    colours = [f"rgba(59,142,196,{0.12 + 0.88 * place / max(count - 1, 1):.2f})" for place in range(count)]
    cuts = [round(len(rest) * place / count) for place in range(count + 1)]
    groups = [
        _Group(rest[cuts[place] : cuts[place + 1]], colours[place], 1.0 + place / count) for place in range(count)
    ]
    return [*groups, *([_Group([scores.best], palette.GREEN, 4.0)] if scores.best in kept and scores.best else [])]


def _trace(scores: Scores, axes: Sequence[Scale], group: _Group, names: Sequence[str]) -> go.Scatter:
    low, high = scores.limits
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for trial in group.trials:
        values = [scale.at(trial) for scale in axes]
        shares = [scale.share(value) for scale, value in zip(axes, values, strict=True) if value is not None]
        value = (scores.value(trial) - low) / (high - low)
        x += [*map(float, range(len(names))), None]
        y += [*(round(share, 3) for share in shares), round(min(1.05, max(-0.05, value)), 3), None]
        texts += [f"{scores.name(trial)}<br>{scores.metric} {scores.value(trial):.6g}"] * (len(names) + 1)
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": group.colour, "width": group.width},
        marker={"size": 4 + group.width, "color": group.colour},
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _ticks(place: int, scale: Scale) -> list[dict[str, Any]]:
    found = scale.ticks()
    kept = [found[at] for at in spread_out(len(found), _TICKS)]
    return [_tick(place, scale.share(value), text) for value, text in kept]


def _objective_ticks(scores: Scores, place: int) -> list[dict[str, Any]]:
    low, high = scores.limits
    return [_tick(place, (value - low) / (high - low), short(f"{value:.4g}")) for value in scales.steps(low, high)]


def _name(place: int, text: str, count: int) -> dict[str, Any]:
    """An axis's name above it, in rows: names are longer than axes are apart on a phone."""
    side = "left" if place == 0 else "right" if place == count - 1 else "center"
    cut = text if len(text) <= 16 else f"{text[:15]}…"
    shift = 8 + 18 * (place % _rows(count))
    return style.note(
        f"<b>{cut}</b>",
        xref="x",
        x=place,
        xanchor=side,
        y=1.0,
        yanchor="bottom",
        yshift=shift,
        xshift=6 * (side == "right"),
    )


def _rows(count: int) -> int:
    return 2 if count <= 5 else 3


def _tick(place: int, share: float, text: str) -> dict[str, Any]:
    return style.note(
        text,
        xref="x",
        yref="y",
        x=place,
        y=share,
        xshift=8,
        yanchor="middle",
        font={"size": 10},
        bgcolor="rgba(0,0,0,0)",
    )


def _line(place: int) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": place,
        "x1": place,
        "y0": -0.02,
        "y1": 1.02,
        "line": {"color": style.LINE, "width": 1},
    }
