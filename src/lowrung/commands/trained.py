"""What `lowrung train --json` says of a run or a sweep that has ended."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.report.planned import PlannedSweep

if TYPE_CHECKING:
    from lowrung.report.leaderboard import TrialRow
    from lowrung.runs.single import SingleRun
    from lowrung.store.outcome import Outcome
    from lowrung.sweeps.results import Results

GATE = {None: "not run", True: "passed", False: "failed"}
"""How the merged-vs-adapter gate ended, in a word."""


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A single run that has ended.

    Attributes:
        status: how it ended.
        cause: for anything but ``complete``, why; null where it is complete.
        folder: its results.
        model: the folder of the trained adapter, or of the model where all weights were trained; null where the run
            left none.
        gate: ``passed``, ``failed`` or ``not run``.
        gate_failures: the rules of the gate that were broken, in words.
        is_reused: whether the store had its result before.
        metrics: exact results, by MLflow name.
        measurements: what varies with the machine, by MLflow name.
    """

    status: str
    cause: str | None
    folder: Path
    model: Path | None
    gate: str
    gate_failures: Sequence[str]
    is_reused: bool
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]

    @classmethod
    def of(cls, single: "SingleRun") -> "TrainedRun":
        """A run as `lowrung.runs.single.run` gives it."""
        outcome, folder = single.outcome, single.folder
        return cls(
            outcome.status,
            outcome.cause,
            folder.path,
            next((path for path in (folder.model, folder.adapter) if path.is_dir()), None),
            GATE[outcome.passed_gate],
            outcome.gate_failures,
            single.is_reused,
            outcome.metrics,
            outcome.measurements,
        )


@dataclasses.dataclass(frozen=True)
class Seed:
    """One run of a trial.

    Attributes:
        seed: what it was trained with.
        status: how it ended.
        cause: for anything but ``complete``, why.
        metrics: exact results, by MLflow name.
        folder: its results.
    """

    seed: int
    status: str
    cause: str | None
    metrics: Mapping[str, float]
    folder: Path


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: the trial's.
        stage: the names of the stages that it counts for; empty where the sweep has none.
        point: what was chosen, by key, as text.
        status: how it ended, over its seeds.
        cause: for anything but ``complete``, why.
        gate: ``passed``, ``failed`` or ``not run``.
        gate_failures: the rules of the gate that were broken, in words.
        is_reused: whether the store had all its results before.
        broken: the constraints that it does not keep to.
        metrics: exact results over its seeds, by MLflow name.
        measurements: what varies with the machine, by MLflow name.
        against_best: ``best``, ``tie``, ``worse``, ``better``, or ``unknown`` where it could not be compared; null
            where it takes no part, as a pruned one.
        difference: from the best trial, in what the verdict compares by; null where there is none.
        half_width: of the interval around it.
        runs: one for each seed.
    """

    number: int
    stage: str
    point: Mapping[str, str]
    status: str
    cause: str | None
    gate: str
    gate_failures: Sequence[str]
    is_reused: bool
    broken: Sequence[str]
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]
    against_best: str | None
    difference: float | None
    half_width: float | None
    runs: Sequence[Seed]

    @classmethod
    def of(cls, row: "TrialRow", standing: Any) -> "Trial":
        """A row of the leaderboard, and where it stands; None where it takes no part."""
        outcome: Outcome = row.outcome
        runs = [
            Seed(run.seed, run.outcome.status, run.outcome.cause, run.outcome.metrics, Path(run.folder))
            for run in row.seeds
        ]
        return cls(
            row.number,
            row.stage,
            row.point,
            outcome.status,
            outcome.cause,
            GATE[outcome.passed_gate],
            outcome.gate_failures,
            row.is_reused,
            row.broken,
            outcome.metrics,
            outcome.measurements,
            standing and standing.place,
            standing and standing.difference,
            standing and standing.half_width,
            runs,
        )


@dataclasses.dataclass(frozen=True)
class TrainedSweep:
    """A sweep that has ended.

    Attributes:
        study: its name.
        folder: the study's.
        objectives: metrics with ``minimize`` or ``maximize``; the first one ranks.
        is_dry_run: whether nothing was to be started.
        plan: of a dry run, what would be run and what that would take; else null.
        asked: how many trials it has at most.
        counts: how many trials have ended, by status.
        best: the number of the best complete trial that keeps to all constraints; null where there is none.
        preferred: the number of the trial to take: the cheapest of those that tie with the best; null likewise.
        verdict: the answer, and what it rests on, a sentence each.
        warnings: where the question is badly put.
        trials: best first; then those that break a constraint, then those that are not complete.
    """

    study: str
    folder: Path
    objectives: Mapping[str, str]
    is_dry_run: bool
    plan: PlannedSweep | None
    asked: int
    counts: Mapping[str, int]
    best: int | None
    preferred: int | None
    verdict: Sequence[str]
    warnings: Sequence[str]
    trials: Sequence[Trial]

    @classmethod
    def of(cls, results: "Results") -> "TrainedSweep":
        """A sweep as its coordinator reports it."""
        rows, verdict = results.trials, results.answer.verdict
        return cls(
            results.study,
            results.folder.path,
            results.objectives,
            results.is_dry_run,
            results.planned,
            results.total,
            Counter(str(row.outcome.status) for row in rows),
            None if results.best is None else results.best.number,
            verdict.preferred,
            verdict.sentences,
            verdict.warnings,
            [Trial.of(row, verdict.standings.of.get(row.number)) for row in rows],
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What was trained.

    Attributes:
        run: without ``-m``; null of a sweep.
        sweep: with ``-m``; null of a single run.
    """

    run: TrainedRun | None = None
    sweep: TrainedSweep | None = None

    @classmethod
    def of(cls, ended: "SingleRun | Results") -> "Trained":
        """Whichever it is."""
        from lowrung.runs.single import SingleRun

        if isinstance(ended, SingleRun):
            return cls(run=TrainedRun.of(ended))
        return cls(sweep=TrainedSweep.of(ended))
