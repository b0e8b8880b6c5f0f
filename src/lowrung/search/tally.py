"""How a study's trials stand, counted in its SQLite file without Optuna, whose import takes a second."""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

PATIENCE = 0.5
"""Seconds that a reading waits for a writer."""

_STATES = """
SELECT coalesce(a.value_json, '"' || lower(t.state) || '"'), count(*), max(t.datetime_complete)
FROM trials t LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'status'
WHERE t.study_id = ? AND t.number NOT IN (SELECT value FROM json_each(?)) GROUP BY 1
"""

_BY_VALUE = """
SELECT t.number, v.value, a.value_json
FROM trials t JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'stage'
WHERE t.study_id = ? AND t.state = 'COMPLETE' AND NOT EXISTS (
    SELECT 1 FROM trial_system_attributes s
    WHERE s.trial_id = t.trial_id AND s.key LIKE 'constraints:%' AND CAST(s.value_json AS REAL) > 0
)
AND t.number NOT IN (SELECT value FROM json_each(?))
ORDER BY v.value {order}, t.number
"""


@dataclasses.dataclass(frozen=True)
class Tally:
    """How a study's trials stand.

    Attributes:
        counts: of the trials, by status; those that have not ended are ``running``. What a stage left out is not here.
        metric: the first objective; None where the study does not say.
        best: the number of the best complete trial that keeps to all constraints, of the last stage that has one; None
            where there is none.
        value: its metric.
        last_end: of the trial that ended last, in seconds since 1970; None where none has.
        has_coordinator: whether a process has taken the study, and has not given it up.
        asked: trials that were asked for; None where the study does not say.
    """

    counts: Mapping[str, int]
    metric: str | None
    best: int | None
    value: float | None
    last_end: float | None
    has_coordinator: bool
    asked: int | None = None


def read(file: Path, name: str) -> Tally:
    """Counts a study's trials. Nothing is written, and no lock is taken.

    Args:
        file: the SQLite file.
        name: the study's; a file with one study alone may have it under another name, where its folder was renamed.

    Raises:
        ValueError: when the file is no study's database, or is being written to for long.
    """
    try:
        with contextlib.closing(_connection(file)) as connection:
            return _read(connection, name)
    except (sqlite3.Error, LookupError, TypeError) as error:
        raise ValueError(f"{file.name} cannot be read ({error})") from error


def _connection(file: Path) -> sqlite3.Connection:
    address = file.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=PATIENCE)
    try:
        connection.execute("SELECT 1 FROM studies")
    except sqlite3.OperationalError:
        connection.close()
        if file.with_name(f"{file.name}-wal").exists():  # not all is in the file
            raise
        # In a folder that cannot be written to, SQLite cannot make the files beside it that others would wait at.
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    return connection


def _read(connection: sqlite3.Connection, name: str) -> Tally:
    studies = dict(connection.execute("SELECT study_name, study_id FROM studies"))
    study = studies[name] if name in studies or len(studies) != 1 else next(iter(studies.values()))
    stages = _Stages.of(connection, study)
    rows = connection.execute(_STATES, (study, stages.left_out)).fetchall()
    counts = {str(json.loads(status)): int(count) for status, count, _ in rows}
    counts = {{"fail": "failed"}.get(status, status): count for status, count in counts.items()}
    clocks = _fact(connection, "user", study, "utc_offset") or {}
    zone = timezone(timedelta(seconds=list(clocks.values())[-1])) if clocks else None  # else this machine's
    ends = [datetime.fromisoformat(end).replace(tzinfo=zone).timestamp() for _, _, end in rows if end]
    directions = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
    (direction, *_), *_ = connection.execute(directions, (study,)).fetchall()
    order = "ASC" if direction == "MINIMIZE" else "DESC"
    by_value = connection.execute(_BY_VALUE.format(order=order), (study, stages.left_out))
    best, value = stages.first(by_value) or (None, None)
    purpose = _fact(connection, "user", study, "purpose") or {}
    coordinator = _fact(connection, "system", study, "lowrung:coordinator")
    planned = _fact(connection, "user", study, "planned") or {}  # see lowrung.search.study
    metric = next(iter(purpose.get("objectives", {})), None)
    last = max(ends, default=None)
    return Tally(counts, metric, best, value, last, coordinator is not None, planned.get("trials"))


@dataclasses.dataclass(frozen=True)
class _Stages:
    """The stages of a study.

    Attributes:
        names: in order; none where the study has no stages.
        shared: by stage, the trials of earlier ones that count for it too.
        left_out: the trials that the last start left out, as a JSON list.
    """

    names: Sequence[str]
    shared: Mapping[str, Sequence[int]]
    left_out: str

    @classmethod
    def of(cls, connection: sqlite3.Connection, study: int) -> "_Stages":
        purpose = _fact(connection, "user", study, "purpose") or {}
        taken = _fact(connection, "user", study, "taken_over") or {}  # see lowrung.search.study
        names = [name.removeprefix("stage ") for name in purpose.get("stages") or ()]
        left_out = json.dumps([number for one in taken.values() for number in one["left_out"]])
        return cls(names, {name: one["shared"] for name, one in taken.items()}, left_out)

    def first(self, by_value: Iterable[tuple[int, float, str | None]]) -> tuple[int, float] | None:
        """The first trial of the last stage that has one, of trials that are sorted by their values."""
        best = max(by_value, key=lambda trial: self._place(trial[0], trial[2]), default=None)  # of equals the first
        return None if best is None else best[:2]

    def _place(self, number: int, stage: str | None) -> int:
        counted = [name for name, numbers in self.shared.items() if number in numbers]
        own = json.loads(stage) if stage else ""
        return max((self.names.index(name) for name in (own, *counted) if name in self.names), default=0)


def _fact(connection: sqlite3.Connection, whose: str, study: int, key: str) -> Any:
    query = f"SELECT value_json FROM study_{whose}_attributes WHERE study_id = ? AND key = ?"  # noqa: S608  (constants)
    found = connection.execute(query, (study, key)).fetchone()
    return json.loads(found[0]) if found else None
