"""A tracker that may go away in the middle of a sweep: training goes on, and a warning names what is missing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lowrung.finetune.data.split import Split
from lowrung.store.outcome import Status
from lowrung.track.base import NullTracker, Point, Tracker, TrackerLostError, TrackError

_T = TypeVar("_T")


class Tolerant:
    """Records in another tracker, and raises no `TrackError`: it warns of what it could not record, and goes on.

    A tracker that is lost is not asked again, since each call would wait for an answer; one warning says so. A record
    that is refused, since its run was deleted for example, is one warning for each run. The end of a sweep's run, or
    of a single one, names the runs that are not there as a whole.

    Args:
        tracker: the one that records.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._is_lost = False
        self._names: dict[str, str] = {}
        self._roots: set[str] = set()
        self._incomplete: dict[str, None] = {}

    @classmethod
    def lost(cls, error: TrackError) -> "Tolerant":
        """One that was away from the start."""
        tracker = cls(NullTracker())
        tracker._lose(error)
        return tracker

    def has_all(self, run: str) -> bool:
        """Whether nothing of a run was left out."""
        return self._names.get(run, run) not in self._incomplete

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> str:
        """See `Tracker`; an empty id where the run could not be opened."""
        run = self._try(
            name, lambda: self._tracker.start_run(name, parent=parent, params=params, tags=tags, key=key), ""
        )
        self._names.setdefault(run, name)
        self._roots.add(run if parent is None else parent)
        return run

    def has_run(self, run: str) -> bool:
        """See `Tracker`; a run that cannot be asked for now counts as known, so that its id is not forgotten."""
        return bool(run) and self._try(self._names.get(run, run), lambda: self._tracker.has_run(run), True)

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.log(run, points))

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.log_params(run, params))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.set_tags(run, tags))

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.log_datasets(run, datasets))

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.log_artifact(run, path))

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""
        self._record(run, lambda: self._tracker.end_run(run, status))
        if run in self._roots and self._incomplete:
            print(f"warning: not tracked, or only in part: {', '.join(self._incomplete)}")

    def comparison(self, runs: Sequence[str]) -> str | None:
        """See `Tracker`."""
        return self._try("the comparison", lambda: self._tracker.comparison(runs), None)

    def _record(self, run: str, write: Callable[[], None]) -> None:
        if run:  # without an id it was never opened, and a warning said so
            self._try(self._names.get(run, run), write, None)

    def _try(self, name: str, call: Callable[[], _T], otherwise: _T) -> _T:
        """What the call returns; else ``otherwise``, and the run of this name counts as incomplete."""
        is_known = name in self._incomplete
        if not self._is_lost:
            try:
                return call()
            except TrackerLostError as error:
                self._lose(error)
            except TrackError as error:
                if not is_known:
                    print(f"warning: not all of {name} is tracked: {error}")
        self._incomplete[name] = None
        return otherwise

    def _lose(self, error: TrackError) -> None:
        self._is_lost = True
        print(f"warning: nothing more is tracked from here on; results and study are kept: {error}")
