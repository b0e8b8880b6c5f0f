"""What every engine must do. A test class inherits one of these and overrides the fixture ``engine``."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from lowrung.engine.base import Ended, Engine, Event, Exit, Job, Reported
from lowrung.errors import EngineError, StoreError
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder
from tests.terminal import PATIENCE


def events_of(engine: Engine, *keys: str) -> list[Event]:
    """All events until each of these jobs has ended."""
    events: list[Event] = []
    waiting = set(keys)
    while waiting:
        news = engine.wait(timeout=PATIENCE)
        assert news, f"{waiting} did not end"
        events += news
        waiting -= {event.key for event in news if isinstance(event, Ended)}
    return events


def end_of(engine: Engine, key: str) -> Ended:
    return next(event for event in events_of(engine, key) if isinstance(event, Ended) and event.key == key)


def await_report(engine: Engine) -> Reported:
    event = engine.wait(timeout=PATIENCE)[0]
    assert isinstance(event, Reported), event
    return event


def is_gone(pid: int) -> bool:
    """Whether the process ends; a zombie has."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


class Unpicklable(Exception):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def run_until_told(folder: Path) -> str:
    """Reports its process, then works until the coordinator asks it to stop."""
    mailbox.post(folder, {"pid": os.getpid()})
    while mailbox.stop_reason(folder) is None:
        time.sleep(0.01)
    return "stopped"


