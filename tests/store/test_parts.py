"""The time of a run that was interrupted: of all its parts, without the pauses between them."""

import dataclasses
import json
import os

import pytest

from lowrung.errors import StoreError
from lowrung.store import mailbox, parts
from lowrung.store.layout import CHECKPOINT_MARK, RunFolder

STEP = {"train/loss": 1.0}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """Sets the time."""

    class Clock:
        now = 1000.0
        set_by = 0.0

        def time(self) -> float:
            return self.now + self.set_by

        def perf_counter(self) -> float:
            return self.now

    now = Clock()
    monkeypatch.setattr(parts, "time", now)
    return now


def begin(folder, clock):
    """A process begins; files have the time that the clock shows."""
    run = parts.Clock(folder)
    touch(folder.parts, clock.now)
    return run


def touch(file, at):
    file.touch()
    os.utime(file, (at, at))


def report(folder, run, step, metrics=STEP):
    moment, seconds = run.moment(step, metrics)
    mailbox.post(folder.path, {"step": step, "time": moment, "seconds": seconds, "metrics": metrics})
    touch(folder.reports, moment)
    return moment, seconds


def checkpoint(folder, step, at):
    mark = folder.checkpoints / f"checkpoint-{step}" / CHECKPOINT_MARK
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    os.utime(mark, (at, at))


def begin_again(folder, clock):
    """As the next start does."""
    parts.close(folder)
    mailbox.clear(folder.path)
    return begin(folder, clock)


def killed(folder, clock, at=9000.0):
    """A run that reports at 1010, 1020 and 1030, has a checkpoint of the second step, and is killed."""
    run = begin(folder, clock)
    for step, now in enumerate((1010.0, 1020.0, 1030.0), start=1):
        clock.now = now
        report(folder, run, step)
    checkpoint(folder, 2, 1020.0)
    clock.now = at
    return begin_again(folder, clock)


def took(run):
    return [dataclasses.astuple(part) for part in run.stop()]


def test_a_part_that_was_killed_took_until_its_last_sign_of_life(folder, clock):
    run = killed(folder, clock)
    clock.now = 9005.0
    assert took(run) == [(1000.0, 30.0), (9000.0, 5.0)]
    assert parts.began(folder) is None


def test_what_is_reported_again_has_its_first_time_and_what_is_done_again_that_of_now(folder, clock):
    run = killed(folder, clock)
    clock.now = 9001.0
    assert report(folder, run, 1) == (1010.0, 10.0)
    assert report(folder, run, 2) == (1020.0, 20.0)
    assert report(folder, run, 3) == (9001.0, 31.0)


def test_a_third_part_has_the_times_of_both(folder, clock):
    run = killed(folder, clock)
    clock.now = 9001.0
    for step in (1, 2, 3):
        report(folder, run, step)
    checkpoint(folder, 3, 9001.0)
    clock.now = 20_000.0
    run = begin_again(folder, clock)
    assert [report(folder, run, step) for step in (1, 2, 3, 4)] == [
        (1010.0, 10.0),
        (1020.0, 20.0),
        (9001.0, 31.0),
        (20_000.0, 31.0),
    ]


def test_one_that_was_killed_before_it_reported_again_loses_no_time_of_the_first(folder, clock):
    killed(folder, clock)
    clock.now = 20_000.0
    assert report(folder, begin_again(folder, clock), 1) == (1010.0, 10.0)


def test_a_run_without_a_checkpoint_has_the_lost_time_too_and_new_times_for_its_reports(folder, clock):
    run = begin(folder, clock)
    clock.now = 1010.0
    report(folder, run, 1)
    clock.now = 5000.0
    run = begin_again(folder, clock)
    assert report(folder, run, 1) == (5000.0, 10.0)
    assert took(run) == [(1000.0, 10.0), (5000.0, 0.0)]


def test_a_scheduler_that_starts_the_job_again_ends_the_part_before(folder, clock):
    run = begin(folder, clock)
    clock.now = 1010.0
    report(folder, run, 1)
    touch(folder.log, 5000.0)  # the new process has printed a line
    clock.now = 5001.0
    assert took(begin(folder, clock)) == [(1000.0, 10.0), (5001.0, 0.0)]


@pytest.mark.parametrize("set_by", [-600.0, 600.0])
def test_a_clock_that_is_set_while_a_part_runs_changes_none_of_its_time(folder, clock, set_by):
    run = begin(folder, clock)
    clock.set_by = set_by
    clock.now = 1010.0
    assert report(folder, run, 1) == (1010.0 + set_by, 10.0)
    touch(folder.log, 1012.0 + set_by)
    clock.now = 1020.0
    assert took(begin_again(folder, clock)) == [(1000.0, 12.0), (1020.0 + set_by, 0.0)]


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_part_on_a_machine_whose_clock_is_not_the_files_takes_what_it_took(folder, clock, ahead):
    begin(folder, clock)
    touch(folder.parts, 1000.0 + ahead)
    touch(folder.log, 1004.0 + ahead)
    clock.now = 1020.0
    assert took(begin_again(folder, clock)) == [(1000.0, 4.0), (1020.0, 0.0)]


@pytest.mark.parametrize("now", [500.0, 9000.0])
def test_a_part_elsewhere_that_only_reported_again_took_until_its_last_sign(folder, clock, now):
    """The second machine's clock shows an earlier time than the first one's did, or a later one."""
    run = killed(folder, clock, at=now)
    touch(folder.log, now + 2)
    report(folder, run, 1)
    touch(folder.reports, now + 3)
    assert [part.seconds for part in parts.so_far(folder)] == [30.0, 3.0]
    clock.now = now + 4
    report(folder, run, 3)
    assert [part.seconds for part in parts.so_far(folder)] == [30.0, 4.0]


def test_the_time_of_reports_without_seconds_is_that_of_their_file(folder, clock):
    begin(folder, clock)
    mailbox.post(folder.path, {"step": 1, "time": 1007.0, "seconds": None, "metrics": STEP})
    touch(folder.reports, 1007.0)
    assert [part.seconds for part in parts.so_far(folder)] == [7.0]


def test_a_run_in_one_go_says_nothing_of_parts(folder, clock):
    assert parts.as_fact(parts.Clock(folder).stop()) == {}


@pytest.mark.parametrize("noted", [{"ended": [["a", 1]], "began": None}, {"ended": [], "began": "b"}, {"ended": 1}])
def test_what_is_noted_of_the_parts_and_cannot_be_read_is_said_with_its_file(folder, noted):
    folder.parts.write_text(json.dumps(noted))
    with pytest.raises(StoreError, match=r"parts\.json must "):
        parts.so_far(folder)


@pytest.mark.parametrize("fact", [None, 1, "12", [1], [[1, 2, 3]], [["a", 2]], [None]])
def test_parts_of_an_outcome_that_are_none_are_none(fact):
    assert parts.of_facts({"parts": fact}) == []


def test_parts_of_an_outcome_are_read_back(folder, clock):
    run = killed(folder, clock)
    facts = json.loads(json.dumps(parts.as_fact(run.stop())))
    assert parts.of_facts(facts) == [parts.Part(1000.0, 30.0), parts.Part(9000.0, 0.0)]
