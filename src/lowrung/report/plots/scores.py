"""Which trials of a study can be drawn, by what value, and under which name."""

import dataclasses
import functools
import html
import math
from collections import Counter
from collections.abc import Sequence

from lowrung.report.leaderboard import shown
from lowrung.report.plots import palette
from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.report.tables import counted
from lowrung.store.outcome import Status

NAME = 44
"""Characters that a trial's name may take: as many fit into 360 pixels."""
_STAGE = 20
"""Of these, its stage's."""
_NAMED = 500
"""Of more trials, only the number is said where all are drawn: 2,000 names ten times would be half a megabyte."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The trials of a study by its first objective.

    Attributes:
        study: the study.
    """

    study: StudyRecord

    @functools.cached_property
    def metric(self) -> str:
        """The first objective; ``eval/loss`` where a study has none."""
        return next(iter(self.study.objectives), "eval/loss")

    @property
    def is_maximised(self) -> bool:
        """Whether more of it is better."""
        return self.study.objectives.get(self.metric) == "maximize"

    @functools.cached_property
    def drawn(self) -> Sequence[TrialRecord]:
        """Complete trials that keep to all constraints and have a finite objective, best first."""
        return [trial for trial in self.study.trials if self._reason(trial) is None]

    def value(self, trial: TrialRecord) -> float:
        """A trial's objective; NaN where it has none."""
        return trial.metrics.get(self.metric, math.nan)

    def cost(self, trial: TrialRecord) -> float:
        """The same, of which less is better."""
        return -self.value(trial) if self.is_maximised else self.value(trial)

    @functools.cached_property
    def best(self) -> TrialRecord | None:
        """The best trial: the one that the others were compared with, or else the first in the ranking."""
        named = [trial for trial in self.drawn if _verdict(trial) == "best" or trial.against == "best"]
        return next(iter([*named, *self.drawn]), None)

    @functools.cached_property
    def ties(self) -> Sequence[TrialRecord]:
        """The best trial, and those that tie with it."""
        tied = [trial for trial in self.drawn if trial is not self.best and _verdict(trial) == "tie"]
        return [self.best, *tied] if self.best else []

    def standing(self, trial: TrialRecord) -> str:
        """``best``, ``tie``, ``complete``, or the trial's status; ``not ended`` where it has none."""
        if trial is self.best:
            return "best"
        if _verdict(trial) == "tie" and self._reason(trial) is None:
            return "tie"
        return str(trial.status) if trial.status else "not ended"

    @functools.cached_property
    def _costs_shown(self) -> tuple[float, float]:
        """The best cost, and the worst one that is shown.

        A few values far away would leave one line of all others. So the worst one is at most eight times as far from
        the best as the median: the better half of the trials keeps an eighth of the plot.
        """
        costs = sorted(self.cost(trial) for trial in self.drawn)
        best, middle, worst = costs[0], costs[len(costs) // 2], costs[-1]
        most = best + 8 * (middle - best) if middle > best else worst
        return best, max(cost for cost in costs if cost <= most)

    @functools.cached_property
    def limits(self) -> tuple[float, float]:
        """The lower and the upper end of what is shown of the objective; see `is_beyond`."""
        best, last = self._costs_shown
        room = 0.08 * (last - best) or 0.05 * abs(best) or 1.0
        low, high = sorted(-cost if self.is_maximised else cost for cost in (best - room, last + room))
        return low, high

    def is_beyond(self, trial: TrialRecord) -> bool:
        """Whether a trial's value is so far from the best that it is beyond `limits`."""
        return self.cost(trial) > self._costs_shown[1]

    @property
    def far(self) -> float:
        """The end of `limits` that values lie beyond."""
        return self.limits[0] if self.is_maximised else self.limits[1]

    @functools.cached_property
    def beyond(self) -> str:
        """How many trials `is_beyond` is true of, a sentence; empty where all are shown."""
        count = sum(map(self.is_beyond, self.drawn))
        lie = "lies" if count == 1 else "lie"
        return f"{counted(count, 'trial')} far from the best {lie} beyond what is shown." if count else ""

    @functools.cached_property
    def left_out(self) -> str:
        """`missing`, and where a trial's stage stands, as what is said below a plot."""
        return sentences(self.missing, "A trial's stage is in brackets." * bool(self.stages))

    @functools.cached_property
    def missing(self) -> str:
        """Which trials are not among `drawn` and why, a sentence; empty where all are."""
        reasons = Counter(reason for trial in self.study.trials if (reason := self._reason(trial)))
        parts = [f"{number:,} {reason}" for reason, number in reasons.items()]
        return f"Left out: {', '.join(parts)}." if parts else ""

    @functools.cached_property
    def stages(self) -> Sequence[str]:
        """The stages that trials are of, in order; none where all are of one. Some count for two: ``rate, rank``."""
        by_name = {trial.stage: trial.stage_index for trial in self.study.trials}
        return sorted(by_name, key=lambda name: (by_name[name], name)) if len(by_name) > 1 else []

    def by_stage(self, marks: Sequence[str]) -> list[tuple[str, str]]:
        """The stages as HTML, each with its mark, for a plot's key."""
        names = [_as_html(_cut(name) or "no stage") for name in self.stages]
        return [(name, palette.of_stage(marks, place)) for place, name in enumerate(names)]

    def _reason(self, trial: TrialRecord) -> str | None:
        if trial.status is None:
            return "not ended"
        if trial.status is not Status.COMPLETE:
            return str(trial.status)
        if trial.broken:
            return "breaking a constraint"
        return None if math.isfinite(self.value(trial)) else f"without a finite {self.metric}"

    def name(self, trial: TrialRecord) -> str:
        """The label of a trial where there is room for those of all of them, or else its number."""
        return self.label(trial) if len(self.study.trials) <= _NAMED else _as_html(self._number(trial))

    def label(self, trial: TrialRecord, room: int = NAME) -> str:
        """``#10 (rank)  r=8 rate_factor=1``: number, stage, and what the study varies, as much as there is room for.

        It is HTML: plotly takes texts for such, and a value may be ``<think>``.

        Args:
            trial: the trial.
            room: characters.
        """
        texts = [f"{self._short[key]}={shown(trial.point[key])}" for key in self._short if key in trial.point]
        text = "  ".join(filter(None, [self._number(trial), " ".join(texts)]))
        return _as_html(text if len(text) <= room else f"{text[: room - 1]}…")

    def _number(self, trial: TrialRecord) -> str:
        return f"#{trial.number} ({_cut(trial.stage)})" if self.stages and trial.stage else f"#{trial.number}"

    @functools.cached_property
    def _short(self) -> dict[str, str]:
        """The axes' short keys, the most important first: what there is no room for matters least."""
        keys = [axis.key for axis in self.study.axes]
        return short_keys(sorted(keys, key=lambda key: -self.study.importance.get(key, 0.0)))


def _cut(stage: str) -> str:
    return stage if len(stage) <= _STAGE else f"{stage[: _STAGE - 1]}…"


def _as_html(text: str) -> str:
    """A text that plotly shows as it is; in a template ``%{`` would begin a variable."""
    return html.escape(text, quote=False).replace("%{", "% {")


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Keys by their last part, such as ``r`` of ``lora.r``, where no other key ends in the same."""
    ends = Counter(key.rsplit(".", 1)[-1] for key in keys)
    return {key: end if ends[end := key.rsplit(".", 1)[-1]] == 1 else key for key in keys}


def spread_out(count: int, most: int) -> list[int]:
    """So many places at most of a sequence, the first and the last among them, evenly."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def thinned(shown_: int, total: int, what: str) -> str:
    """A sentence where not all is drawn; empty otherwise."""
    return "" if shown_ >= total else f"{shown_:,} of {counted(total, what)} are drawn."


def sentences(*texts: str) -> str:
    """Texts as one, without the empty ones."""
    return " ".join(text for text in texts if text)


def _verdict(trial: TrialRecord) -> str:
    return trial.difference.verdict if trial.difference else ""
