"""Two axes of a search and the best value at each pair of theirs: what the heat map and the image of it show."""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from lowrung.report import doubts
from lowrung.report.leaderboard import TrialRow, shown
from lowrung.report.plots import scales
from lowrung.report.plots.scales import Scale, cut
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.store.outcome import Outcome

BINS = 8
"""Parts of an interval, and of a list of more values than twice as many."""

BELOW = 0.33
"""How far below the middle of a cell that is one value high its trials stand, so that its text can be read."""

_RANKS = ("lora.r",)
_RATES = ("train.learning_rate", "train.rate_factor")


@dataclasses.dataclass(frozen=True)
class Side:
    """One axis in cells.

    Attributes:
        scale: the axis.
        is_binned: whether a cell is a part of the axis, rather than a value.
    """

    scale: Scale
    is_binned: bool

    @property
    def count(self) -> int:
        """Cells."""
        return BINS if self.is_binned else self.scale.size

    @property
    def key(self) -> str:
        """The setting."""
        return self.scale.axis.key

    def at(self, trial: TrialRecord) -> float | None:
        """Where a trial stands, in cells: the first one reaches from -0.5 to 0.5."""
        value = self.scale.at(trial)
        if value is None:
            return None
        if self.is_binned:
            return self.scale.share(value) * BINS - 0.5
        return float(self.scale.numbers.index(value)) if self.scale.is_numeric else value

    def cell(self, trial: TrialRecord) -> int | None:
        """In which cell a trial is."""
        place = self.at(trial)
        return None if place is None else min(self.count - 1, max(0, math.floor(place + 0.5)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places in cells, with texts: of each value, or between parts."""
        if self.is_binned:
            return [(self.scale.share(value) * BINS - 0.5, text) for value, text in self.scale.ticks()]
        texts = [cut(text) for text in self.scale.texts] or [shown(f"{value:.6g}") for value in self.scale.numbers]
        return [(float(place), text) for place, text in enumerate(texts)]


@dataclasses.dataclass(frozen=True)
class Cells:
    """A grid of values.

    Attributes:
        scores: of the study.
        across: the horizontal axis.
        up: the vertical axis.
        inside: the trials of each cell, best first: ended ones, also such as were pruned.
    """

    scores: Scores
    across: Side
    up: Side
    inside: Mapping[tuple[int, int], Sequence[TrialRecord]]

    @functools.cached_property
    def values(self) -> dict[tuple[int, int], float]:
        """The best objective in each cell that has one, by column and row."""
        drawn = {trial.number for trial in self.scores.drawn}
        found = {}
        for cell, trials in self.inside.items():
            ranked = [trial for trial in trials if trial.number in drawn]
            if ranked:
                found[cell] = self.scores.value(min(ranked, key=self.scores.cost))
        return found

    @functools.cached_property
    def empty(self) -> dict[tuple[int, int], str]:
        """How the trials of the other cells ended: ``pruned``, ``diverged``."""
        rest = {cell: trials for cell, trials in self.inside.items() if cell not in self.values}
        return {cell: " ".join(sorted({str(trial.status) for trial in trials})) for cell, trials in rest.items()}

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value that have a colour of their own.

        A few values far away would leave the same colour to all others, so that the worse end is four quarters' spans
        from the median at most.
        """
        ordered = sorted(self.values.values(), reverse=self.scores.is_maximised)
        best, worst = ordered[0], ordered[-1]
        middle = ordered[len(ordered) // 2]
        limit = middle + 4 * (middle - best)
        if abs(worst - best) > abs(limit - best) > 0:
            worst = limit
        return (min(best, worst), max(best, worst)) if best != worst else (best - 0.5, best + 0.5)

    @property
    def is_clipped(self) -> bool:
        """Whether some values are beyond the last colour."""
        low, high = self.ends
        return any(not low <= value <= high for value in self.values.values())

    @property
    def best(self) -> tuple[float, float]:
        """Where the best trial stands; in the middle of its cell where that is a value."""
        trial = self.scores.best
        assert trial is not None
        x, y = self.across.at(trial), self.up.at(trial)
        assert x is not None
        assert y is not None
        return x, y

    @property
    def is_binned(self) -> bool:
        """Whether trials stand anywhere in their cells."""
        return self.across.is_binned or self.up.is_binned

    @property
    def title(self) -> str:
        """Of the plot."""
        return f"{self.up.key} and {self.across.key}"

    @property
    def about(self) -> str:
        """What is seen, and whether the space is too small."""
        several = any(len(trials) > 1 for trials in self.inside.values())
        seen = (
            f"{'The best' if several else 'The'} {self.scores.metric} at each {self.up.key} and {self.across.key}. The"
            " star is the best trial."
        )
        rest = "A cell with a cross or a word in place of a value had only trials that were stopped or failed." * bool(
            self.empty
        )
        keys = [self.across.key, self.up.key]
        edges = at_edges(self.scores, keys)
        clipped = "Values far from the best share the last colour." if self.is_clipped else ""
        broken = sum(bool(trial.broken) for trial in self.scores.study.trials)
        out = f"{broken} that break a constraint are left out." if broken else ""
        return sentences(
            "At the edge: " * bool(edges) + " ".join(edges), seen, _at_end(self.scores, keys), rest, clipped, out
        )


def of(study: StudyRecord) -> Cells | str:
    """The grid, or why there is none; an empty text where fewer than two axes are searched, since nobody would ask."""
    scores = Scores(study)
    sides = pair([_side(scale) for scale in scales.varied(study)])
    if sides is None:
        return ""
    up, across = sides
    inside: dict[tuple[int, int], list[TrialRecord]] = defaultdict(list)
    for trial in study.trials:
        column, row = across.cell(trial), up.cell(trial)
        if trial.status is not None and column is not None and row is not None and not trial.broken:
            inside[column, row].append(trial)
    found = Cells(scores, across, up, inside)
    best = scores.best
    if best is None or across.at(best) is None or up.at(best) is None:
        return sentences(f"No {found.title}: no trial can be ranked by both.", scores.missing)
    return found


def pair(sides: Sequence[Side]) -> tuple[Side, Side] | None:
    """Rank and rate where both are searched, or else the two most important axes, numbers first."""
    by_key = {side.key: side for side in sides}
    rank = next((by_key[key] for key in _RANKS if key in by_key), None)
    rate = next((by_key[key] for key in _RATES if key in by_key), None)
    if rank and rate:
        return rank, rate
    ordered = sorted(sides, key=lambda side: not side.scale.is_numeric)
    return (ordered[1], ordered[0]) if len(ordered) > 1 else None


def _at_end(scores: Scores, keys: Sequence[str]) -> str:
    """Where the best alone is at an end of an axis, while others that tie with it are not."""
    certain = at_edges(scores, keys)
    found = [one for one in at_edges(scores, keys, scores.ties[:1]) if one not in certain] if scores.best else []
    ends = [sentence.split(": try")[0] for sentence in found]
    return f"Of the best, {' and '.join(ends)}, but trials that tie with it have others." if ends else ""


def at_edges(scores: Scores, keys: Sequence[str], among: Sequence[TrialRecord] | None = None) -> list[str]:
    """Which of these axes have their best value at an end, a sentence each; see `lowrung.report.doubts.edges`.

    Args:
        scores: of the study.
        keys: of the axes.
        among: the trials that must all be there; None takes the best one and its ties.
    """
    rows = [_row(trial, keys) for trial in scores.study.trials if trial.status is not None]
    ties = [_row(trial, keys) for trial in (scores.ties if among is None else among)]
    intervals = {
        axis.key: (axis.low, axis.high, axis.is_log)
        for axis in scores.study.axes
        if axis.low is not None and axis.high is not None
    }
    return doubts.edges(rows, ties, intervals, is_over=scores.study.is_over) if ties else []


def _row(trial: TrialRecord, keys: Sequence[str]) -> TrialRow:
    assert trial.status is not None
    words = {key: text for key, text in trial.point.items() if key in keys or scales.number(text) is None}
    return TrialRow(trial.number, words, Outcome(trial.status), ())


def _side(scale: Scale) -> Side:
    is_long = scale.is_numeric and scale.size > 2 * BINS
    return Side(scale, is_long or (scale.is_interval and scale.size > BINS))
