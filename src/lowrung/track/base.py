"""What lowrung asks of a tracker, and one that records nothing.

There are two levels of runs only: a sweep is a parent, each of its trials a child. A single run has no parent.
"""

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from lowrung.errors import LowrungError
from lowrung.finetune.data.split import Split
from lowrung.store import addresses
from lowrung.store.outcome import Status
from lowrung.track.pages import View

URI, EXPERIMENT, EXPERIMENT_ID = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
"""MLflow's environment variables, which count where ``track.uri`` and ``track.experiment`` are null."""

_SERVERS = ("http", "https")
_KINDS = ("sqlite", "postgresql", "mysql", "mssql", *_SERVERS, "databricks")
"""What an address of MLflow's may begin with, beside what its plugins add; each may be followed by a driver."""


class TrackError(LowrungError):
    """A tracker refused a record, or could not be reached."""


class TrackerLostError(TrackError):
    """A tracker could not be reached: its server or its database is away, and the next record would fare no better."""


def chosen_uri(uri: str | None) -> str:
    """The address that ``track.uri`` stands for; where it is null, that of the environment, else ``mlflow.db``."""
    return uri or os.environ.get(URI) or "sqlite:///mlflow.db"


def chosen_experiment(name: str | None) -> str:
    """The experiment that ``track.experiment`` stands for; where it is null, that of the environment, else lowrung."""
    return name or os.environ.get(EXPERIMENT) or "lowrung"


def store_uri(uri: str | None, folder: Path) -> str:
    """The address to open, the same from every working folder.

    Args:
        uri: what ``track.uri`` says; see `chosen_uri`.
        folder: what a relative SQLite path is relative to.
    """
    return addresses.absolute(chosen_uri(uri), folder)


def named_by(uri: str) -> str:
    """What gave an address, for messages: the environment variable, or the setting."""
    given = os.environ.get(URI)
    return URI if given and uri in (given, addresses.absolute(given, Path.cwd())) else "track.uri"


def check_uri(uri: str) -> list[str]:
    """What is wrong with a store's address, one sentence or two each. A password is never repeated.

    Nothing is opened: whether the store exists and answers is found out later.
    """
    name = named_by(uri)
    if addresses.sqlite_path(uri):
        return [f"{name} must be a path without '?', but is {uri!r}. Name another file."] if "?" in uri else []
    scheme, _, rest = uri.partition("://")
    if not rest or scheme == "file":
        return [
            f"{name} must be a database or a server (sqlite:///mlflow.db, postgresql://..., http://...), "
            "but it is a folder or names nothing. Write sqlite:/// and the path of a file, relative or absolute."
        ]
    if addresses.holds_a_password(uri):
        return [
            f"{name} must hold no password, but this {scheme} address does, and addresses are written to disk. "
            "Take it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a server) or PGPASSWORD "
            "(PostgreSQL) in the environment."
        ]
    return _unknown_kind(name, scheme) or _no_place(name, uri, scheme)


def _unknown_kind(name: str, scheme: str) -> list[str]:
    kind = scheme.lower().partition("+")[0]
    if kind in _KINDS or importlib.metadata.entry_points(group="mlflow.tracking_store", name=scheme):
        return []
    return [
        f"{name} must be a database or a server that MLflow knows ({', '.join(f'{known}://' for known in _KINDS)}), "
        f"but begins with {scheme}://. Correct it, or leave it out: then it is a file, mlflow.db."
    ]


def _no_place(name: str, uri: str, scheme: str) -> list[str]:
    """What is wrong with an address whose beginning is known, and which no file or server can have."""
    kind = scheme.lower().partition("+")[0]
    if kind == "sqlite":
        return [f"{name} must name SQLite's file as in sqlite:///mlflow.db, with three slashes, but is {uri!r}."]
    try:
        has_place = kind not in _SERVERS or (urlsplit(uri).hostname and urlsplit(uri).port != 0)
    except ValueError:  # a port that is no number, or brackets that do not close
        has_place = False
    if has_place:
        return []
    return [f"{name} must name a host and a port, as in {scheme}://127.0.0.1:5000, but is {uri!r}. Correct it."]


@dataclasses.dataclass(frozen=True)
class Point:
    """One moment of a run's history.

    Attributes:
        step: optimiser steps done.
        time: Unix time in seconds.
        metrics: values by MLflow name.
        seconds: of the run, all its parts together; None where only the time is known.
    """

    step: int
    time: float
    metrics: Mapping[str, float]
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Child:
    """A sweep's run as a tracker has it.

    Attributes:
        run: its id.
        status: how it ended; None while it is open.
        signature: of its result; None where not all of it was recorded.
    """

    run: str
    status: Status | None
    signature: str | None

    def holds(self, status: Status, signature: str) -> bool:
        """Whether it holds all of this result: the signature is among what is recorded last."""
        return (self.status, self.signature) == (status, signature)


class Tracker(Protocol):
    """Records runs. Every call names its run, so that several processes can write side by side.

    A call that names an unknown run raises `TrackError`.
    """

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> str:
        """Opens a run and returns its id; ``parent`` is the id of the sweep's run.

        A run with a ``key`` is opened once: a second call with the same key returns the same id. So a coordinator that
        was killed before it wrote the id down can ask again.
        """

    def find(self, key: str) -> str | None:
        """The id of the run with this key, or None where there is none."""

    def children(self, run: str) -> Mapping[str, Child]:
        """The runs of a sweep's run, by their keys."""

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Adds moments to the run's history.

        A metric has one value a step, and the first stays: a resumed run may log its steps again. Whatever is not
        finite is kept as NaN, which plots leave out. The metric that a run logs first is the one that plots open on.
        """

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """Adds parameters to the run.

        Raises:
            TrackError: when a known name would get another value.
        """

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Sets tags on the run."""

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """Names the data that the run used."""

    def log_artifact(self, run: str, path: Path) -> None:
        """Keeps a copy of a file, or of a folder under its own name, with the run."""

    def end_run(self, run: str, status: Status) -> None:
        """Closes the run. A closed run can still be written to, and closed anew: a sweep may be extended."""

    def present(self, run: str, view: View) -> str | None:
        """Gives a sweep's run a page of its own.

        Returns:
            the part of the page's address after the server's own; None where there is no such page.
        """


@dataclasses.dataclass(frozen=True)
class Opening:
    """How a tracker's run begins.

    Attributes:
        name: the run's.
        key: names it for good; see `Tracker.start_run`. That of a sweep's run begins with the sweep's id.
        params: parameters by name.
        tags: tags by name.
        parent: the id of the sweep's run; None of a sweep and of a single run.
    """

    name: str
    key: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    parent: str | None = None

    def open(self, tracker: Tracker) -> str:
        """Opens the run, unless the tracker has it; returns its id."""
        return tracker.start_run(self.name, parent=self.parent, params=self.params, tags=self.tags, key=self.key)

    def of(self, sweep: str) -> "Opening":
        """The same, as a part of the sweep with this id."""
        return dataclasses.replace(self, parent=sweep, key=f"{sweep}/{self.key}")


class NullTracker:
    """Records nothing: ``track=none``."""

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
        return ""

    def find(self, key: str) -> str | None:
        """See `Tracker`."""
        return None

    def children(self, run: str) -> Mapping[str, Child]:
        """See `Tracker`."""
        return {}

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """See `Tracker`."""

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""

    def present(self, run: str, view: View) -> str | None:
        """See `Tracker`."""
        return None
