"""What is known of a study, for its report: read once, and shown as a table, a page, plots and CSV."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.store.outcome import Status

STATES = COMPLETE, PARTIAL, RUNNING, INTERRUPTED, EMPTY = "complete", "partial", "running", "interrupted", "empty"
"""The states of a study. It is partial when it has ended, and not all trials have been run that were asked for."""

ENDED = (COMPLETE, PARTIAL)
"""The states of a study that has its answer."""


def ended_state(trials: int, asked: int | None) -> str:
    """The state of a study that has ended with so many trials; ``asked`` is None where that is not known."""
    return PARTIAL if trials < (asked or 0) else COMPLETE


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """A key that the study searches.

    Attributes:
        key: such as ``lora.r``.
        values: of a list, in its order, as text; none of an interval.
        low: the lower end of an interval; None of a list.
        high: the upper end of an interval; None of a list.
        is_log: whether an interval is searched on a log scale, or the values of a list grow by factors.
    """

    key: str
    values: Sequence[str] = ()
    low: float | None = None
    high: float | None = None
    is_log: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class HistoryPoint:
    """What a run reported at a step.

    Attributes:
        step: optimiser steps taken.
        seconds: of the run: all its parts together, without the pauses between them.
        tokens: trained on so far; None where the report has none.
        metrics: losses and the like, by MLflow name.
    """

    step: int
    seconds: float
    tokens: float | None
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which a process worked on a run, and did not come to the run's end.

    Attributes:
        started: when it began, in seconds since 1970.
        ended: when it ended, likewise.
        slot: see `RunRecord.slot`.
    """

    started: float
    ended: float
    slot: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of a trial.

    Attributes:
        seed: what it was trained with.
        status: how it ended; None as long as it has not, and where that is not known.
        folder: its results; None where the folder is gone.
        cause: why it is not complete, in a line.
        metrics: exact results, by MLflow name.
        measurements: seconds, bytes and tokens per second, by MLflow name.
        facts: what else describes the result, but for the ranks by layer; see `lowrung.store.outcome.Outcome`.
        history: what it reported, in order. A long one is thinned: each evaluation, and every k-th other report.
        started: when its process began, in seconds since 1970; None where it is not known. Of a run that was
            interrupted, its last one.
        ended: when it ended, likewise.
        earlier: those before, of a run that was interrupted.
        slot: from 0, of those that ran at one time each has another; None of a run that the store had before its trial
            began, or whose times are not known.
    """

    seed: int
    status: Status | None
    folder: Path | None = None
    cause: str | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measurements: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[HistoryPoint] = ()
    started: float | None = None
    ended: float | None = None
    earlier: Sequence[Stretch] = ()
    slot: int | None = None

    @property
    def begun(self) -> float | None:
        """When the first of its processes began that ran in this study, in seconds since 1970."""
        moments = [self.started, *(each.started for each in self.earlier if each.slot is not None)]
        return min((moment for moment in moments if moment is not None), default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A trial's paired difference from the best one, of the first objective; all zero of the best itself.

    Attributes:
        mean: this trial's value minus the best one's.
        low: the lower end of its interval.
        high: the upper end.
        verdict: such as ``best``, ``tie`` or ``worse``.
    """

    mean: float
    low: float
    high: float
    verdict: str


@dataclasses.dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial.

    Attributes:
        number: the trial's.
        point: what was chosen, by key, as text.
        status: how it ended, over its seeds; None as long as it has not.
        runs: by seed.
        stage: the names of the stages that it counts for; empty where the sweep has none.
        stage_index: of the last one of them: the trials of the last stage rank first.
        cause: why it is not complete, in a line.
        metrics: over its seeds, by MLflow name.
        measurements: over its seeds, by MLflow name.
        is_reused: whether the store had all of its results.
        broken: the constraints that it does not keep to.
        is_pareto: whether no other trial is better in all objectives; False where there is one objective.
        against: where it stands against the best, as the leaderboard says it; empty where nothing can be said.
        difference: the same in numbers; None where it could not be compared.
    """

    number: int
    point: Mapping[str, str]
    status: Status | None
    runs: Sequence[RunRecord] = ()
    stage: str = ""
    stage_index: int = 0
    cause: str | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measurements: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_reused: bool = False
    broken: Sequence[str] = ()
    is_pareto: bool = False
    against: str = ""
    difference: Difference | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study.

    Attributes:
        name: the study's.
        folder: ``multirun/<study>``.
        objectives: metrics with ``minimize`` or ``maximize``; the first one ranks.
        axes: what was searched; a key with one value is none.
        trials: as the leaderboard ranks them, best first; then those that have not ended.
        state: `COMPLETE`, `PARTIAL`, `RUNNING`, `INTERRUPTED` or `EMPTY`.
        total: trials that were asked for, and those that were drawn in the places of trials that the plan leaves out;
            None where it is not known.
        seeds: runs that each trial was to have.
        over_seeds: metrics that are not the mean over a trial's seeds, each with ``median`` or ``worst``.
        constraints: bounds on metrics, in words.
        compared_by: the metric of which `TrialRecord.difference` is one: ``eval/loss`` for a perplexity; empty where
            nothing was compared.
        preferred: the number of the trial to take; None where there is none.
        verdict: what the leaderboard says, so far where the study has not ended: the first sentence is the answer.
        warnings: where the question is badly put.
        importance: of each axis for the first objective, as shares of 1; empty where too few trials say. See
            `lowrung.search.importance`.
        provenance: versions, commit, machine, base model and data, by name.
        doubts: what could not be read or shown, and why, in words.
    """

    name: str
    folder: Path
    objectives: Mapping[str, str]
    axes: Sequence[Axis]
    trials: Sequence[TrialRecord]
    state: str
    total: int | None = None
    seeds: int = 1
    over_seeds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    constraints: Sequence[str] = ()
    compared_by: str = ""
    preferred: int | None = None
    verdict: Sequence[str] = ()
    warnings: Sequence[str] = ()
    importance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubts: Sequence[str] = ()

    @property
    def is_over(self) -> bool:
        """Whether all trials have ended that were asked for."""
        return self.state == COMPLETE
