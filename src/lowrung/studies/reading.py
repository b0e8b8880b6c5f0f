"""Reads a study, whatever state it is in: what is missing or broken is said, and everything else is there."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from lowrung.errors import StoreError
from lowrung.report import leaderboard, rows
from lowrung.report.record import EMPTY, ENDED, INTERRUPTED, RUNNING, StudyRecord, TrialRecord, ended_state
from lowrung.search import recorded
from lowrung.search.lease import BEAT_SECONDS, BEATS_MISSED, Holder
from lowrung.search.recorded import Recorded
from lowrung.store import addresses
from lowrung.store.layout import StudyFolder
from lowrung.studies import answer, axes, begun, ended, provenance
from lowrung.studies.doubts import Doubts
from lowrung.studies.folders import Folders
from lowrung.studies.settings import Asked

WAIT_SECONDS = 2 * BEAT_SECONDS
"""How long a sign of life of a coordinator on another machine is waited for, where its last one is old."""

_SILENT_SECONDS = BEAT_SECONDS * BEATS_MISSED


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
    folders = Folders.of(folder)
    listed = ended.rows(folder, folders, doubts)
    is_running = database is not None and address is not None and _is_running(database, address, asked, doubts)
    if listed and not is_running and (database is None or _is_current(folder, database)):
        trials = list(ended.trials(listed, asked.stages, folders, doubts))
        state = ended_state(len(trials), asked.total)
        if address is None:
            doubts.add("there is no database of the study: what was searched is what its leaderboard's trials have")
    elif database is not None:
        trials = list(begun.trials(database, asked, folders, doubts))
        state = RUNNING if is_running else INTERRUPTED if trials else EMPTY
    else:
        trials = list(begun.of_folders(folder, folders, asked, doubts))
        state = INTERRUPTED if trials else EMPTY
        doubts.add("there is no database of the study, and no leaderboard: trials are what the jobs' folders hold")
    record = _record(folder, asked, database, trials, state, doubts)
    record = dataclasses.replace(record, importance=axes.importance(record))
    said = answer.said(folder, listed, doubts) if state in ENDED else None
    record = answer.with_verdict(record, said or answer.found(record, asked))
    return dataclasses.replace(record, doubts=doubts.sentences)


def _is_running(database: Recorded, address: str, asked: Asked, doubts: Doubts) -> bool:
    """Whether a coordinator has the study. One on another machine writes to the database every few seconds."""
    if database.is_alive is not None:
        return database.is_alive
    file = addresses.sqlite_path(address)
    if file is None:
        return _is_alive_elsewhere(database, address, asked, doubts)
    try:
        return time.time() - file.stat().st_mtime < _SILENT_SECONDS
    except OSError:
        return False


def _is_alive_elsewhere(database: Recorded, address: str, asked: Asked, doubts: Doubts) -> bool:
    """Whether the coordinator on another machine lives. Clocks differ, so one that seems to be gone is waited for."""
    try:
        holder = Holder.parse(database.coordinator)
    except (KeyError, TypeError, ValueError):  # of another version
        return True
    seen = holder.time or 0.0
    if abs(time.time() - seen) < _SILENT_SECONDS:
        return True
    time.sleep(WAIT_SECONDS)
    if recorded.coordinator(address, asked.name) != database.coordinator:
        return True
    when = datetime.fromtimestamp(seen, UTC).strftime("on %Y-%m-%d at %H:%M UTC, by its clock") if seen else "earlier"
    doubts.add(
        f"process {holder.pid} on {holder.host} had the study. Its last sign of life was {when}, and none came in"
        f" {WAIT_SECONDS:g} s, while one that lives gives one every {BEAT_SECONDS:g} s: it is taken to have ended. If"
        " so, the same command goes on with the study"
    )
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
    found = axes.searched(database.axes if database else (), points)
    inputs = database.facts.get("inputs") or {} if database else {}
    began = {trial.number: trial.started for trial in (database.trials if database else ())}
    ranked = begun.with_slots(_ranked(trials, asked.objectives, how), began)
    return StudyRecord(
        asked.name,
        folder.path,
        asked.objectives,
        found,
        ranked,
        state,
        asked.total,
        asked.seeds,
        how,
        [str(constraint) for constraint in asked.constraints],
        provenance=provenance.of(
            ranked, asked, inputs, doubts, is_drawn=database is None or any(axis.low is not None for axis in found)
        ),
    )


def _ranked(trials: Sequence[TrialRecord], objectives: Mapping[str, str], how: Mapping[str, str]) -> list[TrialRecord]:
    """The trials as the leaderboard ranks them, and then those that have not ended."""
    of = {trial.number: trial for trial in trials}
    made = rows.of(trials, how)
    in_front = leaderboard.pareto_set(made, objectives)
    order = [row.number for row in leaderboard.ranked(made, objectives)]
    order += [trial.number for trial in trials if trial.status is None]
    return [dataclasses.replace(of[number], is_pareto=number in in_front) for number in order]
