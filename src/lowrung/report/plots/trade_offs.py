"""What a better objective costs: parameters, memory, time, forgetting, or another objective."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lowrung.report import pareto
from lowrung.report.plots import Plot, palette, style, units
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.report.tables import counted

_COSTS = ("params/trainable", "memory/peak_bytes", "time/total_seconds", "forget/loss_delta")
_HEIGHT = 240


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """The objective against one cost.

    Attributes:
        metric: the cost.
        trials: those that have both.
        front: which of them no other one is better than in both.
        unit: of the cost.
    """

    metric: str
    trials: Sequence[TrialRecord]
    front: Sequence[bool]
    unit: units.Unit

    def at(self, trial: TrialRecord) -> float:
        """A trial's cost, in the unit."""
        return float(f"{_cost(trial, self.metric) / self.unit.factor:.5g}")


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot with a part for each cost that differs; nothing where none does."""
    scores = Scores(study)
    found = trade_offs(scores)
    if not found:
        return []
    made = style.figure(
        [trace for place, one in enumerate(found) for trace in _traces(scores, one, place)],
        height=_HEIGHT * len(found) + 40,
        annotations=[
            style.key((("not beaten in both", palette.BLUE), ("beaten", palette.GREY), ("best", palette.GREEN)))
        ],
    )
    made.update_layout(_axes(scores, found))
    lacking = max(len(scores.drawn) - len(one.trials) for one in found)
    is_measured = any("/" in one.metric and _is_measured(one) for one in found)
    interrupted = sum(any(run.earlier for run in trial.runs) for trial in scores.drawn)
    about = sentences(
        f"Each trial's {scores.metric} against what it costs. The line joins the trials that no other one beats"
        " in both: where it turns flat, more cost buys little.",
        "Time and memory are those of the machine that trained." if is_measured else "",
        f"{counted(interrupted, 'trial')} with an interruption: the time is that of all parts, with what was lost."
        if is_measured and interrupted
        else "",
        f"Up to {lacking} without such a value are left out." if lacking else "",
        scores.beyond,
        scores.left_out,
    )
    return [Plot("trade-offs", "What a better result costs", about, made)]


def trade_offs(scores: Scores) -> list[TradeOff]:
    """The costs that at least two trials differ in, other objectives first."""
    names = dict.fromkeys([*list(scores.study.objectives)[1:], *_COSTS])
    found = []
    for name in names:
        trials = [trial for trial in scores.drawn if math.isfinite(_cost(trial, name))]
        values = [_cost(trial, name) for trial in trials]
        if name == scores.metric or len(set(values)) < 2:
            continue
        sign = -1 if scores.study.objectives.get(name) == "maximize" else 1
        front = pareto.front([(sign * value, scores.cost(trial)) for trial, value in zip(trials, values, strict=True)])
        found.append(TradeOff(name, trials, front, units.of(name, values)))
    return found


def _cost(trial: TrialRecord, name: str) -> float:
    return trial.metrics.get(name, trial.measurements.get(name, math.nan))


def _is_measured(one: TradeOff) -> bool:
    return one.metric in ("memory/peak_bytes", "time/total_seconds")


def _traces(scores: Scores, one: TradeOff, place: int) -> list[go.Scatter]:
    suffix = str(place + 1) if place else ""
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    front = [trial for trial, is_in in zip(one.trials, one.front, strict=True) if is_in]
    rest = [trial for trial, is_in in zip(one.trials, one.front, strict=True) if not is_in]
    front.sort(key=lambda trial: (one.at(trial), scores.value(trial)))
    best = [trial for trial in one.trials if trial is scores.best]
    return [
        _points(
            scores,
            one,
            rest,
            mode="markers",
            marker={"color": palette.GREY, "size": 7, "symbol": "circle-open"},
            **axes,
        ),
        _points(
            scores,
            one,
            front,
            mode="lines+markers",
            line={"color": palette.BLUE, "width": 1.5},
            marker={"color": palette.BLUE, "size": 8},
            **axes,
        ),
        _points(
            scores, one, best, mode="markers", marker={"color": palette.GREEN, "size": 13, "symbol": "star"}, **axes
        ),
    ]


def _points(scores: Scores, one: TradeOff, trials: Sequence[TrialRecord], **how: Any) -> go.Scatter:
    return go.Scatter(
        x=[one.at(trial) for trial in trials],
        y=[float(f"{scores.value(trial):.6g}") for trial in trials],
        customdata=[scores.name(trial) for trial in trials],
        hovertemplate=f"%{{customdata}}<br>{one.unit.label}: %{{x}}<br>{scores.metric} %{{y}}<extra></extra>",
        **how,
    )


def _axes(scores: Scores, shown: Sequence[TradeOff]) -> dict[str, Any]:
    below = [style.axis(one.unit.label, nticks=6) for one in shown]
    title = units.of(scores.metric).label.split(" (")[0]
    return style.stacked(below, title=title, limits=scores.limits, row_height=_HEIGHT)
