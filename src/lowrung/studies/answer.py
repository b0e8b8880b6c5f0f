"""What a study's leaderboard says: its verdict.json, or the verdict on the trials that have ended so far."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.comparison.standings import Place, Standing
from lowrung.report import rows, sentences
from lowrung.report.record import Difference, StudyRecord, TrialRecord
from lowrung.store.layout import StudyFolder
from lowrung.studies.doubts import Doubts
from lowrung.studies.settings import Asked

Said = Mapping[str, Any]
"""As `lowrung.report.verdict.Verdict.record` has it."""


def said(folder: StudyFolder, listed: Sequence[Mapping[str, Any]], doubts: Doubts) -> Said | None:
    """What the sweep said at its end; None where that cannot be read, or is not what its leaderboard has.

    Args:
        folder: the study's.
        listed: the leaderboard's rows.
        doubts: takes what is wrong with it.
    """
    try:
        found = json.loads(folder.verdict.read_bytes())
        standings = dict(found["trials"])
        [found[name] for name in ("sentences", "warnings", "preferred")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        doubts.add(f"{folder.verdict.name} cannot be read: the verdict is worked out anew")
        return None
    if standings != {str(row["trial"]): row["against_best"] for row in listed if row.get("against_best")}:
        doubts.add(f"{folder.verdict.name} is on other trials: the verdict is worked out anew")
        return None
    return dict(found)


def found(study: StudyRecord, asked: Asked) -> Said:
    """The verdict on the trials that have ended."""
    from lowrung.report import verdict  # imports scipy (0.3 s)

    intervals = {axis.key: (axis.low, axis.high, axis.is_log) for axis in study.axes if axis.low is not None}
    made = verdict.make(
        rows.of(study.trials, study.over_seeds),
        asked.objectives,
        prefer=asked.prefer,
        smallest=asked.difference,
        intervals={key: (low, high, is_log) for key, (low, high, is_log) in intervals.items() if high is not None},
        is_over=study.is_over,
    )
    return made.record


def with_verdict(study: StudyRecord, verdict: Said) -> StudyRecord:
    """The study with what its leaderboard says."""
    standings = {int(number): standing for number, standing in verdict["trials"].items()}
    return dataclasses.replace(
        study,
        trials=[_judged(trial, standings.get(trial.number), len(standings)) for trial in study.trials],
        verdict=[str(text) for text in verdict["sentences"]],
        warnings=[str(text) for text in verdict["warnings"]],
        preferred=verdict["preferred"],
        compared_by=str(verdict.get("compared_by") or verdict.get("metric") or ""),
    )


def _judged(trial: TrialRecord, standing: Mapping[str, Any] | None, judged: int) -> TrialRecord:
    if standing is None or standing.get("place") not in list(Place):
        return trial
    place, value, half = Place(standing["place"]), standing.get("difference"), standing.get("half_width")
    difference = Difference(0.0, 0.0, 0.0, place) if place is Place.BEST else None
    if place is not Place.BEST and value is not None:
        half = half or 0.0
        difference = Difference(value, value - half, value + half, place)
    text = sentences.cell(Standing(place, value, half)) if judged > 1 else ""
    return dataclasses.replace(trial, against=text, difference=difference)