def start_a_process() -> int:
    """Starts one that neither ends by itself nor by SIGTERM, and returns its number."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited
    try:
        return subprocess.Popen(["sleep", "infinity"]).pid
    finally:
        signal.signal(signal.SIGTERM, before)


def divide(numerator: int, denominator: int) -> float:
    return numerator / denominator


class EngineContract:
    """Holds for every engine, whatever its jobs run in."""

    @pytest.fixture
    def engine(self) -> Engine:
        """An open engine, closed afterwards."""
        raise NotImplementedError

    def test_brings_back_what_the_task_returns(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path / "not" / "yet" / "there", lambda: {"loss": [1.5, None]}))
        assert events_of(engine, "a") == [Ended("a", Exit.RETURNED, {"loss": [1.5, None]})]
        assert (tmp_path / "not" / "yet" / "there").is_dir()

    def test_brings_back_what_the_task_raises(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(divide, 1, 0)))
        ended = end_of(engine, "a")
        assert ended.exit is Exit.RAISED
        assert isinstance(ended.value, ZeroDivisionError)
        assert ended.cause == "ZeroDivisionError: division by zero"

    def test_an_exception_may_be_a_result(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, lambda: KeyError("x")))
        ended = end_of(engine, "a")
        assert ended.exit is Exit.RETURNED
        assert isinstance(ended.value, KeyError)

    def test_a_further_job_than_slots_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        for number in range(engine.slots):
            engine.submit(Job(str(number), tmp_path / str(number), lambda: None))
        with pytest.raises(EngineError, match="slot"):
            engine.submit(Job("one more", tmp_path / "one more", lambda: None))

    def test_a_slot_and_a_key_are_free_after_the_end(self, engine: Engine, tmp_path: Path) -> None:
        for number in range(engine.slots + 1):
            engine.submit(Job("a", tmp_path, partial(int, number)))
            assert end_of(engine, "a").value == number

    def test_a_folder_in_which_another_process_works_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        with atomic.lock(RunFolder(tmp_path).lock), pytest.raises(StoreError, match="Another process works in"):
            engine.submit(Job("a", tmp_path, lambda: None))
        engine.submit(Job("a", tmp_path, lambda: "free again"))
        assert end_of(engine, "a").value == "free again"

    def test_reports_come_in_order_and_before_the_end(self, engine: Engine, tmp_path: Path) -> None:
        def task() -> None:
            for step in range(100):
                mailbox.post(tmp_path, {"step": step})

        engine.submit(Job("a", tmp_path, task))
        *reports, ended = events_of(engine, "a")
        assert reports == [Reported("a", {"step": step}) for step in range(100)]
        assert ended == Ended("a", Exit.RETURNED)

    def test_a_job_finds_an_empty_mailbox(self, engine: Engine, tmp_path: Path) -> None:
        mailbox.post(tmp_path, {"from": "an earlier run"})
        mailbox.ask_to_stop(tmp_path)
        engine.submit(Job("a", tmp_path, partial(mailbox.stop_reason, tmp_path)))
        assert events_of(engine, "a") == [Ended("a", Exit.RETURNED, None)]

    def test_env_is_set_for_the_job_alone(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(os.getenv, "LOWRUNG_TEST"), env={"LOWRUNG_TEST": "1"}))
        assert end_of(engine, "a").value == "1"
        assert "LOWRUNG_TEST" not in os.environ

    def test_a_job_knows_its_number_of_threads(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(os.getenv, "OMP_NUM_THREADS")))
        assert end_of(engine, "a").value == str(engine.threads)
        assert engine.threads >= 1

    def test_a_job_can_be_cancelled(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        engine.cancel("a")
        ended = end_of(engine, "a")
        assert (ended.exit, ended.cause) == (Exit.CANCELLED, "cancelled")
        engine.submit(Job("a", tmp_path, lambda: "not cancelled"))
        assert end_of(engine, "a").value == "not cancelled"

    def test_cancelling_what_does_not_run_is_ignored(self, engine: Engine, tmp_path: Path) -> None:
        engine.cancel("never seen")
        engine.submit(Job("a", tmp_path, lambda: 1))
        end_of(engine, "a")
        engine.cancel("a")
        assert engine.wait() == []

    def test_preloading_may_be_asked_for_at_any_time(self, engine: Engine, tmp_path: Path) -> None:
        for number in range(2):
            engine.preload()
            engine.submit(Job(str(number), tmp_path, partial(int, number)))
            engine.preload()
            assert end_of(engine, str(number)).value == number

    def test_waiting_for_nothing_returns_at_once(self, engine: Engine) -> None:
        assert list(engine.wait()) == []

    def test_a_job_that_runs_no_longer_waits_and_leaves_nothing_to_tidy(self, engine: Engine, tmp_path: Path) -> None:
        assert engine.waiting("a") is None
        engine.submit(Job("a", tmp_path / "a", lambda: None))
        assert engine.waiting("a") in ("", None)
        end_of(engine, "a")
        assert engine.waiting("a") is None
        before = sorted(tmp_path.rglob("*"))
        engine.tidy(tmp_path)
        engine.tidy(tmp_path / "not there")
        assert sorted(tmp_path.rglob("*")) == before

    def test_close_frees_the_folder_and_may_be_repeated(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        engine.close()
        engine.close()
        assert list(engine.wait()) == []
        with atomic.lock(RunFolder(tmp_path).lock):
            pass
        with pytest.raises(EngineError, match="close"):
            engine.submit(Job("b", tmp_path, lambda: None))


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)


def print_on_all_ways() -> None:
    print("by print")
    print("by print to stderr", file=sys.stderr)
    os.write(1, b"by a C library\n")


class ProcessEngineContract(EngineContract):
    """Holds for engines that give each job a process of its own. Two slots or more."""

    @pytest.fixture
    def hasty_engine(self) -> Engine:
        """An open engine with a time limit of a second, closed afterwards."""
        raise NotImplementedError

    def test_a_job_has_a_process_of_its_own(self, engine: Engine, tmp_path: Path) -> None:
        for key in ("a", "b"):
            engine.submit(Job(key, tmp_path / key, os.getpid))
        pids = {event.value for event in events_of(engine, "a", "b") if isinstance(event, Ended)}
        assert len(pids - {os.getpid()}) == 2

    @pytest.mark.parametrize(
        ("task", "cause"),
        [
            pytest.param(partial(os._exit, 3), "exit code 3", id="exit"),
            pytest.param(partial(sys.exit, 4), "exit code 4", id="sys.exit"),
            pytest.param(partial(os._exit, 0), "exit code 0", id="exit without an answer"),
            pytest.param(partial(die_by, signal.SIGKILL), "SIGKILL", id="SIGKILL"),
        ],
    )
    def test_death_has_a_cause(self, engine: Engine, tmp_path: Path, task: Callable[[], Any], cause: str) -> None:
        def post_then_die() -> None:
            mailbox.post(tmp_path, {"step": 1})
            task()

        engine.submit(Job("a", tmp_path, post_then_die))
        assert events_of(engine, "a") == [Reported("a", {"step": 1}), Ended("a", Exit.DIED, cause=cause)]

    def test_jobs_end_in_their_own_order(self, engine: Engine, tmp_path: Path) -> None:
        for key in ("first", "second"):
            engine.submit(Job(key, tmp_path / key, partial(run_until_told, tmp_path / key)))
        mailbox.ask_to_stop(tmp_path / "second")
        assert end_of(engine, "second").value == "stopped"
        mailbox.ask_to_stop(tmp_path / "first")
        assert end_of(engine, "first").value == "stopped"

    def test_equal_keys_are_refused(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path / "1", lambda: None))
        with pytest.raises(EngineError, match="keys of running jobs must differ"):
            engine.submit(Job("a", tmp_path / "2", lambda: None))

    def test_two_jobs_in_one_folder_are_refused(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        with pytest.raises(StoreError, match="works in"):
            engine.submit(Job("b", tmp_path / ".." / tmp_path.name, lambda: None))

    def test_a_running_job_reports_and_hears(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        await_report(engine)
        assert engine.wait(timeout=0) == []
        with pytest.raises(StoreError):
            atomic.lock(RunFolder(tmp_path).lock).__enter__()
        mailbox.ask_to_stop(tmp_path)
        assert end_of(engine, "a").value == "stopped"
        with atomic.lock(RunFolder(tmp_path).lock):
            pass

    def test_a_running_job_can_be_cancelled(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        await_report(engine)
        engine.cancel("a")
        assert end_of(engine, "a") == Ended("a", Exit.CANCELLED, cause="cancelled")
        with atomic.lock(RunFolder(tmp_path).lock):
            pass

    def test_a_job_that_hangs_ends_at_the_time_limit(self, hasty_engine: Engine, tmp_path: Path) -> None:
        hasty_engine.submit(Job("a", tmp_path, partial(time.sleep, 1000)))
        cause = "ran past hydra.launcher.time_limit=1s"
        assert events_of(hasty_engine, "a") == [Ended("a", Exit.TIMED_OUT, cause=cause)]
        with atomic.lock(RunFolder(tmp_path).lock):
            pass

    @pytest.mark.parametrize("end", ["returns", "dies", "is cancelled"])
    def test_what_a_job_started_ends_with_it(self, engine: Engine, tmp_path: Path, end: str) -> None:
        def task() -> None:
            mailbox.post(tmp_path, {"pid": start_a_process()})
            if end == "dies":
                die_by(signal.SIGKILL)
            if end == "is cancelled":
                run_until_told(tmp_path)

        engine.submit(Job("a", tmp_path, task))
        if end == "is cancelled":
            reported: Event = await_report(engine)
            engine.cancel("a")
            events_of(engine, "a")
        else:  # its end may come in the same answer as its report
            reported = events_of(engine, "a")[0]
        assert isinstance(reported, Reported)
        assert is_gone(reported.report["pid"])

    def test_output_goes_to_the_log_after_what_was_there(self, engine: Engine, tmp_path: Path) -> None:
        log = RunFolder(tmp_path).log
        log.write_text("earlier\n")
        engine.submit(Job("a", tmp_path, print_on_all_ways))
        end_of(engine, "a")
        lines = log.read_text().splitlines()
        assert lines[0] == "earlier"
        assert {"by print", "by print to stderr", "by a C library"} <= set(lines)

    def test_the_traceback_is_in_the_log(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, partial(divide, 1, 0)))
        end_of(engine, "a")
        text = RunFolder(tmp_path).log.read_text()
        assert "Traceback" in text
        assert "in divide" in text

    def test_a_result_that_cannot_be_pickled_is_an_error(self, engine: Engine, tmp_path: Path) -> None:
        engine.submit(Job("a", tmp_path, threading.Lock))
        ended = end_of(engine, "a")
        assert ended.exit is Exit.RAISED
        assert isinstance(ended.value, EngineError)
        assert "What a task returns must be picklable, but its lock is not" in str(ended.cause)

    def test_an_exception_that_cannot_be_pickled_keeps_its_text(self, engine: Engine, tmp_path: Path) -> None:
        def task() -> None:
            raise Unpicklable

        engine.submit(Job("a", tmp_path, task))
        ended = end_of(engine, "a")
        assert (ended.exit, ended.cause) == (Exit.RAISED, "Unpicklable: holds a lock")
        assert isinstance(ended.value, EngineError)
        assert str(ended.value) == "Unpicklable: holds a lock"

    def test_a_task_that_cannot_be_pickled_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        lock = threading.Lock()
        with pytest.raises(EngineError, match="A task must be picklable"):
            engine.submit(Job("a", tmp_path, lambda: lock))
