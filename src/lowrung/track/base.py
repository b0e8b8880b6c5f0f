"""What lowrung asks of a tracker, and one that records nothing.

There are two levels of runs only: a sweep is a parent, each of its trials a child. A single run has no parent.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lowrung.errors import LowrungError
from lowrung.finetune.data.split import Split
from lowrung.store import addresses
from lowrung.store.outcome import Status

URI, EXPERIMENT, EXPERIMENT_ID = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
"""MLflow's environment variables, which count where ``track.uri`` and ``track.experiment`` are null."""


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
        return []
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
    return []


@dataclasses.dataclass(frozen=True)
class Point:
    """One moment of a run's history.

    Attributes:
        step: optimiser steps done.
        time: Unix time in seconds.
        metrics: values by MLflow name.
    """

    step: int
    time: float
    metrics: Mapping[str, float]


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

    def has_run(self, run: str) -> bool:
        """Whether the experiment has the run and it can be written to; a store may have been deleted since."""

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

    def comparison(self, runs: Sequence[str]) -> str | None:
        """The part of the address, after the server's own, of the page that compares these runs.

        Runs that have no metrics yet are left out; None when that leaves none, or there is no such page.
        """


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

    def has_run(self, run: str) -> bool:
        """See `Tracker`. Any id will do, since nothing is written."""
        return True

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

    def comparison(self, runs: Sequence[str]) -> str | None:
        """See `Tracker`."""
        return None
