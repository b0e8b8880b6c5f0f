"""What a tracker is given of a run and of a sweep, and what of it has not been sent: the list of `lowrung sync`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.finetune.data.split import Split
from lowrung.store import atomic, records
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track import recording
from lowrung.track.base import Opening, Point, Tracker


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run that has ended. What it measured is in its folder.

    Attributes:
        opening: how the tracker's run begins.
        folder: the run's, in the store.
        status: how it ended.
        cause: why it is not complete.
        data: what it used.
    """

    opening: Opening
    folder: str
    status: Status
    cause: str | None
    data: Sequence[Split]

    def send(self, tracker: Tracker) -> str:
        """Records all of it. To do so again changes nothing."""
        run = self.opening.open(tracker)
        folder = RunFolder(Path(self.folder))
        outcome = Outcome.read(folder.outcome)
        if outcome is None or outcome.status is not self.status:  # a lost process left none
            outcome = Outcome(self.status, cause=self.cause)
        recording.record(tracker, run, folder, outcome, self.data, self.opening.tags)
        tracker.end_run(run, outcome.status)
        return run

    def tagged(self, tags: Mapping[str, str]) -> "RunRecord":
        """The same with further tags."""
        return dataclasses.replace(self, opening=dataclasses.replace(self.opening, tags={**self.opening.tags, **tags}))

    def of(self, sweep: str) -> "RunRecord":
        """The same, as a part of the sweep with this id."""
        return dataclasses.replace(self, opening=self.opening.of(sweep))


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    """A sweep that has ended.

    Attributes:
        opening: how the tracker's run begins.
        status: how it ended.
        tags: what was found.
        metrics: the best trial's.
        ended: trials that have ended.
        time: when, in seconds since 1970.
        files: paths of what is kept with it.
        spent: of its budget, over the jobs that have ended; None without a budget.
    """

    opening: Opening
    status: Status
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    ended: int
    time: float
    files: Sequence[str]
    spent: Point | None = None

    def send(self, tracker: Tracker) -> str:
        """Records all of it. To do so again changes nothing."""
        run = self.opening.open(tracker)
        best = Point(self.ended, self.time, self.metrics) if self.metrics else None
        if points := [point for point in (best, self.spent) if point is not None]:
            tracker.log(run, points)
        tracker.set_tags(run, {**self.opening.tags, **self.tags})
        for file in self.files:
            if Path(file).exists():
                tracker.log_artifact(run, Path(file))
        tracker.end_run(run, self.status)
        return run


@dataclasses.dataclass(frozen=True)
class Owed:
    """What a tracker lacks of a sweep, or of a single run.

    Attributes:
        uri: the tracker's address.
        experiment: the experiment's name.
        sweep: the sweep; None of a single run.
        runs: its runs.
    """

    uri: str
    experiment: str
    sweep: SweepRecord | None
    runs: Sequence[RunRecord]

    def write(self, path: Path) -> None:
        """Leaves the list; none where nothing is owed."""
        if self.sweep is None and not self.runs:
            path.unlink(missing_ok=True)
        else:
            atomic.write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Owed":
        """Reads the list.

        Raises:
            StoreError: when the file is no such list.
        """
        record = records.read(path)
        sweep = None if record["sweep"] is None else _sweep(record["sweep"])
        return cls(record["uri"], record["experiment"], sweep, [_run(run) for run in record["runs"]])

    def send(self, tracker: Tracker) -> None:
        """Gives the tracker all that it lacks, the sweep's end last."""
        if self.sweep is None:
            for run in self.runs:
                run.send(tracker)
            return
        sweep = self.sweep.opening.open(tracker)
        for run in self.runs:
            run.of(sweep).send(tracker)
        self.sweep.send(tracker)


def _run(record: Any) -> RunRecord:
    opening, data = record["opening"].into(Opening), [split.into(Split) for split in record["data"]]
    return RunRecord(opening, record["folder"], Status(record["status"]), record["cause"], data)


def _sweep(record: Any) -> SweepRecord:
    rest = {name: record[name] for name in ("tags", "metrics", "ended", "time", "files")}
    spent = record.get("spent")  # a list of an earlier version has none
    opening, status = record["opening"].into(Opening), Status(record["status"])
    return SweepRecord(opening, status, **rest, spent=spent and spent.into(Point))
