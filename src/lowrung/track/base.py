"""What lowrung asks of a tracker, with two twins: one that records nothing and one that records in memory.

There are two levels of runs only: a sweep is a parent, each of its trials a child. A single run has no parent.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lowrung.outcome import Status


@dataclasses.dataclass(frozen=True)
class DatasetInput:
    """The data that a run used.

    Attributes:
        name: the dataset's name (``docstrings``).
        digest: its fingerprint.
        source: where it came from, in words or as an address.
        context: ``training`` or ``evaluation``.
        rows: how many examples.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int


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
    """Records runs. Every call names its run, so that several processes can write side by side."""

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Opens a run and returns its id; ``parent`` is the id of the sweep's run."""

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Adds moments to the run's history."""

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """Adds parameters to the run; a known name must keep its value."""

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Sets tags on the run."""

    def log_datasets(self, run: str, datasets: Sequence[DatasetInput]) -> None:
        """Names the data that the run used."""

    def log_artifact(self, run: str, path: Path) -> None:
        """Keeps a copy of a file, or of a folder under its own name, with the run."""

    def end_run(self, run: str, status: Status) -> None:
        """Closes the run."""

    def comparison(self, runs: Sequence[str]) -> str | None:
        """The part of the address, after the server's own, of the page that compares these runs; None if there is none."""


class NullTracker:
    """Records nothing: ``track=none``."""

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """See `Tracker`."""
        return ""

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""

    def log_datasets(self, run: str, datasets: Sequence[DatasetInput]) -> None:
        """See `Tracker`."""

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""

    def comparison(self, runs: Sequence[str]) -> str | None:
        """See `Tracker`."""
        return None
