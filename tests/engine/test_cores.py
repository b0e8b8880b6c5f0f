import os

import pytest

from lowrung.engine import cores


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what macOS lacks, and Python before 3.13."""
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)


def test_python_is_asked_where_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert cores.usable_cores() == 3


@pytest.mark.usefixtures("macos")
def test_a_process_may_be_restricted_to_some_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5}, raising=False)
    assert cores.usable_cores() == 2


@pytest.mark.usefixtures("macos")
@pytest.mark.parametrize(("found", "usable"), [(8, 8), (None, 1)])
def test_all_cores_are_usable_where_no_process_is_restricted(
    monkeypatch: pytest.MonkeyPatch, found: int | None, usable: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: found)
    assert cores.usable_cores() == usable
