"""How busy the machine is while a run trains."""

import threading

from lowrung.store.layout import RunFolder
from lowrung.track import system
from lowrung.track.base import Point
from tests.terminal import PATIENCE


def test_points_are_kept_and_numbered_on_where_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_monitors", lambda: [Busy()])
    monkeypatch.setattr(system, "EVERY_SECONDS", 0.01)
    folder, real = RunFolder(tmp_path), threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda event, seconds=None: real(event, min(seconds or 9, 0.01)))
    for first in (0, 2):
        points: list[Point] = []
        second = threading.Semaphore(0)

        def take(point: Point, points=points, second=second) -> None:
            points.append(point)
            second.release()

        with system.measured(folder, take):
            assert second.acquire(timeout=PATIENCE)
            assert second.acquire(timeout=PATIENCE)
        assert [point.step for point in points][:2] == [first, first + 1]
        folder.system.write_bytes(b"".join(folder.system.read_bytes().splitlines(keepends=True)[: first + 2]))
    folder.system.write_bytes(folder.system.read_bytes() + b'{"step": 4')  # torn
    assert [point.step for point in system.read(folder)] == [0, 1, 2, 3]
    assert system.read(folder)[0].metrics == {"system/cpu_utilization_percentage": 50.0}


def test_mlflow_measures_the_processor_and_the_memory():
    (monitor, *_) = system._monitors()
    values = system._values(monitor)
    assert 0 < values["system_memory_usage_percentage"] <= 100
    assert system._values(monitor).keys() == values.keys()


class Busy:
    def collect_metrics(self) -> None: ...

    def aggregate_metrics(self) -> dict[str, float]:
        return {"cpu_utilization_percentage": 50.0}

    def clear_metrics(self) -> None: ...
