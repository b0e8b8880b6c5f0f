"""The best result so far against the time that was spent: whether more of it would have paid."""

import math
from collections.abc import Sequence
from itertools import accumulate

import plotly.graph_objects as go

from lowrung.report.plots import Plot, palette, style, units
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord, TrialRecord


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where fewer than two trials can be ranked, or no time was measured."""
    scores = Scores(study)
    ended = sorted((trial for trial in study.trials if trial.status is not None), key=_end)
    spent = list(accumulate(map(seconds, ended)))
    drawn = {trial.number for trial in scores.drawn}
    at = [(total, trial) for total, trial in zip(spent, ended, strict=True) if trial.number in drawn]
    if len(at) < 2 or not spent[-1] > 0:
        return []
    unit = units.times("time spent on runs", spent)
    best = list(accumulate((scores.value(trial) for _, trial in at), max if scores.is_maximised else min))
    line = go.Scatter(
        x=[_x(total, unit) for total, _ in at] + [_x(spent[-1], unit)],
        y=[float(f"{value:.6g}") for value in [*best, best[-1]]],
        mode="lines",
        line={"color": palette.GREEN, "width": 2.5, "shape": "hv"},
        hoverinfo="skip",
    )
    low, high = scores.limits
    made = style.figure(
        [_trials(scores, at, unit), line],
        height=320,
        xaxis=style.axis(unit.label, rangemode="tozero", nticks=6),
        yaxis=style.axis(units.of(scores.metric).label, range=[low, high], nticks=6),
        annotations=[style.key((("best so far", palette.GREEN), ("a trial", palette.GREY)))],
    )
    unknown = sum(not seconds(trial) for trial in ended)
    about = sentences(
        f"The best {scores.metric} so far over the time that all runs took together, also those that were pruned or"
        " failed. A line that has long been flat says that more trials of this kind would buy little.",
        "A run from the store counts with what it took when it was trained." if any(t.is_reused for t in ended) else "",
        scores.beyond,
        f"{unknown} of unknown time count as none." if unknown else "",
        scores.left_out,
    )
    return [Plot("best-so-far", "Best so far against time", about, made)]


def seconds(trial: TrialRecord) -> float:
    """What a trial's runs took together; 0 where that is not known."""
    found = [run.measurements.get("time/total_seconds", math.nan) for run in trial.runs]
    known = [value for value in found if math.isfinite(value)]
    whole = trial.measurements.get("time/total_seconds", math.nan)
    return sum(known) if known else whole if math.isfinite(whole) else 0.0


def _end(trial: TrialRecord) -> tuple[float, int]:
    """When a trial ended; its number where that is not known, or was in another study."""
    ends = [run.ended for run in trial.runs if run.ended is not None]
    return (max(ends) if ends and not trial.is_reused else -math.inf, trial.number)


def _trials(scores: Scores, at: Sequence[tuple[float, TrialRecord]], unit: units.Unit) -> go.Scatter:
    return go.Scatter(
        x=[_x(total, unit) for total, _ in at],
        y=[float(f"{scores.value(trial):.6g}") for _, trial in at],
        mode="markers",
        marker={"color": palette.GREY, "size": 7, "symbol": "circle-open"},
        customdata=[scores.name(trial) for _, trial in at],
        hovertemplate=f"%{{customdata}}<br>{scores.metric} %{{y}}<br>after %{{x}}<extra></extra>",
    )


def _x(total: float, unit: units.Unit) -> float:
    return float(f"{total / unit.factor:.5g}")
