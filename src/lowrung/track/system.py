"""How busy the machine is while a run trains: processor, memory and GPUs, as MLflow's own system metrics name them."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lowrung.store import records
from lowrung.store.layout import RunFolder
from lowrung.track.base import Point

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

EVERY_SECONDS = 10.0
"""How often the machine is asked, as MLflow does; it takes 0.06 ms of CPU time without a GPU.

The first time comes after a second."""


LAST_SECONDS = 1.0
"""How long a measurement that is under way is waited for."""


def read(folder: RunFolder) -> list[Point]:
    """What was measured during a run."""
    if not folder.system.exists():
        return []
    lines = folder.system.read_bytes().splitlines(keepends=True)
    return [records.parse(line, folder.system).into(Point) for line in lines if line.endswith(b"\n")]


@contextlib.contextmanager
def measured(folder: RunFolder, on_point: Callable[[Point], None]) -> Iterator[None]:
    """Measures from a thread while the block runs.

    Args:
        folder: the run's, where the points are kept; those of a run that goes on are numbered on.
        on_point: called with each point.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_measure, args=(folder, on_point, ended), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_SECONDS)  # else its last point might come after the run's end


def _measure(folder: RunFolder, on_point: Callable[[Point], None], ended: threading.Event) -> None:
    monitors = _monitors()
    pause, step = 1.0, len(read(folder))
    with contextlib.suppress(OSError):  # a full disk: the run itself says so
        while not ended.wait(pause):
            values = {f"system/{name}": value for monitor in monitors for name, value in _values(monitor).items()}
            point = Point(step, time.time(), values)
            with folder.system.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": point.time, "metrics": values}) + "\n")
            on_point(point)
            pause, step = EVERY_SECONDS, step + 1


def _values(monitor: "BaseMetricsMonitor") -> dict[str, float]:
    monitor.collect_metrics()
    values: dict[str, float] = monitor.aggregate_metrics()
    monitor.clear_metrics()
    return values


def _monitors() -> "list[BaseMetricsMonitor]":
    """MLflow's own, which need psutil, as accelerate does; that of GPUs only where there are some and nvidia-ml-py."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
    monitors[0].collect_metrics()  # the processor's share is counted from the call before
    monitors[0].clear_metrics()
    with contextlib.suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())
    return monitors
