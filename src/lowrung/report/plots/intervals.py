"""Trials as paired differences from the best one: what the plot and the image of it show."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence

from lowrung.report.plots import units
from lowrung.report.plots.scores import NAME, Scores, sentences, thinned
from lowrung.report.record import Difference, StudyRecord, TrialRecord
from lowrung.report.tables import counted

_BRIEF = 33
"""Characters of a name beside ``best, the one to take``: both fill 375 pixels."""
MOST = 30
"""Rows: what does not fit on two screens is in the table."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial.

    Attributes:
        name: see `Scores.label`.
        brief: the same with room for `words` beside it, on a phone too.
        verdict: such as ``best``, ``tie`` or ``worse``.
        mean: its value minus the best's; its value where nothing is paired.
        low: the lower end of its interval.
        high: the upper end.
        value: of the objective.
        is_preferred: whether it is the one to take.
    """

    name: str
    brief: str
    verdict: str
    mean: float
    low: float
    high: float
    value: float
    is_preferred: bool

    @property
    def words(self) -> str:
        """Beside the name."""
        return f"{self.verdict}, the one to take" if self.is_preferred else self.verdict


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Rows of a plot, best first.

    Attributes:
        scores: of the study.
        rows: at most `MOST`.
        total: how many there would be.
        is_paired: whether values are differences.
    """

    scores: Scores
    rows: Sequence[Row]
    total: int
    is_paired: bool

    @property
    def metric(self) -> str:
        """What is on the axis: differences may be of another metric than the one that ranks."""
        return (self.is_paired and self.scores.study.compared_by) or self.scores.metric

    @property
    def label(self) -> str:
        """Of the axis."""
        return f"{units.of(self.metric).label}, minus the best's" if self.is_paired else units.of(self.metric).label

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """The part of the axis that is shown: all of the ties, and of the others what is not far away."""
        bounds = [(row.low, row.high) for row in self.rows]
        near = [pair for pair, row in zip(bounds, self.rows, strict=True) if row.verdict in ("best", "tie")] or bounds
        far = max(max(abs(low), abs(high)) for low, high in near) * 4 if self.is_paired else math.inf
        others = [max(abs(low), abs(high)) for low, high in bounds if (low, high) != (0.0, 0.0)]
        if self.is_paired and others:
            far = max(far, 5 * statistics.median_low(others))
        low = max(min(low for low, _ in bounds), -far)
        high = min(max(high for _, high in bounds), far)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - room, high + room

    def is_off(self, row: Row) -> bool:
        """Whether a row's value lies outside what is shown."""
        return not self.ends[0] <= row.mean <= self.ends[1]

    @property
    def title(self) -> str:
        """Of the plot."""
        return "Trials against the best" if self.is_paired else f"Trials by {self.scores.metric}"

    @property
    def about(self) -> str:
        """What is seen."""
        side = "left" if self.scores.is_maximised and self.metric == self.scores.metric else "right"
        seen = (
            f"Each trial's {self.metric} minus the best trial's, with the interval of the paired difference."
            f" Worse is to the {side}. A trial whose interval holds 0 may be as good as the best. Of those that tie,"
            " take the one that is marked."
            if self.is_paired
            else f"Each trial's {self.scores.metric}. No two trials were compared on the same held-out examples, so"
            " there are no intervals."
        )
        off = sum(self.is_off(row) for row in self.rows)
        lie = "lies" if off == 1 else "lie"
        beyond = f"{off} of them {lie} outside of what is shown, where an arrow stands." if off else ""
        alone = len(self.scores.drawn) - self.total
        apart = (
            f"{counted(alone, 'trial')} could not be compared with the best and {_be(alone)} not drawn."
            if alone
            else ""
        )
        return sentences(seen, beyond, thinned(len(self.rows), self.total, "trial"), apart, self.scores.left_out)


def of(study: StudyRecord) -> Intervals | str:
    """The rows, or why there are none."""
    scores = Scores(study)
    if len(scores.drawn) < 2:
        return sentences(f"No comparison: {len(scores.drawn) or 'no'} trial can be ranked.", scores.missing)
    paired = [trial for trial in scores.drawn if trial is scores.best or _is_finite(trial.difference)]
    is_paired = len(paired) > 1
    shown = paired if is_paired else scores.drawn
    return Intervals(scores, [_row(scores, trial, is_paired) for trial in shown[:MOST]], len(shown), is_paired)


def _is_finite(found: Difference | None) -> bool:
    return found is not None and all(map(math.isfinite, (found.mean, found.low, found.high)))


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _row(scores: Scores, trial: TrialRecord, is_paired: bool) -> Row:
    is_preferred = trial.number == scores.study.preferred
    name, value = scores.label(trial), scores.value(trial)
    brief = scores.label(trial, _BRIEF if is_preferred else NAME)
    found = trial.difference
    if not is_paired:
        return Row(name, brief, scores.standing(trial), value, value, value, value, is_preferred)
    if found is None or trial is scores.best:
        return Row(name, brief, "best", 0.0, 0.0, 0.0, value, is_preferred)
    return Row(name, brief, found.verdict, found.mean, found.low, found.high, value, is_preferred)
