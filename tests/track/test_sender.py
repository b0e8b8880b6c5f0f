"""Records that are sent from a thread: nobody waits for a tracker, and one that comes back gets all."""

import threading
from collections.abc import Sequence

import pytest

from lowrung.store.outcome import Status
from lowrung.track import sender as module
from lowrung.track.base import Point, Tracker, TrackerLostError, TrackError
from lowrung.track.sender import Sender
from tests.terminal import PATIENCE
from tests.track.memory import MemoryTracker

POINTS = [Point(1, 1.0, {"eval/loss": 3.0})]


class Flaky(MemoryTracker):
    """A tracker that is away where it is told to be, and counts how often it was asked to log."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked = threading.Semaphore(0)

    def log(self, run: str, points: Sequence[Point]) -> None:
        self.asked.release()
        if self.is_away:
            raise TrackerLostError("MLflow: connection refused")
        super().log(run, points)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def sender(flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> Sender:
    monkeypatch.setattr(module, "PAUSES", (0.0,))
    return Sender(lambda: flaky)


def test_calls_are_carried_out_in_order(flaky: Flaky, sender: Sender) -> None:
    run = sender.send(lambda tracker: tracker.start_run("r=2"), "r=2")
    sender.send(lambda tracker: tracker.log(run.result(), POINTS), "r=2")
    sender.send(lambda tracker: tracker.end_run(run.result(), Status.PRUNED), "r=2")
    assert sender.drain(PATIENCE)
    record = flaky.runs[run.result()]
    assert (record.metrics, record.status) == ({"eval/loss": 3.0}, Status.PRUNED)


def test_a_tracker_that_comes_back_gets_what_has_gathered(
    flaky: Flaky, sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sender.send(lambda tracker: tracker.start_run("r=2"), "r=2").result(PATIENCE)
    flaky.is_away = True
    logged = [sender.send(lambda tracker: tracker.log(run, POINTS), "r=2") for _ in range(3)]
    for _ in range(5):  # it is asked again and again
        assert flaky.asked.acquire(timeout=PATIENCE)
    assert not any(one.done() for one in logged)
    flaky.is_away = False
    for one in logged:
        one.result(PATIENCE)
    assert flaky.runs[run].history == {"eval/loss": {1: 3.0}}
    assert sender.drain(PATIENCE)
    assert sender.problem is None
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == ["warning: the tracker is away", "the tracker is back"]


def test_nobody_waits_for_one_that_is_away_or_hangs(flaky: Flaky, sender: Sender) -> None:
    flaky.is_away = True
    sender.send(lambda tracker: tracker.log("", POINTS), "r=2")
    assert not sender.drain(1000)  # returns at once: it was asked once more
    never = threading.Event()
    hangs = Sender(lambda: flaky)
    waiting = [hangs.send(lambda _: never.wait(), "r=2") for _ in range(2)]
    assert not hangs.drain(0.0)
    hangs.close()
    assert waiting[1].cancelled()
    never.set()


def test_one_that_halts_is_known_not_to_answer(
    flaky: Flaky, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server under SIGSTOP takes connections and says nothing."""
    is_asked, goes_on = threading.Event(), threading.Event()
    sender = Sender(lambda: flaky)
    assert sender.answers

    def halts(_: Tracker) -> None:
        is_asked.set()
        goes_on.wait()

    halted = sender.send(halts, "r=2")
    assert is_asked.wait(PATIENCE)
    assert sender.answers  # so far
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    assert [sender.answers, sender.answers] == [False, False]
    assert capsys.readouterr().out.startswith("warning: the tracker has not answered for 0 s; all goes on")
    goes_on.set()
    halted.result(PATIENCE)
    assert sender.drain(PATIENCE)
    assert sender.answers


def test_a_refused_call_is_said_once_and_the_others_go_on(
    flaky: Flaky, sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    other = sender.send(lambda tracker: tracker.start_run("r=4"), "r=4")
    refused = [sender.send(lambda tracker: tracker.log("deleted", POINTS), "r=2") for _ in range(2)]
    sender.send(lambda tracker: tracker.log(other.result(), POINTS), "r=4")
    assert sender.drain(PATIENCE)
    assert capsys.readouterr().out == "warning: not all of r=2 is tracked: There is no run deleted.\n"
    assert all(isinstance(one.exception(), TrackError) for one in refused)
    assert flaky.runs[other.result()].metrics == {"eval/loss": 3.0}


def test_a_store_that_does_not_open_is_opened_when_it_can_be(flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0,))
    tries: list[int] = []

    def connect() -> Flaky:
        tries.append(1)
        if len(tries) < 3:
            raise TrackerLostError("MLflow: database is locked")
        return flaky

    sender = Sender(connect, say=lambda _: None)
    assert sender.send(lambda tracker: tracker.start_run("r=2"), "r=2").result(PATIENCE) in flaky.runs
    assert len(tries) == 3


def test_an_output_that_cannot_be_written_ends_no_thread(flaky: Flaky, sender: Sender) -> None:
    def closed(text: str) -> None:
        raise BrokenPipeError(text)

    sender.say = closed
    refused = sender.send(lambda tracker: tracker.log("deleted", POINTS), "r=2")
    later = sender.send(lambda tracker: tracker.start_run("r=4"), "r=4")
    assert isinstance(refused.exception(10), TrackError)
    assert later.result(PATIENCE) in flaky.runs
