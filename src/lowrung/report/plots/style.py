"""How all figures are drawn."""

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.report.plots import palette

GRID = "rgba(128,128,128,0.25)"
LINE = "rgba(128,128,128,0.7)"
TEXT = "#555555"
"""The page replaces it, for its dark mode, by ``relayout({"font.color": ...})``."""
SCALE = "Cividis"

_COLUMNS = 50
"""Characters that fit into a line of 350 pixels."""

ROW = 34
"""Pixels of a row with its text."""

_BELOW = 62
"""Pixels for an x axis with its ticks and title, below a plot that another one follows."""


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis that makes room for its own texts."""
    return {
        "title": {"text": title, "standoff": 10},
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": LINE,
        "zeroline": False,
        **more,
    }


def numeric(title: str, ticks: Sequence[tuple[float, str]], *, is_log: bool = False, **more: Any) -> dict[str, Any]:
    """An axis with these ticks."""
    return axis(
        title,
        type="log" if is_log else "linear",
        tickmode="array",
        tickvals=[value for value, _ in ticks],
        ticktext=[text for _, text in ticks],
        **more,
    )


def stacked(
    below: Sequence[dict[str, Any]], *, title: str, limits: Sequence[float], row_height: float
) -> dict[str, Any]:
    """The axes of plots that stand below each other and show the same on their y axes.

    Args:
        below: the x axis of each, from the top.
        title: of the y axes.
        limits: of the y axes.
        row_height: pixels of each plot, with the room for its x axis.
    """
    found: dict[str, Any] = {}
    gap = _BELOW / (row_height * len(below))
    for place, x in enumerate(below):
        suffix = str(place + 1) if place else ""
        top = 1 - place / len(below)
        bottom = max(0.0, top - 1 / len(below) + (gap if place < len(below) - 1 else 0))
        found[f"xaxis{suffix}"] = {**x, "anchor": f"y{suffix}"}
        found[f"yaxis{suffix}"] = axis(title, domain=[bottom, top], anchor=f"x{suffix}", range=list(limits), nticks=5)
    return found


def figure(traces: Iterable[Any], *, height: int, **layout: Any) -> go.Figure:
    """A figure without ground, title or legend.

    Args:
        traces: in the order in which they are drawn.
        height: pixels.
        layout: anything else of plotly's layout.
    """
    made = go.Figure(list(traces))
    made.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 8, "r": 12, "t": 34, "b": 8, "pad": 2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": TEXT, "family": "system-ui, sans-serif"},
        hovermode="closest",
        showlegend=False,
        dragmode=False,
    )
    made.update_layout(**layout)
    return made


def key(entries: Iterable[tuple[str, str]], marks: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """What colours mean, above the plot, in as many lines as a phone needs.

    Args:
        entries: words with their colours.
        marks: words with characters that stand for lines or points of one kind, whatever their colour.
    """
    lines: list[list[str]] = [[]]
    room = _COLUMNS
    texts = [(word, f'<span style="color:{colour}">●</span> {word}') for word, colour in entries]
    for word, text in [*texts, *((f"{mark}{word}", f"{mark} {word}") for word, mark in marks)]:
        if len(word) + 4 > room and lines[-1]:
            lines.append([])
            room = _COLUMNS
        room -= len(word) + 4
        lines[-1].append(text)
    text = "<br>".join("   ".join(line) for line in lines)
    return note(text, y=1.0, yanchor="bottom", yshift=4)


def note(text: str, **more: Any) -> dict[str, Any]:
    """A text in the plot, at the left."""
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "xanchor": "left",
        "align": "left",
        "showarrow": False,
        "font": {"size": 11},
        **more,
    }


def standings(words: Iterable[str]) -> dict[str, Any]:
    """The `key` of standings or statuses that occur, in their own order."""
    there = set(words)
    return key((word, colour) for word, colour in palette.COLOURS.items() if word in there)
