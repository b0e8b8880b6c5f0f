"""Sample answers side by side: what the gate's prompts were answered, where the runs kept it, and how to see more."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.report import leaderboard
from lowrung.report.record import StudyRecord, TrialRecord
from lowrung.store.outcome import Status

COMPARED = 4
"""So many trials stand side by side: the one to take, and the best others."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """A prompt with its answers.

    Attributes:
        prompt: as the model reads it.
        answers: who gave it, and its text: the data first, then the trials.
    """

    prompt: str
    answers: Sequence[tuple[str, str]]


def of(study: StudyRecord) -> list[Answered]:
    """The prompts that the runs kept answers to; none where they kept none, as older versions and ``verify=none``."""
    kept = [(trial, _samples(trial)) for trial in _compared(study)]
    kept = [(trial, samples) for trial, samples in kept if samples][:COMPARED]
    prompts: dict[str, list[tuple[str, str]]] = {}
    for trial, samples in kept:
        name = leaderboard.name(trial.point)
        who = f"trial {trial.number}" + (f" ({name})" if name else "")
        for sample in samples:
            answers = prompts.setdefault(sample["prompt"], [("the data", sample["expected"])])
            answers.append((who, sample["answer"]))
    return [Answered(prompt, answers) for prompt, answers in prompts.items()]


def command(study: StudyRecord) -> str:
    """What prints answers of the trial to take and of the next ones, side by side; empty without two."""
    chosen = [trial for trial in _compared(study) if any(run.folder for run in trial.runs)][:3]
    if len(chosen) < 2:
        return ""
    seeds = {trial.number: f"/seed_{trial.runs[0].seed}" if study.seeds > 1 else "" for trial in chosen}
    return "lowrung compare " + " ".join(f"{study.name}/{trial.number}{seeds[trial.number]}" for trial in chosen)


def _compared(study: StudyRecord) -> list[TrialRecord]:
    """The complete trials, the one to take first."""
    complete = [trial for trial in study.trials if trial.status is Status.COMPLETE]
    return sorted(complete, key=lambda trial: trial.number != study.preferred)


def _samples(trial: TrialRecord) -> list[Mapping[str, str]]:
    """What the trial's first run kept, as far as it is what this version knows."""
    found: Any = trial.runs[0].facts.get("samples") if trial.runs else None
    names = ("prompt", "expected", "answer")
    return [
        {name: str(one[name]) for name in names}
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict) and all(name in one for name in names)
    ]
