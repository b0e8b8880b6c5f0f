"""A job whose process the system ends since memory has run out."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowrung.engine import memory, worker
from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from lowrung.engine.process import NO_MEMORY
from lowrung.store.layout import ROOT
from tests.engine.contract import end_of, events_of
from tests.terminal import PATIENCE

SCORE = Path("/proc/self/oom_score_adj")

pytestmark = pytest.mark.skipif(not SCORE.exists(), reason="this system has no OOM killer as Linux has")


def _killed(vmstat: Path, kills: int) -> None:
    """Ends this process as the kernel does, which counts first."""
    vmstat.write_text(f"oom_kill {kills}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def vmstat(tmp_path: Path, monkeypatch) -> Path:
    """The file in which the system counts whom it has ended; four so far."""
    vmstat = tmp_path / "proc" / "vmstat"
    vmstat.parent.mkdir()
    vmstat.write_text("oom_kill 4\n")
    monkeypatch.setattr(memory, "KILLS", memory.Kills(tmp_path))
    return vmstat


@pytest.mark.slow
def test_what_the_system_has_ended_is_told_from_what_somebody_has(tmp_path: Path, vmstat: Path) -> None:
    with LocalEngine() as engine:
        engine.submit(Job("a", tmp_path / "a", lambda: _killed(vmstat, 5)))
        assert end_of(engine, "a") == Ended("a", Exit.OUT_OF_MEMORY, cause=NO_MEMORY)
        engine.submit(Job("b", tmp_path / "b", lambda: _killed(vmstat, 5)))
        assert end_of(engine, "b") == Ended("b", Exit.DIED, cause="SIGKILL")


@pytest.mark.slow
def test_a_job_that_began_before_anothers_end_was_heard_of_is_told_too(tmp_path: Path, vmstat: Path) -> None:
    with LocalEngine(slots=2) as engine:
        engine.submit(Job("a", tmp_path / "a", lambda: _killed(vmstat, 5)))
        deadline = time.monotonic() + PATIENCE
        while "5" not in vmstat.read_text():
            assert time.monotonic() < deadline, "the first job has not come to its end"
            os.sched_yield()
        engine.submit(Job("b", tmp_path / "b", lambda: _killed(vmstat, 6)))
        ends = [event for event in events_of(engine, "a", "b") if isinstance(event, Ended)]
    assert {(ended.key, ended.exit) for ended in ends} == {("a", Exit.OUT_OF_MEMORY), ("b", Exit.OUT_OF_MEMORY)}


def test_a_job_is_chosen_before_those_that_have_started_it(tmp_path: Path) -> None:
    own = int(SCORE.read_text())
    with LocalEngine() as engine:
        engine.submit(Job("a", tmp_path, SCORE.read_text))
        assert int(end_of(engine, "a").value) == min(1000, own + worker.GOES_FIRST)


PROGRAM = """
import os, sys
from pathlib import Path

from lowrung.engine.base import Ended, Job
from lowrung.engine.local import LocalEngine

Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))


def use_up():
    held = [bytearray(os.urandom(2**20)) for _ in range(1000)]
    return len(held)


with LocalEngine() as engine:
    for key, task in {"large": use_up, "small": os.getpid}.items():
        engine.submit(Job(key, Path(sys.argv[2], key), task))
        ended = next(event for event in engine.wait() if isinstance(event, Ended))
        print(key, ended.exit, ended.cause, sep="|")
"""

SWAP = {"memory.swap.max": "0", "memory.memsw.limit_in_bytes": "{}"}
"""The files that keep a control group from swapping; the older one is of memory and swap together."""


@contextlib.contextmanager
def _group(limit: int) -> Iterator[Path]:
    """A control group with so much memory; skips the test where none can be made."""
    first = Path("/sys/fs/cgroup/memory")
    top, name = (first, "memory.limit_in_bytes") if first.is_dir() else (first.parent, "memory.max")
    group = top / f"lowrung-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (group / name).write_text(str(limit))
            for swap, most in SWAP.items():  # else it would be used up first, where there is some
                if (group / swap).exists():
                    (group / swap).write_text(most.format(limit))
        except OSError as error:
            pytest.skip(f"no control group's memory can be limited here: {error}")
        yield group
    finally:
        deadline = time.monotonic() + PATIENCE
        while left := (group / "cgroup.procs").read_text():  # the fork server ends after the program
            assert time.monotonic() < deadline, f"processes are left in the group: {left}"
            os.sched_yield()
        group.rmdir()


@pytest.mark.slow
def test_a_control_group_without_memory_ends_the_job_and_nothing_else(tmp_path: Path) -> None:
    with _group(300 * 2**20) as group:
        program = [sys.executable, "-c", PROGRAM, str(group), str(tmp_path)]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"large|out of memory|{NO_MEMORY}", "small|returned|None"], done.stderr
