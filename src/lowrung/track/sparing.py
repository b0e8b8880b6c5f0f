"""Imports MLflow only for what its store lacks: a sweep of which all is tracked asks the SQLite file itself.

To import MLflow and to open its store takes 1.2 s of CPU time, a third of a sweep that is answered from the store.
"""

import contextlib
import filecmp
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from lowrung.finetune.data.split import Split
from lowrung.store.outcome import Status
from lowrung.track import pages
from lowrung.track.base import Child, Point, Tracker
from lowrung.track.pages import PARENT_TAG, View
from lowrung.track.tags import KEY_TAG, SIGNATURE_TAG, STATES, STATUS_TAG, short, short_params

_WORKSPACE = "MLFLOW_WORKSPACE"
_EXPERIMENT = (
    "SELECT experiment_id FROM experiments WHERE name = :name AND workspace = 'default' AND lifecycle_stage = 'active'"
)
_VIEW = "SELECT value FROM experiment_tags WHERE experiment_id = :experiment AND key = :key"
_RUN = (
    "SELECT status, artifact_uri FROM runs"
    " WHERE run_uuid = :run AND experiment_id = :experiment AND lifecycle_stage = 'active'"
)
_PARAMS = "SELECT key, value FROM params WHERE run_uuid = :run"
_TAGS = "SELECT key, value FROM tags WHERE run_uuid = :run"
_STEPS = "SELECT DISTINCT key, step FROM metrics WHERE run_uuid = :run"
_TAGGED = (
    "SELECT run_uuid, own.key, own.value"
    " FROM tags AS own JOIN tags AS given USING (run_uuid) JOIN runs USING (run_uuid)"
    " WHERE given.key = :key AND given.value = :value AND experiment_id = :experiment AND lifecycle_stage = 'active'"
)


class SparingTracker:
    """A `Tracker` that carries out what would change nothing by itself, and has MLflow's carry out all else.

    Each call reads MLflow's tables anew (as of 3.17). What they do not show to be there already (a run, an experiment
    or a file that was deleted, another value, other tables, a database that is locked) is MLflow's, and so are all
    calls from then on.

    Args:
        database: the SQLite file of MLflow's store.
        experiment: the experiment's name.
        connect: opens MLflow's tracker, and makes its store and the experiment where they are missing.
    """

    def __init__(self, database: Path, experiment: str, connect: Callable[[], Tracker]) -> None:
        self._address = f"file:{quote(str(database))}?mode=ro"
        self._connect = connect
        self._mlflow: Tracker | None = None
        self._experiment: int | None = None
        found = self._rows(_EXPERIMENT, name=experiment)
        if len(found) == 1 and not os.environ.get(_WORKSPACE):
            self._experiment = found[0][0]
        else:
            self._mlflow = connect()

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> str:
        """See `Tracker`."""
        found = list(self._tagged(KEY_TAG, key or ""))
        if len(found) == 1 and self._has(_PARAMS, found[0], short_params(params or {}).items()):
            return found[0]
        return self._opened.start_run(name, parent=parent, params=params, tags=tags, key=key)

    def find(self, key: str) -> str | None:
        """See `Tracker`."""
        found = list(self._tagged(KEY_TAG, key))
        return found[0] if len(found) == 1 else self._opened.find(key)

    def children(self, run: str) -> Mapping[str, Child]:
        """See `Tracker`."""
        if self._mlflow is not None:
            return self._mlflow.children(run)
        found = self._tagged(PARENT_TAG, run)
        return {tags[KEY_TAG]: _child(child, tags) for child, tags in found.items() if KEY_TAG in tags}

    def has_run(self, run: str) -> bool:
        """See `Tracker`."""
        return bool(self._rows(_RUN, run=run)) or self._opened.has_run(run)

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        if not self._has(_STEPS, run, {(name, point.step) for point in points for name in point.metrics}):
            self._opened.log(run, points)

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""
        if not self._has(_PARAMS, run, short_params(params).items()):
            self._opened.log_params(run, params)

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        if not self._has(_TAGS, run, short(tags).items()):
            self._opened.set_tags(run, tags)

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """See `Tracker`."""
        self._opened.log_datasets(run, datasets)

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""
        if not any(_is_there(path, artifacts) for _, artifacts in self._rows(_RUN, run=run)):
            self._opened.log_artifact(run, path)

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""
        states = [state for state, _ in self._rows(_RUN, run=run)]
        if states != [STATES[status]] or not self._has(_TAGS, run, {(STATUS_TAG, status.value)}):
            self._opened.end_run(run, status)

    def present(self, run: str, view: View) -> str | None:
        """See `Tracker`."""
        found = self._rows(_VIEW, key=f"{pages.VIEW_TAG}{pages.view_name(run)}")
        is_there = found == [(view.state(run),)]
        return pages.address(str(self._experiment), run) if is_there else self._opened.present(run, view)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _opened(self) -> Tracker:
        """MLflow's tracker, from its first use on."""
        if self._mlflow is None:
            self._mlflow = self._connect()
        return self._mlflow

    def _rows(self, query: str, **values: str) -> list[tuple[Any, ...]]:
        """What the database has; nothing where it cannot be read, and once MLflow is imported."""
        if self._mlflow is not None:
            return []
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._address, uri=True)) as read:
            return read.execute(query, {**values, "experiment": self._experiment}).fetchall()
        return []

    def _has(self, query: str, run: str, wanted: AbstractSet[tuple[str, Any]]) -> bool:
        """Whether a run is there with all of these, of which a query gives those that it has."""
        return bool(self._rows(_RUN, run=run)) and wanted <= set(self._rows(query, run=run))

    def _tagged(self, tag: str, value: str) -> Mapping[str, Mapping[str, str]]:
        """The runs with a tag, and all of their tags."""
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for run, key, text in self._rows(_TAGGED, key=tag, value=value):
            found[run][key] = text
        return found


def _child(run: str, tags: Mapping[str, str]) -> Child:
    status = Status(tags[STATUS_TAG]) if tags.get(STATUS_TAG) in set(Status) else None
    return Child(run, status, tags.get(SIGNATURE_TAG))


def _is_there(path: Path, artifacts: str) -> bool:
    """Whether a file lies among a run's artifacts as it is."""
    address = urlsplit(artifacts)
    kept = Path(url2pathname(address.path)) / path.name
    return address.scheme == "file" and path.is_file() and kept.is_file() and filecmp.cmp(path, kept, shallow=False)
