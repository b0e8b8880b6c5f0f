"""The tables of a study's page, as texts."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from lowrung.costs import units
from lowrung.report import facts, leaderboard, rows
from lowrung.report.record import RunRecord, StudyRecord, TrialRecord
from lowrung.report.tables import counted, number
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Status

SHOWN = 200
"""Rows of a table; the others are in leaderboard.csv."""

COMPARED = 3
"""Trials whose answers are set side by side: as many as a page is wide."""

PROMPT = 400
"""Characters of a prompt that are shown: its end."""

_GATE = {
    "merge/max_abs_logit_diff": "max |Δlogit|",
    "merge/mean_kl": "mean KL",
    "merge/top1_agreement": "same top token",
    "merge/greedy_agreement": "same answer",
    "merge/eval_loss_delta": "Δ eval loss",
    "merge/float16/max_abs_logit_diff": "float16 max |Δlogit|",
    "forget/loss_delta": "forgetting",
}


NO_ANSWERS = "No run kept answers: they are those of the gate, which asks adapters (verify=default)."


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: the section's.
        about: what it says, and what is left out.
        head: the columns' titles.
        cells: as many texts a row.
        marked: the row of the trial to take; None where there is none.
    """

    title: str
    about: str
    head: Sequence[str]
    cells: Sequence[Sequence[str]]
    marked: int | None = None

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        """The rows that there is room for."""
        return self.cells[:SHOWN]

    @property
    def left_out(self) -> int:
        """How many there is no room for."""
        return max(0, len(self.cells) - SHOWN)


