"""A study's plan beside its facts: what each run was predicted to take before it began, and what it took."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from lowrung.costs import facts, units
from lowrung.costs.facts import MEMORY, SECONDS, TRAINABLE, Compared
from lowrung.report import leaderboard
from lowrung.report.record import RunRecord, StudyRecord, TrialRecord
from lowrung.report.tables import table
from lowrung.store.outcome import Status

QUANTITIES = {MEMORY: "memory", SECONDS: "time", TRAINABLE: "trainable parameters"}
"""In words, by the names of `lowrung.costs.facts.MEASURED`."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run that has ended, and was predicted.

    Attributes:
        trial: its trial.
        run: the run.
        compared: what was predicted and measured, by the names of `QUANTITIES`.
    """

    trial: TrialRecord
    run: RunRecord
    compared: Mapping[str, Compared]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How far what was measured of a quantity is from what was predicted.

    Attributes:
        quantity: ``memory``, ``time`` or ``trainable parameters``.
        runs: that are compared: complete ones, each trained in one go.
        median: of measured over predicted.
        least: of the same.
        most: of the same.
    """

    quantity: str
    runs: int
    median: float
    least: float
    most: float


def of(study: StudyRecord) -> list[RunFacts]:
    """The runs that were predicted, in the order of the trials; a run of several trials is there once."""
    found: dict[object, RunFacts] = {}
    for trial in study.trials:
        for run in trial.runs:
            compared = facts.of(run.status, {**run.metrics, **run.measurements}, run.facts)
            if compared and run.status is not None:
                found.setdefault(run.folder or (trial.number, run.seed), RunFacts(trial, run, compared))
    return list(found.values())


def ratios(runs: Sequence[RunFacts]) -> list[Ratio]:
    """How far the facts are from the plan, for each quantity that can be compared in any run."""
    found = []
    for name, words in QUANTITIES.items():
        each = [one.compared[name].ratio for one in runs if name in one.compared]
        values = [ratio for ratio in each if ratio is not None]
        if values:
            found.append(Ratio(words, len(values), statistics.median(values), min(values), max(values)))
    return found


def text(found: Sequence[Ratio]) -> str:
    """The same as a table for the terminal; empty where nothing was compared."""
    if not found:
        return ""
    cells = [[one.quantity, *map(_ratio, (one.median, one.least, one.most)), str(one.runs)] for one in found]
    head = ["measured over predicted", "median", "least", "most", "runs"]
    return f"plan and facts\n{table(head, cells, left=head[:1])}"


def about(study: StudyRecord, runs: Sequence[RunFacts]) -> str:
    """What `columns` shows, and what it does not."""
    if not runs:
        has_ended = any(run.status is not None for trial in study.trials for run in trial.runs)
        return "No run that has ended was predicted: older versions have no plan." if has_ended else "No run has ended."
    sentences = [
        "What was predicted of each run before it began → what it measured, and the ratio of measured to predicted."
        " Runs that ended early did a part of it, and those that were interrupted some of it twice: they have no ratio."
    ]
    if medians := ", ".join(f"{one.quantity} {_ratio(one.median)}" for one in ratios(runs)):
        sentences.append(f"Median ratios: {medians}.")
    guesses = dict.fromkeys(guess for one in runs for guess in _guesses(one.run))
    sentences += [f"Guessed: {'; '.join(guesses)}."] if guesses else []
    return " ".join(sentences)


def columns(study: StudyRecord, runs: Sequence[RunFacts]) -> tuple[list[str], list[list[str]]]:
    """A row for each run: its titles and cells."""
    seeds = ["seed"] if study.seeds > 1 else []
    head = ["trial", *seeds, "memory", "ratio", "time", "ratio", QUANTITIES[TRAINABLE], "settings", ""]
    return head, [_cells(one, bool(seeds)) for one in runs]


def _cells(one: RunFacts, has_seeds: bool) -> list[str]:
    return [
        str(one.trial.number),
        *([str(one.run.seed)] if has_seeds else []),
        *_compared(one, MEMORY, units.size),
        *_compared(one, SECONDS, units.measured),
        _compared(one, TRAINABLE, "{:,.0f}".format)[0],
        leaderboard.name(one.trial.point),
        _part(one.run),
    ]


def _compared(one: RunFacts, name: str, shown: Callable[[float], str]) -> tuple[str, str]:
    """``2.32 GB → 2.48 GB``, and the ratio."""
    compared = one.compared.get(name)
    if compared is None:
        return "", ""
    is_more = name == MEMORY and one.run.status is Status.OOM  # it asked for more, and did not get it
    measured = "-" if compared.measured is None else f"{'over ' * is_more}{shown(compared.measured)}"
    return f"{shown(compared.predicted)} → {measured}", "" if compared.ratio is None else _ratio(compared.ratio)


def _part(run: RunRecord) -> str:
    """Why a run is not compared; empty where it is."""
    if facts.is_whole(run.status, run.facts):
        return ""
    if run.status is not Status.COMPLETE:
        return str(run.status)
    return "went on from a checkpoint" if run.facts.get("is_resumed") else "was begun anew"


def _guesses(run: RunRecord) -> Sequence[str]:
    plan = run.facts.get("plan")
    guesses = plan.get("guesses") if isinstance(plan, Mapping) else None
    return [str(guess) for guess in guesses] if isinstance(guesses, list) else []


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
