"""Colours that stand apart for the colour-blind, on light and on dark ground."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

GREEN, BLUE, ORANGE, RED, PURPLE, SKY, GREY = (
    "#009E73",
    "#3B8EC4",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8C8C8C",
)
"""Okabe and Ito's, the blue a little lighter, so that it is seen on black too."""

SEVERAL = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, "#B8A200")
"""For a few things without an order."""

DASHES = ("solid", "dash", "dashdot", "longdash")
"""Lines of a few stages; dots are train loss."""

LINES = ("──", "- - -", "-·-·", "── ──")
"""The same in words."""

SHAPES = ("circle", "square", "diamond", "triangle-up")
"""Points of a few stages."""

POINTS = ("●", "■", "◆", "▲")
"""The same in words."""


def of_stage(kinds: Sequence[str], stage: int) -> str:
    """The kind of line or point of a stage, by its place; the last ones share one."""
    return kinds[min(stage, len(kinds) - 1)]


COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "best": GREEN,
        "tie": BLUE,
        "complete": GREY,
        "worse": ORANGE,
        "better": SKY,
        "unknown": GREY,
        "pruned": PURPLE,
        "diverged": RED,
        "oom": RED,
        "failed": RED,
        "cancelled": ORANGE,
        "not ended": SKY,
    }
)
"""By a trial's standing or status."""

SYMBOLS: Mapping[str, str] = MappingProxyType(
    {
        "best": "star",
        "tie": "circle",
        "complete": "circle-open",
        "worse": "diamond",
        "better": "square",
        "pruned": "x-thin-open",
        "diverged": "triangle-up",
    }
)
"""Beside the colours, for whoever sees none, or prints in black."""
