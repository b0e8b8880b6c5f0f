"""Tests of a real GPU. Each states the seconds that it may take; together they take no more than six minutes.

``LOWRUNG_GPU_TESTS=cpu`` lets a CPU stand for the GPU, to try the tests themselves out; nothing is recorded then.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from benchmarks.gpu import results

from lowrung.engine.local import LocalEngine

DEVICE = "cpu" if os.environ.get("LOWRUNG_GPU_TESTS") == "cpu" else "cuda"

BUDGET = 360.0
"""Seconds that all tests here take together; one that could go beyond is not begun."""

_began: list[float] = []


def why_skipped(seconds: float, spent: float, *, is_there: bool) -> str | None:
    """The reason why a test is not begun."""
    if DEVICE == "cuda" and not is_there:
        return "no NVIDIA GPU is visible here; docs/gpus.md says how `make test-gpu` runs where one is"
    if spent + seconds > BUDGET:
        return f"needs {seconds:.0f} s, and {spent:.0f} s of the {BUDGET:.0f} s for all tests of a GPU have passed"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture trains something."""
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    _began[:] = _began or [time.monotonic()]
    spent = time.monotonic() - _began[0]
    if reason := why_skipped(marker.kwargs["seconds"], spent, is_there=results.has_gpu()):
        pytest.skip(reason)


@pytest.fixture(scope="session")
def device() -> str:
    """``cuda``, or ``cpu`` where a CPU stands for it."""
    return DEVICE


@pytest.fixture
def records(request: pytest.FixtureRequest, device: str) -> Callable[[Any], None]:
    """Writes what a test has found under its name to `benchmarks.gpu.results.RESULTS`."""

    def record(value: Any) -> None:
        results.add(results.file(device), device, "tests", request.node.name, value)

    return record


@pytest.fixture(scope="session")
def forking() -> Iterator[LocalEngine]:
    """An engine of two slots, whose jobs are forked from a server that has imported torch and what trains."""
    with LocalEngine(2, ["torch", "transformers", "datasets"]) as engine:
        yield engine
