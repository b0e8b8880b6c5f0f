"""Platforms where no job can be forked: each job is spawned, and does the same."""

import multiprocessing
import os
import signal
import sys
from functools import partial
from multiprocessing import forkserver

import pytest

from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from tests.engine.contract import end_of


def on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


def without_fork_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])


def refused_a_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure_running() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(forkserver, "ensure_running", ensure_running)


@pytest.mark.parametrize("surroundings", [on_macos, without_fork_servers, refused_a_fork_server])
def test_a_job_is_spawned_where_none_can_be_forked(monkeypatch, capfd, tmp_path, surroundings):
    surroundings(monkeypatch)
    for name in ("sched_getaffinity", "process_cpu_count"):  # the latter asks the former
        monkeypatch.delattr(os, name, raising=False)
    with LocalEngine(slots=2, preload=["no_such_module"]) as engine:
        engine.submit(Job("a", tmp_path, lambda: (os.getppid(), os.environ["OMP_NUM_THREADS"])))
        assert end_of(engine, "a") == Ended("a", Exit.RETURNED, (os.getpid(), str(engine.threads)))
    note = "no server could be started that imports them once for all jobs (AF_UNIX path too long)"
    assert (note in capfd.readouterr().err) is (surroundings is refused_a_fork_server)


@pytest.mark.parametrize("end", ["returns", "is cancelled"])
def test_a_group_of_which_only_zombies_are_left_is_gone(monkeypatch, tmp_path, end):
    """macOS says that a signal to such a group is not permitted, where Linux says that there is no such group."""

    def not_permitted(group: int, number: int) -> None:
        killpg(group, number)
        raise PermissionError(1, "Operation not permitted")

    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", not_permitted)
    with LocalEngine() as engine:
        task = partial(int, 7) if end == "returns" else signal.pause
        engine.submit(Job("a", tmp_path, task))
        if end == "is cancelled":
            engine.cancel("a")
        assert end_of(engine, "a").exit is (Exit.RETURNED if end == "returns" else Exit.CANCELLED)
