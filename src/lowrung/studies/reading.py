"""Reads a study, whatever state it is in: what is missing or broken is said, and everything else is there."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

from lowrung.errors import StoreError
from lowrung.report import leaderboard, rows
from lowrung.report.record import COMPLETE, EMPTY, INTERRUPTED, RUNNING, StudyRecord, TrialRecord
from lowrung.search import recorded
from lowrung.search.lease import BEAT_SECONDS, BEATS_MISSED
from lowrung.search.recorded import Recorded
from lowrung.store import addresses
from lowrung.store.layout import StudyFolder
from lowrung.studies import answer, axes, begun, ended, provenance
from lowrung.studies.doubts import Doubts
from lowrung.studies.folders import Folders
from lowrung.studies.settings import Asked


def read(folder: StudyFolder) -> StudyRecord:
    """Reads a study. Nothing is changed, and no lock is held.

    Args:
        folder: the study's; `lowrung.studies.finding` finds it by its name.
    """
    doubts = Doubts()
    asked, database = Asked.read(folder, doubts), None
    if (address := asked.storage(folder)) is not None:
        try:
            database = recorded.read(address, asked.name)
        except StoreError as error:
            doubts.add(str(error))
    asked = asked.with_facts(database.facts if database else {})
    folders, listed = Folders.of(folder), ended.rows(folder, doubts)
    is_running = database is not None and _is_running(database, address)
    if listed and not is_running and (database is None or _is_current(folder, database)):
        state, trials = COMPLETE, list(ended.trials(listed, asked.stages, folders, doubts))
    elif database is not None:
        trials = list(begun.trials(database, asked, folders, doubts))
        state = RUNNING if is_running else INTERRUPTED if trials else EMPTY
    else:
        trials = list(begun.of_folders(folder, folders, asked, doubts))
        state = INTERRUPTED if trials else EMPTY
        doubts.add("there is no database of the study, and no leaderboard: trials are what the jobs' folders hold")
    record = _record(folder, asked, database, trials, state, doubts)
    record = dataclasses.replace(record, importance=axes.importance(record))
    said = answer.said(folder, listed, doubts) if state == COMPLETE else None
    record = answer.with_verdict(record, said or answer.found(trials, asked, record.axes, record.over_seeds))
    return dataclasses.replace(record, doubts=doubts.sentences)


def _is_running(database: Recorded, address: str | None) -> bool:
    """Whether a coordinator has the study. One on another machine writes to the database every few seconds."""
    if database.is_alive is not None:
        return database.is_alive
    file = addresses.sqlite_path(address or "")
    try:
        return file is None or time.time() - file.stat().st_mtime < BEAT_SECONDS * BEATS_MISSED
    except OSError:
        return False


def _is_current(folder: StudyFolder, database: Recorded) -> bool:
    """Whether a leaderboard is the end of all that the database has: a study that went on has an older one."""
    if any(trial.state == recorded.RUNNING for trial in database.trials):
        return False
    written = folder.leaderboard.stat().st_mtime
    return all((trial.ended or 0.0) <= written for trial in database.trials)


def _record(
    folder: StudyFolder,
    asked: Asked,
    database: Recorded | None,
    trials: Sequence[TrialRecord],
    state: str,
    doubts: Doubts,
) -> StudyRecord:
    has_how = asked.seeds > 1 and asked.over_seeds != "mean"
    metrics = [*asked.objectives, *(constraint.metric for constraint in asked.constraints)]
    how = dict.fromkeys(metrics, asked.over_seeds) if has_how else {}
    points = [trial.point for trial in trials]
    began = {trial.number: trial.started for trial in (database.trials if database else ())}
    ranked = begun.with_slots(_ranked(trials, asked.objectives, how), began)
    return StudyRecord(
        asked.name,
        folder.path,
        asked.objectives,
        axes.searched(database.axes if database else (), points),
        ranked,
        state,
        asked.total,
        asked.seeds,
        how,
        [str(constraint) for constraint in asked.constraints],
        provenance=provenance.of(ranked, asked, database.facts.get("inputs") or {} if database else {}, doubts),
    )


def _ranked(trials: Sequence[TrialRecord], objectives: Mapping[str, str], how: Mapping[str, str]) -> list[TrialRecord]:
    """The trials as the leaderboard ranks them, and then those that have not ended."""
    of = {trial.number: trial for trial in trials}
    made = rows.of(trials, how)
    in_front = leaderboard.pareto_set(made, objectives)
    order = [row.number for row in leaderboard.ranked(made, objectives)]
    order += [trial.number for trial in trials if trial.status is None]
    return [dataclasses.replace(of[number], is_pareto=number in in_front) for number in order]
