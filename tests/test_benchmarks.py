"""The benchmark of the sweep engine, with few runs; nothing here depends on how fast the machine is."""

import itertools
import json
import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import __main__ as command
from benchmarks.measure import measure
from benchmarks.simulation import SimulatedEngine, batch_makespan, free_slot_makespan

from lowrung.engine.base import Ended, Job
from lowrung.errors import EngineError

RUNS, SLOTS = 20, 4


def stands() -> float:
    """A clock of a coordinator that takes no time."""
    return 0.0


@pytest.fixture(scope="module")
def free() -> dict[str, Any]:
    return measure("lowrung", RUNS, SLOTS, 0, stands)


@pytest.fixture(scope="module")
def batches() -> dict[str, Any]:
    return measure("batches", RUNS, SLOTS, 0, stands)


@pytest.mark.slow
class TestMeasure:
    def test_without_batches_slots_are_less_idle(self, free, batches):
        assert 0 < free["idle_share"] < batches["idle_share"] < 1

    def test_a_coordinator_that_takes_no_time_leaves_the_schedule_s_idle_share(self, free, batches):
        for sweep in (free, batches):
            assert sweep["idle_share"] == pytest.approx(sweep["idle_share_of_schedule"])

    def test_what_is_told_of_a_sweep(self, free):
        assert (free["way"], free["runs"], free["slots"], free["seed"]) == ("lowrung", RUNS, SLOTS, 0)
        times = free["coordinator"]["cpu"]
        assert times.keys() == {"seconds_per_trial", "mean", "median", "p99", "first_median", "last_median"}
        assert 0 < times["median"] <= times["p99"]
        assert len(free["memory"]["mebibytes"]) == 1
        assert free["memory"]["kibibytes_per_trial"] is None


class TestSimulatedEngine:
    def test_takes_no_more_jobs_than_slots(self, tmp_path):
        engine = SimulatedEngine([1.0, 1.0], 1)
        engine.submit(Job("a", tmp_path / "a", stands))
        with pytest.raises(EngineError, match="all 1 are taken"):
            engine.submit(Job("b", tmp_path / "b", stands))

    def test_ends_come_in_order_after_their_reports(self, tmp_path):
        engine = SimulatedEngine([3.0, 1.0], 2, clock=stands)
        for key in ("long", "short"):
            engine.submit(Job(key, tmp_path / key, stands))
        seen = []
        while events := engine.wait():
            seen += [(event.key, type(event).__name__) for event in events]
        assert [key for key, kind in seen if kind == "Ended"] == ["short", "long"]
        for key in ("short", "long"):
            assert [kind for other, kind in seen if other == key] == ["Reported"] * 3 + ["Ended"]
            assert (tmp_path / key / "outcome.json").is_file()
        assert engine.makespan == pytest.approx(3.0)

    def test_the_coordinators_time_is_charged_to_the_clock(self, tmp_path):
        seconds = itertools.count()  # one passes between any two looks
        engine = SimulatedEngine([3.0, 1.0], 1, clock=lambda: float(next(seconds)))
        for key in ("first", "second"):
            engine.submit(Job(key, tmp_path / key, stands))
            while not any(isinstance(event, Ended) for event in engine.wait()):
                pass
        assert engine.makespan == pytest.approx(3 + 1 + 1)  # the slot is idle from the first end to the next submission
        assert engine.idle_share == pytest.approx(1 / 5)


@pytest.mark.parametrize(("makespan", "seconds"), [(free_slot_makespan, 6.0), (batch_makespan, 9.0)])
def test_schedules(makespan, seconds):
    assert makespan([5.0, 1.0, 1.0, 4.0], 2) == seconds


@pytest.mark.slow
def test_the_command_records_and_prints(tmp_path, monkeypatch, capsys):
    methods = iter(["spawn", "fork", "fork"])  # one process imports all by itself, for 3 s
    by_turns = SimpleNamespace(get_context=lambda _: multiprocessing.get_context(next(methods)))
    monkeypatch.setattr(command, "multiprocessing", by_turns)
    out = tmp_path / "results.json"
    command.main(["--runs", "12", "--slots", "4", "--repeats", "1", "--long", "0", "--out", str(out)])
    record = json.loads(out.read_text())
    assert [sweep["way"] for sweep in record["sweeps"]] == ["lowrung", "lowrung, mlflow", "batches"]
    assert record["about"]["median_run_seconds"] == 60
    assert "batches" in capsys.readouterr().out
