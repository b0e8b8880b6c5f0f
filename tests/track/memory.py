"""A tracker that keeps all in memory, for tests to look into."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowrung.finetune.data.split import Split
from lowrung.store.outcome import Status
from lowrung.track.base import Child, Point, TrackError
from lowrung.track.pages import View


@dataclasses.dataclass
class RecordedRun:
    """All that was recorded of one run.

    Attributes:
        name: the run's name.
        parent: the id of the sweep's run.
        params: parameters by name.
        tags: tags by name.
        history: for each metric its values by step, in the order in which they were logged.
        datasets: the data it used.
        artifacts: contents by path, folders included in the path (``adapter/config.json``).
        status: how it ended; None while it is open.
        key: what the run was opened by.
    """

    name: str
    parent: str | None = None
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    history: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    datasets: list[Split] = dataclasses.field(default_factory=list)
    artifacts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    status: Status | None = None
    key: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric's value at its last step."""
        return {name: values[max(values)] for name, values in self.history.items()}


class MemoryTracker:
    """The in-memory twin of the real trackers.

    Attributes:
        runs: what was recorded, by run id, in the order in which runs were started.
        views: what the pages of sweeps show, by run id.
    """

    def __init__(self) -> None:
        self.runs: dict[str, RecordedRun] = {}
        self.views: dict[str, View] = {}

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
        for known, recorded in self.runs.items():
            if key is not None and recorded.key == key:
                self.log_params(known, params or {})
                return known
        run = f"run{len(self.runs)}"
        self.runs[run] = RecordedRun(name, parent, dict(params or {}), dict(tags or {}), key=key)
        return run

    def find(self, key: str) -> str | None:
        """See `Tracker`."""
        return next((run for run, recorded in self.runs.items() if recorded.key == key), None)

    def children(self, run: str) -> dict[str, Child]:
        """See `Tracker`."""
        return {
            recorded.key: Child(child, recorded.status, recorded.tags.get("lowrung.signature"))
            for child, recorded in self.runs.items()
            if recorded.parent == run and recorded.key is not None
        }

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        history = self._run(run).history
        for point in points:
            for name, value in point.metrics.items():
                history.setdefault(name, {}).setdefault(point.step, value if math.isfinite(value) else math.nan)

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""
        known = self._run(run).params
        for name, value in params.items():
            if known.setdefault(name, value) != value:
                raise TrackError(f"The parameter {name} of run {run} is {known[name]} and cannot become {value}.")

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self._run(run).tags.update(tags)

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """See `Tracker`."""
        known = self._run(run).datasets
        known.extend(dataset for dataset in datasets if dataset not in known)

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        kept = {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
        self._run(run).artifacts.update(kept)

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""
        self._run(run).status = status

    def present(self, run: str, view: View) -> str:
        """See `Tracker`."""
        self.views[run] = view
        return f"#/{run}"

    def _run(self, run: str) -> RecordedRun:
        if run not in self.runs:
            raise TrackError(f"There is no run {run}.")
        return self.runs[run]
