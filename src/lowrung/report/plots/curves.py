"""Learning curves: eval and train loss over tokens, time or steps."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.report.plots import Plot, palette, runs, style, units
from lowrung.report.plots.runs import Curve, Curves
from lowrung.report.record import StudyRecord

_BUTTONS = 36
"""Pixels that a row of buttons takes."""


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot, or why there is none."""
    found = runs.of(study)
    if isinstance(found, str):
        return [found] if found else []
    first, across = found.metrics[0], found.across[0]
    colours = runs.colours(found)
    unit = found.unit(across)
    key = style.key(runs.legend(found, colours), found.scores.by_stage(palette.LINES))
    above = 22 + 14 * key["text"].count("<br>")
    made = style.figure(
        [_trace(found, curve, colours[curve.name], across, unit, curve.metric == first) for curve in found.curves],
        height=436 + above,
        xaxis=style.axis(unit.label, nticks=6),
        yaxis=style.axis(units.of(first).label, range=found.ends(first), nticks=7),
        annotations=[key],
        updatemenus=_switches(found, above),
        margin={"l": 8, "r": 12, "t": 2 * _BUTTONS + 26 + above, "b": 8},
    )
    return [Plot("learning-curves", "Learning curves", found.about, made)]


def _trace(found: Curves, curve: Curve, colour: str, across: str, unit: units.Unit, is_visible: bool) -> go.Scatter:
    is_main = found.are_few or curve.standing in ("best", "tie")
    count = len(curve.values)
    return go.Scatter(
        x=_scaled(curve, across, unit),
        y=curve.values,
        mode="lines+markers",
        visible=is_visible,
        opacity=1.0 if is_main else 0.6,
        line={
            "color": colour,
            "width": 2.5 if curve.standing == "best" else 1.5,
            "dash": "dot" if curve.metric == "train/loss" else palette.of_stage(palette.DASHES, curve.stage),
        },
        marker={
            "symbol": ["circle"] * (count - 1) + ["x"] if curve.is_cut else "circle",
            "size": [3] * (count - 1) + [9] if curve.is_cut else 3,
            "color": colour,
        },
        hovertemplate=f"{curve.name}<br>{curve.standing}<br>{curve.metric} %{{y}} at %{{x:.4g}}<extra></extra>",
    )


def _scaled(curve: Curve, across: str, unit: units.Unit) -> list[float]:
    return [float(f"{value / unit.factor:.4g}") for value in curve.across[across]]


def _switches(found: Curves, above: int) -> list[dict[str, Any]]:
    """Buttons for what is drawn over what, so many pixels above the plot; none where there is no choice."""
    over = [_over(found, name) for name in found.across if name != "steps" or found.across[0] == "steps"]
    shown = [_shown(found, [name]) for name in found.metrics]
    if {"eval/loss", "train/loss"} <= set(found.metrics):
        shown.append(_shown(found, ["eval/loss", "train/loss"]))
    return [
        {
            "type": "buttons",
            "direction": "right",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "pad": {"b": above + _BUTTONS * row, "t": 0, "l": 0, "r": 0},
            "bgcolor": "rgba(128,128,128,0.15)",
            "bordercolor": style.GRID,
            "font": {"size": 11},
            "buttons": buttons,
        }
        for row, buttons in enumerate((shown, over))
        if len(buttons) > 1
    ]


def _over(found: Curves, across: str) -> dict[str, Any]:
    unit = found.unit(across)
    xs = [_scaled(curve, across, unit) for curve in found.curves]
    return {
        "label": "time" if across == "seconds" else across,
        "method": "update",
        "args": [{"x": xs}, {"xaxis.title.text": unit.label, "xaxis.autorange": True}],
    }


def _shown(found: Curves, names: Sequence[str]) -> dict[str, Any]:
    ends = [found.ends(name) for name in names]
    label = units.of(names[0]).label if len(names) == 1 else "loss (nats per token)"
    return {
        "label": "both" if len(names) > 1 else units.of(names[0]).label.split(" (")[0],
        "method": "update",
        "args": [
            {"visible": [curve.metric in names for curve in found.curves]},
            {
                "yaxis.title.text": label,
                "yaxis.range": [min(low for low, _ in ends), max(high for _, high in ends)],
            },
        ],
    }