def _without_empty(title: str, about: str, head: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """A table without the columns that no row has anything in."""
    kept = [place for place in range(len(head)) if any(row[place] for row in cells)]
    return Table(title, about, [head[place] for place in kept], [[row[place] for place in kept] for row in cells])


def of(study: StudyRecord) -> dict[str, Table]:
    """The tables, by name; one without rows says in its `Table.about` that there is nothing."""
    return {
        "leaderboard": _leaderboard(study),
        "gate": _gate(study),
        "answers": _answers(study),
        "pruned": _pruned(study),
        "failed": _failed(study),
        "facts": _facts(study),
        "done": _done(study),
        "provenance": Table("Provenance", "", ["", ""], [list(pair) for pair in study.provenance.items()]),
    }


def _leaderboard(study: StudyRecord) -> Table:
    against = {trial.number: trial.against for trial in study.trials if trial.against}
    ended = rows.of(study.trials, study.over_seeds)
    head, cells = leaderboard.columns(ended, study.objectives, against)
    numbers = [row[1] for row in cells]
    marked = numbers.index(str(study.preferred)) if str(study.preferred) in numbers else None
    about = "Best first." if any(row[0] == "2" for row in cells) else ""
    if against:
        about += " A difference from the best is paired by held-out example, with its 95% interval."
    return Table("Leaderboard", about if cells else "No trial has ended.", head, cells, marked)


def _gate(study: StudyRecord) -> Table:
    """A row for each run that the gate has checked."""
    checked = [(trial, run) for trial in study.trials for run in trial.runs if "merge/passed" in run.metrics]
    names = [name for name in _GATE if any(name in run.metrics for _, run in checked)]
    cells = [
        [
            *_named(study, trial, run),
            "passed" if run.metrics["merge/passed"] == 1 else "FAILED",
            *(number(run.metrics[name]) if name in run.metrics else "" for name in names),
            "; ".join(map(str, run.facts.get("gate_failures") or ())),
        ]
        for trial, run in checked
    ]
    head = ["trial", *(["seed"] if study.seeds > 1 else []), "gate", *(_GATE[name] for name in names), "why"]
    about = "What the merged model computes beside its adapter, in each run that was checked."
    return _without_empty("The gate", about if cells else "No run was checked.", head, cells)


def _named(study: StudyRecord, trial: TrialRecord, run: RunRecord) -> list[str]:
    return [str(trial.number), *([str(run.seed)] if study.seeds > 1 else [])]


def _pruned(study: StudyRecord) -> Table:
    metric = next(iter(study.objectives))
    cells = [
        [
            str(trial.number),
            leaderboard.name(trial.point),
            number(trial.metrics["stopped/step"]) if "stopped/step" in trial.metrics else "",
            number(trial.metrics[metric]) if metric in trial.metrics else "",
            "" if (trial.cause or "").startswith("stopped at step") else trial.cause or "",  # the column has it
        ]
        for trial in study.trials
        if trial.status is Status.PRUNED
    ]
    about = "Trials that were ended early, since others were better at the same point of training."
    head = ["trial", "settings", "step", f"{metric} then", "why"]
    return _without_empty("Pruned", about if cells else "No trial was pruned.", head, cells)


def _failed(study: StudyRecord) -> Table:
    bad = [trial for trial in study.trials if trial.status not in (None, Status.COMPLETE, Status.PRUNED)]
    cells = [
        [
            str(trial.number),
            leaderboard.name(trial.point),
            str(trial.status),
            trial.cause or "",
            ", ".join(str(RunFolder(run.folder).log) for run in trial.runs if run.folder),
        ]
        for trial in bad
    ]
    about = "The cause as the run gave it, and what its process printed."
    head = ["trial", "settings", "", "why", "log"]
    return Table("Failed", about if cells else "No trial failed.", head, cells)


def _facts(study: StudyRecord) -> Table:
    runs = facts.of(study)
    head, cells = facts.columns(study, runs)
    return _without_empty("Plan and facts", facts.about(study, runs), head, cells)


def _done(study: StudyRecord) -> Table:
    counts = Counter("not ended" if trial.status is None else str(trial.status) for trial in study.trials)
    if study.total is not None and study.total > len(study.trials):
        counts["not begun"] = study.total - len(study.trials)
    ended = sum(run.status not in (None, Status.CANCELLED) for trial in study.trials for run in trial.runs)
    own = [run for trial in study.trials for run in trial.runs if run.slot is not None]
    total = study.total
    cells = [
        ["trials", "not known" if total is None else str(total), _listed(counts)],
        ["runs", "not known" if total is None else str(total * study.seeds), f"{ended} ended"],
        ["runs trained for this study", "", str(len(own))],
        ["of these at one time, at most", "", str(max((run.slot or 0 for run in own), default=-1) + 1)],
        ["from the first start to the last end", "", _span(own)],
        [
            "all these runs together",
            "",
            units.measured(sum(run.measurements.get("time/total_seconds", 0) for run in own)),
        ],
    ]
    cells += [["constraint", bound, _kept(study, bound)] for bound in study.constraints]
    return Table("Asked for and done", "", ["", "asked for", "done"], cells)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"


def _kept(study: StudyRecord, bound: str) -> str:
    broken = sum(bound in trial.broken for trial in study.trials if trial.status is Status.COMPLETE)
    return f"broken by {counted(broken, 'trial')}"


def _span(runs: Sequence[RunRecord]) -> str:
    starts = [run.begun for run in runs if run.begun is not None]
    ends = [run.ended for run in runs if run.ended is not None]
    return units.measured(max(ends) - min(starts)) if starts and ends else "not known"


def _answers(study: StudyRecord) -> Table:
    """What the models of the trial to take and of the next ones answered in the gate, side by side."""
    chosen = [trial for trial in _chosen(study) if _samples(trial)]
    by_trial = [{one["prompt"]: one["answer"] for one in _samples(trial)} for trial in chosen]
    asked = _samples(chosen[0]) if chosen else []
    cells = [
        [_end_of(one["prompt"]), one["expected"], *(answers.get(one["prompt"], "") for answers in by_trial)]
        for one in asked
    ]
    about = "The first words that the models generate greedily after held-out prompts, beside the data's own."
    if not cells:
        about = NO_ANSWERS
    head = ["prompt", "in the data", *(f"trial {trial.number}" for trial in chosen)]
    return Table("Sample answers", about, head, cells)


def _samples(trial: TrialRecord) -> Sequence[Mapping[str, str]]:
    """Of the trial's first run; see `lowrung.finetune.gate.generated.samples`. What is none of these is not shown."""
    samples = trial.runs[0].facts.get("samples") if trial.runs else None
    return [one for one in samples if _is_sample(one)] if isinstance(samples, list) else []


def _is_sample(one: object) -> bool:
    names = ("prompt", "expected", "answer")
    return isinstance(one, Mapping) and all(isinstance(one.get(name), str) for name in names)


def _end_of(prompt: str) -> str:
    """The end of a long prompt, which is what is answered."""
    return prompt if len(prompt) <= PROMPT else f"… {prompt[-PROMPT:]}"


def _chosen(study: StudyRecord) -> list[TrialRecord]:
    """The trial to take, and the next ones, of those whose files are there."""
    kept = [
        trial for trial in study.trials if trial.status is Status.COMPLETE and any(run.folder for run in trial.runs)
    ]
    return sorted(kept, key=lambda trial: trial.number != study.preferred)[:COMPARED]


def comparison(study: StudyRecord) -> str:
    """The command that prints whole answers of the same trials, side by side; empty without two."""
    chosen = _chosen(study)
    if len(chosen) < 2:
        return ""
    names = [_address(study, trial) for trial in chosen]
    return shlex.join(["lowrung", "compare", *["--"] * names[0].startswith("-"), *names])


def _address(study: StudyRecord, trial: TrialRecord) -> str:
    """What commands find a trial's first run by, also in a study that was renamed, or has its jobs elsewhere."""
    run = trial.runs[0]
    job = JobFolder(study.folder / str(trial.number) / (f"seed_{run.seed}" if study.seeds > 1 else ""))
    if run.folder is not None and run.folder.is_dir() and job.run.resolve() != run.folder.resolve():
        return str(run.folder)
    return str(job.path.relative_to(study.folder.parent) if study.folder.parent.name == "multirun" else job.path)
