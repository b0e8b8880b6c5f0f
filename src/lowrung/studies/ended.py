"""The trials of a study that has ended, from its leaderboard.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.report.record import RunRecord, TrialRecord
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Status
from lowrung.studies import runs
from lowrung.studies.doubts import Doubts
from lowrung.studies.folders import Folders
from lowrung.version import __version__


def rows(folder: StudyFolder, folders: Folders, doubts: Doubts) -> list[dict[str, Any]]:
    """The rows of the leaderboard; none where there is none that can be read."""
    try:
        found = json.loads(folder.leaderboard.read_bytes())
        {Status(row["status"]) for row in found}, {int(row["trial"]) for row in found}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        doubts.add(f"{folder.leaderboard.name} is none that lowrung {__version__} knows: trials are read one by one")
        return []
    if folders.contradict(found):
        doubts.add(f"{folder.leaderboard.name} names other runs than this study's: trials are read one by one")
        return []
    return list(found)


def trials(
    rows: Sequence[Mapping[str, Any]], stages: Sequence[str], folders: Folders, doubts: Doubts
) -> Iterator[TrialRecord]:
    """The trials of these rows.

    Args:
        rows: the leaderboard's.
        stages: the sweep's, by name.
        folders: where the runs are.
        doubts: takes what cannot be read.
    """
    count = sum(len(row.get("runs") or ()) for row in rows)
    points = runs.POINTS // max(1, count)
    for row in rows:
        number, stage = int(row["trial"]), str(row.get("stage") or "")
        yield TrialRecord(
            number,
            {str(key): str(text) for key, text in (row.get("point") or {}).items()},
            Status(row["status"]),
            [_run(run, number, folders, doubts, points) for run in row.get("runs") or ()],
            stage,
            stage_index(stage, stages),
            row.get("cause"),
            runs.numbers(row.get("metrics")),
            runs.numbers(row.get("measurements")),
            bool(row.get("reused")),
            [str(bound) for bound in row.get("broken") or ()],
        )


def stage_index(stage: str, stages: Sequence[str]) -> int:
    """The place of the last of the stages that a trial counts for, among the sweep's."""
    last = stage.rpartition(", ")[2]
    return stages.index(last) if last in stages else 0


def _run(row: Mapping[str, Any], trial: int, folders: Folders, doubts: Doubts, points: int) -> RunRecord:
    """A run with what the leaderboard says of it, which is what the sweep found, and else what its folder has."""
    recorded = str(row.get("results") or "")
    found = runs.read(
        int(row["seed"]), folders.run(Path(recorded).name, recorded), trial, doubts, points=max(50, points)
    )
    said = runs.numbers(row.get("metrics"))
    is_whole = found.folder is None or RunFolder(found.folder).outcome.is_file()
    if not is_whole and row.get("status") == Status.COMPLETE:
        doubts.add("a run's outcome.json is gone: what it measured by itself is not shown", trial)
    if found.status is not None and any(found.metrics.get(name) != value for name, value in said.items()):
        doubts.add(
            "a run's outcome.json has other metrics now than when the study ended; the leaderboard's hold", trial
        )
    status = Status(row["status"]) if row.get("status") in list(Status) else found.status
    return runs.with_result(found, status, said or found.metrics)
