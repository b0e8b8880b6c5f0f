from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lowrung.store.outcome import Status
from lowrung.track.base import Point, Tracker, TrackerLostError, TrackError
from lowrung.track.tolerant import Tolerant
from tests.track.memory import MemoryTracker, RecordedRun


class Flaky(MemoryTracker):
    """A tracker that raises what it is told to, and counts how often it was asked to log."""

    def __init__(self) -> None:
        super().__init__()
        self.error: TrackError | None = None
        self.calls = 0

    def _run(self, run: str) -> RecordedRun:
        if self.error:
            raise self.error
        return super()._run(run)

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> str:
        if self.error:
            raise self.error
        return super().start_run(name, parent=parent, params=params, tags=tags, key=key)

    def log(self, run: str, points: Sequence[Point]) -> None:
        self.calls += 1
        super().log(run, points)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


POINTS = [Point(1, 1.0, {"eval/loss": 3.0})]


def test_a_lost_tracker_is_said_once_and_not_asked_again(flaky: Flaky, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tolerant(flaky)
    sweep = tracker.start_run("sweep")
    whole = tracker.start_run("r=2", parent=sweep)
    tracker.log(whole, POINTS)
    tracker.end_run(whole, Status.COMPLETE)
    partly = tracker.start_run("r=4", parent=sweep)
    flaky.error = TrackerLostError("MLflow: connection refused")
    for _ in range(3):
        tracker.log(partly, POINTS)
    assert flaky.calls == 2
    never = tracker.start_run("r=8", parent=sweep)
    assert never == ""
    tracker.log(never, POINTS)
    assert capsys.readouterr().out == (
        "warning: nothing more is tracked from here on; results and study are kept: MLflow: connection refused\n"
    )
    for run in (partly, never, sweep):
        tracker.end_run(run, Status.COMPLETE)
    assert tracker.comparison([whole]) is None
    assert capsys.readouterr().out == "warning: not tracked, or only in part: r=4, r=8, sweep\n"
    assert flaky.runs[whole].status is Status.COMPLETE


def test_the_ids_of_a_lost_tracker_are_kept_for_the_next_start(flaky: Flaky) -> None:
    tracker = Tolerant(flaky)
    run = tracker.start_run("r=2")
    flaky.error = TrackerLostError("gone")
    tracker.log(run, POINTS)
    assert tracker.has_run(run)
    assert not tracker.has_run("")


def test_a_run_that_is_refused_is_said_once_and_the_others_go_on(
    flaky: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tolerant(flaky)
    deleted, other = tracker.start_run("r=2"), tracker.start_run("r=4")
    del flaky.runs[deleted]
    for _ in range(2):
        tracker.log(deleted, POINTS)
    tracker.log(other, POINTS)
    assert capsys.readouterr().out == f"warning: not all of r=2 is tracked: There is no run {deleted}.\n"
    assert flaky.runs[other].metrics == {"eval/loss": 3.0}


def test_it_passes_everything_on(flaky: Flaky, tmp_path: Path) -> None:
    tracker: Tracker = Tolerant(flaky)
    file = tmp_path / "a.txt"
    file.write_text("a")
    run = tracker.start_run("r=2", params={"lora.r": "2"}, tags={"kind": "trial"})
    tracker.log_params(run, {"seed": "0"})
    tracker.set_tags(run, {"best": "yes"})
    tracker.log(run, POINTS)
    tracker.log_artifact(run, file)
    tracker.end_run(run, Status.PRUNED)
    record: Any = flaky.runs[run]
    assert record == RecordedRun(
        "r=2",
        None,
        {"lora.r": "2", "seed": "0"},
        {"kind": "trial", "best": "yes"},
        {"eval/loss": {1: 3.0}},
        [],
        {"a.txt": b"a"},
        Status.PRUNED,
    )
    assert tracker.comparison([run]) == flaky.comparison([run])
