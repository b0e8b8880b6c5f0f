import pytest

from lowrung.track.base import NullTracker, Point, Tracker
from lowrung.track.pages import View
from tests.track.contract import TrackerContract
from tests.track.memory import MemoryTracker


class TestMemoryTracker(TrackerContract):
    @pytest.fixture
    def tracker(self):
        return MemoryTracker()

    def read(self, tracker, run):
        return tracker.runs[run]

    def reopened(self, tracker):
        return tracker


def test_the_null_tracker_takes_every_call(tmp_path):
    tracker: Tracker = NullTracker()
    run = tracker.start_run("run", params={"lora.r": "8"})
    tracker.log(run, [Point(1, 1.0, {"eval/loss": 3.0})])
    tracker.log_artifact(run, tmp_path)
    assert tracker.find("key") is None
    assert tracker.children(run) == {}
    assert tracker.present(run, View(["lora.r"], {"eval/loss": "minimize"})) is None
