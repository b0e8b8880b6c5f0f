"""What the runs took, against what was predicted of them before they began."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.costs.facts import MEASURED, MEMORY, SECONDS
from lowrung.report import facts
from lowrung.report.facts import RunFacts
from lowrung.report.plots import Plot, palette, style, units
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord
from lowrung.report.tables import counted

_LEAST = 3
"""Runs; fewer are read in the table."""

_HEIGHT = 280
_NEAR = 0.2
"""An axis goes so far from its middle at least, as a share: what is 1% off must not seem far from the line."""

_WIDE = 8.0
"""Where the largest value is so many times the smallest, the axes are drawn by orders of magnitude."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A quantity of the runs that can be compared by it.

    Attributes:
        name: its record's.
        runs: the runs.
        unit: of both axes.
    """

    name: str
    runs: Sequence[RunFacts]
    unit: units.Unit

    @classmethod
    def of(cls, name: str, runs: Sequence[RunFacts]) -> "_Part":
        whole = [one for one in runs if name in one.compared and one.compared[name].ratio]
        return cls(name, whole, units.of(MEASURED[name], [one.compared[name].measured or 0.0 for one in whole]))

    @property
    def predicted(self) -> list[float]:
        return [float(f"{one.compared[self.name].predicted / self.unit.factor:.4g}") for one in self.runs]

    @property
    def measured(self) -> list[float]:
        return [float(f"{(one.compared[self.name].measured or 0.0) / self.unit.factor:.4g}") for one in self.runs]

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of both axes, so that the diagonal is where both are equal."""
        values = [*self.predicted, *self.measured]
        low, high = min(values), max(values)
        if self.is_log:
            return low / 1.2, high * 1.2
        middle = (low + high) / 2
        half = max(0.56 * (high - low), _NEAR * middle)
        return max(0.0, middle - half), middle + half

    @property
    def is_log(self) -> bool:
        values = [*self.predicted, *self.measured]
        return max(values) > _WIDE * min(values) > 0

    @property
    def axis(self) -> dict[str, Any]:
        """What both axes have."""
        low, high = self.ends
        if not self.is_log:
            return {"type": "linear", "range": [low, high], "nticks": 6}
        return {"type": "log", "range": [math.log10(low), math.log10(high)], "dtick": "D2" if high < 30 * low else 1}


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot with a part for memory and one for time; nothing where too few runs can be compared."""
    runs = facts.of(study)
    parts = [part for name in (MEMORY, SECONDS) if len((part := _Part.of(name, runs)).runs) >= _LEAST]
    if not parts:
        return []
    marks = [("as predicted", "···")]
    made = style.figure(
        [trace for place, part in enumerate(parts) for trace in _traces(Scores(study), part, place)],
        height=_HEIGHT * len(parts) + 40,
        annotations=[style.key([("a run", palette.BLUE)], marks)],
    )
    below = [style.axis(f"predicted {part.unit.label}", **part.axis) for part in parts]
    made.update_layout(style.stacked(below, title="measured", limits=parts[0].ends, row_height=_HEIGHT))
    made.update_layout({f"yaxis{place + 1 if place else ''}": part.axis for place, part in enumerate(parts)})
    left_out = len(runs) - max(len(part.runs) for part in parts)
    about = sentences(
        "Each point is a run. On the line it took what was predicted of it; above the line it took more.",
        f"Left out: {counted(left_out, 'run')} that ended early, or went on from a checkpoint." if left_out else "",
    )
    return [Plot("plan-and-facts", "Predicted and measured", about, made)]


def _traces(scores: Scores, part: _Part, place: int) -> list[go.Scatter]:
    """The diagonal, and the runs on it or beside it."""
    suffix = str(place + 1) if place else ""
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    unit = part.unit.label.split("(")[-1].rstrip(")")
    line = {"color": style.LINE, "width": 1.5, "dash": "dot"}
    return [
        go.Scatter(x=part.ends, y=part.ends, mode="lines", line=line, hoverinfo="skip", **axes),
        go.Scatter(
            x=part.predicted,
            y=part.measured,
            mode="markers",
            marker={"color": palette.BLUE, "size": 8, "opacity": 0.7},
            customdata=[_name(scores, one) for one in part.runs],
            hovertemplate=f"%{{customdata}}<br>predicted %{{x}}, measured %{{y}} {unit}<extra></extra>",
            **axes,
        ),
    ]


def _name(scores: Scores, one: RunFacts) -> str:
    return scores.name(one.trial) + (f", seed {one.run.seed}" if len(one.trial.runs) > 1 else "")
