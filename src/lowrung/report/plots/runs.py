"""Learning curves of a study's runs, thinned to what can be seen: what the plot and the image of it show."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from lowrung.report.plots import palette, units
from lowrung.report.plots.scores import Scores, sentences, spread_out, thinned
from lowrung.report.record import HistoryPoint, RunRecord, StudyRecord, TrialRecord
from lowrung.report.tables import counted
from lowrung.store.outcome import Status

_RUNS = 36
"""Curves: of more, none can be followed."""
_FIRST = 12
"""Of these so many are the best trials'; the others stand for all others."""
_POINTS = 60
"""Points of a curve: a phone has six pixels for each."""
_FEW = 6
"""Trials up to which each has a colour of its own."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a run reported of a metric.

    Attributes:
        name: of its trial, and its seed where there are several.
        number: its trial's.
        stage: its trial's place among `Scores.stages`; 0 where there are none.
        standing: see `Scores.standing`.
        metric: by MLflow name.
        across: steps, tokens and seconds, by these names, each as long as values.
        values: finite ones.
    """

    name: str
    number: int
    stage: int
    standing: str
    metric: str
    across: dict[str, list[float]]
    values: Sequence[float]

    @property
    def is_cut(self) -> bool:
        """Whether the run did not come to its end."""
        return self.standing not in ("best", "tie", "complete", "not ended")


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of some runs.

    Attributes:
        scores: of the study.
        curves: the best trials' last, so that they are drawn above others.
        total: runs that reported anything.
        left_out: values that are not finite.
        shortened: runs of which not every point is drawn.
    """

    scores: Scores
    curves: Sequence[Curve]
    total: int
    left_out: int
    shortened: int

    @functools.cached_property
    def metrics(self) -> list[str]:
        """Those that are drawn, the first one at first."""
        return list(dict.fromkeys(curve.metric for curve in self.curves))

    @functools.cached_property
    def across(self) -> list[str]:
        """What they can be drawn over: what all runs have, tokens first."""
        return [name for name in ("tokens", "seconds", "steps") if all(name in curve.across for curve in self.curves)]

    @functools.cached_property
    def shown(self) -> int:
        """Runs that are drawn."""
        return len({curve.name for curve in self.curves})

    @functools.cached_property
    def are_few(self) -> bool:
        """Whether each trial has a colour of its own."""
        return len({curve.number for curve in self.curves}) <= _FEW

    def unit(self, across: str) -> units.Unit:
        """Of the horizontal axis."""
        values = [value for curve in self.curves for value in curve.across[across]]
        if across == "seconds":
            return units.times("time", values)
        return units.counts("tokens trained on", values) if across == "tokens" else units.Unit(across)

    def ends(self, metric: str) -> tuple[float, float]:
        """The part of the vertical axis that is shown: up to where runs begin, since one that diverges leaves it."""
        curves = [curve for curve in self.curves if curve.metric == metric]
        low, high = min(min(curve.values) for curve in curves), max(max(curve.values) for curve in curves)
        starts = sorted(curve.values[0] for curve in curves)
        usual = starts[len(starts) // 2]
        if metric.endswith("loss") and high > low + 1.5 * (usual - low) and usual > low:
            high = low + 1.15 * (usual - low)
        room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        return low - room, high + room

    @property
    def is_clipped(self) -> bool:
        """Whether some values lie above what is shown."""
        return any(max(curve.values) > self.ends(curve.metric)[1] for curve in self.curves)

    @property
    def about(self) -> str:
        """What is seen."""
        cut = any(curve.is_cut for curve in self.curves)
        return sentences(
            "What each run reported while it trained. Where eval loss rises while train loss falls, a run learns its"
            " examples by heart.",
            "A cross is where a run was stopped." if cut else "",
            "Values far above where runs begin are not shown." if self.is_clipped else "",
            thinned(self.shown, self.total, "run"),
            f"Of {counted(self.shortened, 'curve')} every few points are drawn." if self.shortened else "",
            f"{counted(self.left_out, 'value')} that are not finite are left out." if self.left_out else "",
            "Each stage has its own kind of line." if self.scores.stages else "",
        )


def of(study: StudyRecord) -> Curves | str:
    """The curves, or why there are none."""
    scores = Scores(study)
    runs = [(trial, run) for trial in study.trials for run in trial.runs if run.history]
    if not runs:
        return "No learning curves: no run has reported anything." if study.trials else ""
    kept = _kept(scores, runs)
    names = list(dict.fromkeys(["eval/loss", scores.metric, "train/loss"]))
    found = [curve for trial, run in reversed(kept) for name in names if (curve := _curve(scores, trial, run, name))]
    if not found:
        return "No learning curves: no run has reported a finite loss."
    found.sort(key=lambda curve: names.index(curve.metric))
    points = [
        point.metrics[name] for _, run in kept for point in run.history for name in names if name in point.metrics
    ]
    shortened = sum(sum("train/loss" in point.metrics for point in run.history) > _POINTS for _, run in kept)
    return Curves(scores, found, len(runs), sum(not math.isfinite(value) for value in points), shortened)


def _kept(scores: Scores, runs: Sequence[tuple[TrialRecord, RunRecord]]) -> Sequence[tuple[TrialRecord, RunRecord]]:
    """The best trials' runs, ties before others, and some that stand for the rest, in the ranking's order."""
    first = {trial.number for trial in [*scores.ties, *scores.drawn][:_FIRST]}
    best = [pair for pair in runs if pair[0].number in first][:_RUNS]
    rest = [pair for pair in runs if pair[0].number not in first]
    room = _RUNS - len(best)
    return [*best, *(rest[place] for place in spread_out(len(rest), room))] if room > 1 else best


def _curve(scores: Scores, trial: TrialRecord, run: RunRecord, metric: str) -> Curve | None:
    there = [point for point in run.history if math.isfinite(point.metrics.get(metric, math.nan))]
    if not there:
        return None
    points = [there[place] for place in spread_out(len(there), _POINTS)]
    seed = f", seed {run.seed}" if len(trial.runs) > 1 else ""
    standing = scores.standing(trial)
    if standing in ("best", "tie", "complete") or run.status not in (None, Status.COMPLETE):
        standing = standing if run.status in (None, Status.COMPLETE) else str(run.status)
    return Curve(
        f"{scores.label(trial)}{seed}",
        trial.number,
        scores.stages.index(trial.stage) if scores.stages else 0,
        standing,
        metric,
        _across(points),
        [float(f"{point.metrics[metric]:.5g}") for point in points],
    )


def _across(points: Sequence[HistoryPoint]) -> dict[str, list[float]]:
    found = {"steps": [float(point.step) for point in points], "seconds": [round(point.seconds, 1) for point in points]}
    tokens = [point.tokens for point in points if point.tokens is not None]
    return {"tokens": tokens, **found} if len(tokens) == len(points) else found


def colours(found: Curves) -> Mapping[str, str]:
    """By the curves' names: a colour for each trial where they are few, or else one for each standing."""
    if not found.are_few:
        return {curve.name: palette.COLOURS.get(curve.standing, palette.GREY) for curve in found.curves}
    numbers = sorted({curve.number for curve in found.curves})
    of_trial = dict(zip(numbers, palette.SEVERAL, strict=False))
    return {curve.name: of_trial[curve.number] for curve in found.curves}


def legend(found: Curves, colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """The trials, best first, or the standings, with their colours."""
    if found.are_few:
        names = {trial.number: found.scores.label(trial) for trial in found.scores.study.trials}
        return [(names[number], colour) for number, colour in _by_number(found, colours).items()]
    there = {curve.standing for curve in found.curves}
    return [(word, colour) for word, colour in palette.COLOURS.items() if word in there]


def _by_number(found: Curves, colours: Mapping[str, str]) -> dict[int, str]:
    return {curve.number: colours[curve.name] for curve in reversed(found.curves)}
