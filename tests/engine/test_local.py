import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from lowrung.engine import cores, gpus, process, submission, worker
from lowrung.engine.base import Ended, Engine, Exit, Job
from lowrung.engine.interrupt import StopSignals
from lowrung.engine.local import LocalEngine
from lowrung.errors import EngineError
from lowrung.store import atomic, mailbox
from lowrung.store.layout import ROOT, RunFolder
from tests.engine import contract
from tests.engine.contract import await_report, die_by, end_of, events_of, is_gone, run_until_told, start_a_process
from tests.terminal import PATIENCE


@pytest.fixture
def engine() -> Iterator[Engine]:
    with LocalEngine(slots=2) as engine:
        yield engine


class TestForkServer(contract.ProcessEngineContract):
    @pytest.fixture
    def engine(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
        monkeypatch.setattr(submission, "LOCK_SECONDS", 0.2)
        return engine

    @pytest.fixture
    def hasty_engine(self) -> Iterator[Engine]:
        with LocalEngine(slots=2, time_limit=1) as engine:
            yield engine


def test_a_folder_whose_last_worker_is_dying_is_waited_for(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ExitStack()
    held.enter_context(atomic.lock(RunFolder(tmp_path).lock))
    ends_meanwhile = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: held.close())
    monkeypatch.setattr(submission, "time", ends_meanwhile)
    engine.submit(Job("a", tmp_path, lambda: "taken over"))
    assert end_of(engine, "a").value == "taken over"


def test_a_spawned_job_has_the_same_surroundings(tmp_path: Path) -> None:
    def task() -> list[str | None]:
        print("in the log")
        return [os.getenv("OMP_NUM_THREADS"), os.getenv("LOWRUNG_TEST"), multiprocessing.get_start_method()]

    with LocalEngine(slots=2, start="spawn") as engine:
        engine.submit(Job("a", tmp_path, task, env={"LOWRUNG_TEST": "1"}))
        assert end_of(engine, "a").value == [str(engine.threads), "1", multiprocessing.get_start_method()]
    assert "in the log" in RunFolder(tmp_path).log.read_text()


def test_at_least_one_slot_is_needed() -> None:
    with pytest.raises(EngineError, match=r"`slots >= 1` must hold, but got 0"):
        LocalEngine(slots=0)


def test_a_time_limit_is_some_time() -> None:
    with pytest.raises(EngineError, match=r"`time_limit > 0` must hold, but got 0 s"):
        LocalEngine(time_limit=0)


class Clock:
    """A monotonic clock that stands still but for what the test adds to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lowrung.engine.process.time", clock)
    return clock


@pytest.mark.slow
def test_a_job_ends_alone_at_its_time_limit_with_what_it_started(tmp_path: Path, clock: Clock) -> None:
    def task() -> None:
        mailbox.post(tmp_path / "early", {"pid": start_a_process()})
        time.sleep(1000)

    with LocalEngine(slots=2, time_limit=5400) as engine:
        engine.submit(Job("early", tmp_path / "early", task))
        pid = await_report(engine).report["pid"]
        clock.now = 5399
        engine.submit(Job("late", tmp_path / "late", partial(run_until_told, tmp_path / "late")))
        await_report(engine)
        assert engine.wait(timeout=0) == []
        clock.now = 5400
        ended = events_of(engine, "early")
        assert ended == [Ended("early", Exit.TIMED_OUT, cause="ran past hydra.launcher.time_limit=1h30m")]
        assert is_gone(pid)
        mailbox.ask_to_stop(tmp_path / "late")
        assert end_of(engine, "late").value == "stopped"


def test_an_answer_that_came_before_the_time_limit_stands(tmp_path: Path, clock: Clock) -> None:
    def report_after_the_answer() -> None:
        threading.main_thread().join()
        run_until_told(tmp_path)

    def task() -> str:
        threading.Thread(target=report_after_the_answer).start()
        return "answer"

    with LocalEngine(time_limit=60) as engine:
        engine.submit(Job("a", tmp_path, task))
        await_report(engine)
        clock.now = 60
        assert engine.wait(timeout=0) == []
        mailbox.ask_to_stop(tmp_path)
        assert end_of(engine, "a") == Ended("a", Exit.RETURNED, "answer")


def test_what_was_cancelled_does_not_time_out(tmp_path: Path, clock: Clock) -> None:
    with LocalEngine(time_limit=60) as engine:
        engine.submit(Job("a", tmp_path, partial(ignore_sigterm, tmp_path)))
        await_report(engine)
        engine.cancel("a")
        clock.now = 60
        assert end_of(engine, "a") == Ended("a", Exit.CANCELLED, cause="cancelled")


def test_cores_are_shared_by_the_slots() -> None:
    count = cores.usable_cores()
    for slots, threads in ((1, count), (count, 1), (count + 1, 1)):
        with LocalEngine(slots=slots) as engine:
            assert engine.threads == threads


def test_the_environment_is_that_of_now(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRUNG_TEST", "set after the server was started")
    engine.submit(Job("a", tmp_path, partial(os.getenv, "LOWRUNG_TEST")))
    assert end_of(engine, "a").value == "set after the server was started"
    monkeypatch.delenv("LOWRUNG_TEST")
    engine.submit(Job("a", tmp_path, partial(os.getenv, "LOWRUNG_TEST")))
    assert end_of(engine, "a").value is None


@pytest.mark.slow
def test_the_coordinators_environment_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    for start in ("forkserver", "spawn"):
        with LocalEngine(start=start) as engine:
            engine.submit(Job("a", tmp_path, lambda: None, env={"LOWRUNG_TEST": "1"}))
            assert dict(os.environ) == before
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("visible", "found", "size", "given"),
    [
        pytest.param("4,7", 8, 1, ["4", "7"], id="numbers"),
        pytest.param("3", 8, 1, ["3", "3"], id="fewer GPUs than slots"),
        pytest.param("", 8, 1, ["", ""], id="hidden"),
        pytest.param("-1", 8, 1, ["-1", "-1"], id="hidden by a negative number"),
        pytest.param("5,-1,6", 8, 1, ["5", "5"], id="a negative number ends the list"),
        pytest.param(None, 8, 1, ["0", "1"], id="all that exist"),
        pytest.param(None, 0, 1, [None, None], id="no GPU"),
        pytest.param("1,0,3,2", 4, 2, ["1,0", "3,2"], id="pairs"),
        pytest.param(None, 5, 2, ["0,1", "2,3", "0,1"], id="whole groups in turns"),
        pytest.param("GPU-8f5a, GPU-1b2c", 0, 2, ["GPU-8f5a,GPU-1b2c"], id="UUIDs"),
        pytest.param("MIG-a,MIG-b,MIG-c,MIG-d", 1, 3, ["MIG-a,MIG-b,MIG-c"] * 2, id="MIG names"),
    ],
)
def test_each_slot_has_its_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    found: int,
    size: int,
    given: list[str | None],
) -> None:
    make_visible(monkeypatch, visible, found)
    keys = [str(slot) for slot in range(len(given))]
    with LocalEngine(slots=len(given), gpus_per_job=size) as engine:
        for key in keys:
            engine.submit(Job(key, tmp_path / key, partial(os.getenv, "CUDA_VISIBLE_DEVICES")))
        ended = {event.key: event.value for event in events_of(engine, *keys) if isinstance(event, Ended)}
    assert [ended[key] for key in keys] == given


def make_visible(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: int) -> None:
    """Sets what ``CUDA_VISIBLE_DEVICES`` lists, and how many GPUs the machine seems to have."""
    monkeypatch.setattr(gpus, "count", lambda: found)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.slow
def test_a_freed_slot_passes_its_gpus_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_visible(monkeypatch, "4,7,5,6", 8)
    with LocalEngine(slots=2, gpus_per_job=2) as engine:
        for key in ("0", "1"):
            engine.submit(Job(key, tmp_path / key, partial(run_until_told, tmp_path / key)))
        mailbox.ask_to_stop(tmp_path / "0")
        events_of(engine, "0")
        engine.submit(Job("2", tmp_path / "2", partial(os.getenv, "CUDA_VISIBLE_DEVICES")))
        assert end_of(engine, "2").value == "4,7"


def report_gpu_until_told(folder: Path) -> None:
    mailbox.post(folder, {"gpu": os.environ["CUDA_VISIBLE_DEVICES"]})
    while mailbox.stop_reason(folder) is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_jobs_are_spread_evenly_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_visible(monkeypatch, "4,7", 8)
    with LocalEngine(slots=4) as engine:

        def start(key: str) -> str:
            """Starts a job that works on, and returns which GPU it sees."""
            engine.submit(Job(key, tmp_path / key, partial(report_gpu_until_told, tmp_path / key)))
            return str(await_report(engine).report["gpu"])

        assert [start(key) for key in ("a", "b", "c", "d")] == ["4", "7", "4", "7"]
        for key in ("a", "b", "d"):
            mailbox.ask_to_stop(tmp_path / key)
        events_of(engine, "a", "b", "d")
        assert [start(key) for key in ("e", "f")] == ["7", "4"]  # c still has GPU 4


@pytest.mark.parametrize(
    ("visible", "size", "message"),
    [
        ("0,1", 0, "`gpus_per_job >= 1` must hold, but got 0"),
        ("0,1", 3, "`gpus_per_job=3` needs as many visible GPUs, but there are 2"),
        ("", 2, "`gpus_per_job=2` needs as many visible GPUs, but there are 0"),
    ],
)
def test_a_job_needs_a_group_of_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, size: int, message: str
) -> None:
    make_visible(monkeypatch, visible, 8)
    with pytest.raises(EngineError, match=message):
        LocalEngine(gpus_per_job=size)


@pytest.mark.parametrize(
    ("visible", "found", "absent"),
    [
        ("0,2,1,7", 2, ["2", "7"]),
        ("0,1", 2, []),
        ("0,-1,9", 2, []),
        ("GPU-8f5a", 2, []),
        (None, 2, []),
        pytest.param("7,GPU-8f5a", 0, ["7", "GPU-8f5a"], id="there are none"),
        ("", 0, []),
    ],
)
def test_numbers_that_no_gpu_has_are_found(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: int, absent: list[str]
) -> None:
    make_visible(monkeypatch, visible, found)
    assert gpus.absent() == absent


def test_nothing_is_absent_where_gpus_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    make_visible(monkeypatch, "7", 0)
    monkeypatch.setattr(gpus, "is_countable", lambda: False)
    assert gpus.absent() == []
    assert gpus.problems() == []


def test_a_log_that_finds_no_room_is_no_reason_to_fail(tmp_path: Path) -> None:
    def task() -> str:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        print("no room for this")
        print("nor for this", flush=True)
        return "done"

    with LocalEngine() as engine:
        engine.submit(Job("a", tmp_path, task))
        assert end_of(engine, "a").value == "done"


def test_a_job_may_be_free_of_the_time_limit(tmp_path: Path, clock: Clock) -> None:
    with LocalEngine(time_limit=5400) as engine:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path), is_limited=False))
        await_report(engine)
        clock.now = 1e9
        assert engine.wait(timeout=0) == []
        mailbox.ask_to_stop(tmp_path)
        assert end_of(engine, "a").value == "stopped"


def test_a_crash_leaves_its_trace_in_the_log(engine: Engine, tmp_path: Path) -> None:
    engine.submit(Job("a", tmp_path, partial(die_by, signal.SIGSEGV)))
    assert end_of(engine, "a") == Ended("a", Exit.DIED, cause="SIGSEGV")
    assert "Fatal Python error: Segmentation fault" in RunFolder(tmp_path).log.read_text()


def test_ctrl_c_does_not_reach_a_job(engine: Engine, tmp_path: Path) -> None:
    engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
    os.kill(await_report(engine).report["pid"], signal.SIGINT)
    mailbox.ask_to_stop(tmp_path)
    assert end_of(engine, "a").value == "stopped"


def wait_for_sigterm(folder: Path) -> str:
    """Ends in good order, as a run does."""
    with StopSignals() as signals:
        mailbox.post(folder, {"pid": os.getpid(), "server": os.getppid()})
        while not signals.is_to_stop:
            time.sleep(0.01)
    return "stopped"


@pytest.mark.slow
def test_sigterm_to_all_processes_lets_a_job_end_in_good_order(engine: Engine, tmp_path: Path) -> None:
    """As a scheduler sends it; a fork server that it ended would take its jobs' answers along."""
    engine.submit(Job("a", tmp_path, partial(wait_for_sigterm, tmp_path)))
    report = await_report(engine).report
    for name in ("server", "pid"):
        if report[name] != os.getpid():
            os.kill(report[name], signal.SIGTERM)
    assert end_of(engine, "a") == Ended("a", Exit.RETURNED, "stopped")


def ignore_sigterm(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_until_told(folder)


@pytest.mark.slow
def test_a_job_that_ignores_sigterm_is_killed(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    engine.submit(Job("a", tmp_path, partial(ignore_sigterm, tmp_path)))
    pid = await_report(engine).report["pid"]
    engine.cancel("a")
    assert end_of(engine, "a") == Ended("a", Exit.CANCELLED, cause="cancelled")
    assert is_gone(pid)


def test_a_job_that_does_not_end_after_its_answer_is_killed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def task() -> str:
        threading.Thread(target=time.sleep, args=(1000,)).start()
        return "answer"

    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    engine.submit(Job("a", tmp_path, task))
    assert end_of(engine, "a") == Ended("a", Exit.RETURNED, "answer")


def test_a_large_answer_arrives(engine: Engine, tmp_path: Path) -> None:
    engine.submit(Job("a", tmp_path, lambda: bytes(10_000_000)))
    assert len(end_of(engine, "a").value) == 10_000_000


def test_a_torn_answer_is_death(engine: Engine, tmp_path: Path) -> None:
    def task() -> None:
        link = multiprocessing.current_process()._args[0]  # type: ignore[attr-defined]
        os.write(link.fileno(), b"\x00\x00\x10\x00only a part")
        os._exit(5)

    engine.submit(Job("a", tmp_path, task))
    assert end_of(engine, "a") == Ended("a", Exit.DIED, cause="exit code 5")


class Forgetful(Exception):  # noqa: N818
    """Pickles, but does not come back: unpickling calls it with its message alone."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def test_an_exception_that_cannot_be_unpickled_keeps_its_text(engine: Engine, tmp_path: Path) -> None:
    def task() -> None:
        raise Forgetful("salt", "pepper")

    engine.submit(Job("a", tmp_path, task))
    assert end_of(engine, "a").cause == "Forgetful: salt and pepper"


def fork_server_pid() -> int:
    return os.getppid()


@pytest.mark.slow
def test_a_killed_fork_server_is_replaced(engine: Engine, tmp_path: Path) -> None:
    engine.submit(Job("a", tmp_path / "a", fork_server_pid))
    server = end_of(engine, "a").value
    engine.submit(Job("b", tmp_path / "b", partial(run_until_told, tmp_path / "b")))
    pid = await_report(engine).report["pid"]
    os.kill(server, signal.SIGKILL)
    assert end_of(engine, "b").exit is Exit.DIED
    with atomic.lock(RunFolder(tmp_path / "b").lock, wait=True):
        assert is_gone(pid)
    engine.submit(Job("c", tmp_path / "c", fork_server_pid))
    assert end_of(engine, "c").value != server


@pytest.mark.parametrize("state", [{"is_initialized": True, "_is_in_bad_fork": False}, {"_is_in_bad_fork": True}])
def test_cuda_touched_before_the_fork_is_an_error(state: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(**{name: lambda value=value: value for name, value in state.items()})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    exit, error, _ = worker.read_answer(worker.answer(cloudpickle.dumps(lambda: 1)))
    assert exit is Exit.RAISED
    assert "must not touch CUDA" in str(error)
    assert "start='spawn'" in str(error)


def test_a_preloaded_torch_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    cuda = SimpleNamespace(is_initialized=lambda: False, _is_in_bad_fork=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, set_num_threads=told.append))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    worker.answer(cloudpickle.dumps(lambda: 1))
    assert told == [3]


# Coordinators in interpreters of their own

SCRIPT = """
import os
import sys
from pathlib import Path

from lowrung.store import mailbox
from lowrung.engine.base import Job
from lowrung.engine.local import LocalEngine


def task():
    import preloaded

    return [os.getcwd(), preloaded.PID == os.getppid(), preloaded.THREADS]


if __name__ == "__main__":
    with LocalEngine(slots=1000, preload=["preloaded", "no_such_module"]) as engine:
        engine.submit(Job("a", Path(sys.argv[1]), task))
        print(engine.wait()[0].value)
"""


@pytest.mark.slow
def test_a_script_beside_its_modules_works_from_any_folder(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "a folder" / "src", tmp_path / "elsewhere"
    source.mkdir(parents=True)
    elsewhere.mkdir()
    (source / "train.py").write_text(SCRIPT)
    (source / "preloaded.py").write_text("import os\nPID = os.getpid()\nTHREADS = os.environ['OMP_NUM_THREADS']\n")
    (elsewhere / "preloaded.py").write_text("raise RuntimeError('the working folder came first')")
    command = [sys.executable, "../a folder/src/train.py", str(tmp_path / "run")]
    output = subprocess.run(command, cwd=elsewhere, env=environment(), check=True, capture_output=True, text=True)
    assert output.stdout.splitlines() == [str([str(elsewhere), True, "1"])]
    assert output.stderr == ""


@pytest.mark.slow
def test_a_preload_that_fails_is_an_error_at_submit(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    result = coordinate(
        """
        engine = LocalEngine(preload=["broken"])
        try:
            engine.submit(Job("a", folder, int))
        except EngineError as error:
            print(error)
        """,
        tmp_path,
    ).communicate(timeout=PATIENCE)[0]
    assert "Preloading must not fail, but the process that imports broken ended" in result


@pytest.mark.slow
def test_a_server_starts_when_it_is_asked_to_or_with_the_first_job(tmp_path: Path) -> None:
    result = coordinate(
        """
        from multiprocessing import forkserver
        for asks in (False, True):
            engine = LocalEngine(preload=["no_such_module"])
            print(forkserver._forkserver._forkserver_pid is not None)
            if asks:
                engine.preload()
            else:
                engine.submit(Job("a", folder, int))
                engine.wait()
            print(forkserver._forkserver._forkserver_pid is not None)
            forkserver._forkserver._stop()
        """,
        tmp_path,
    ).communicate(timeout=PATIENCE)[0]
    assert result.split() == ["False", "True"] * 2


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_imports_is_replaced(tmp_path: Path) -> None:
    """However long it had imported by then."""
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "if not os.path.lexists(os.environ['FIRST']):\n"
        "    os.symlink(str(os.getpid()), os.environ['FIRST'])\n"
        "    time.sleep(1000)\n"
    )
    first = tmp_path / "first"
    coordinator = coordinate(
        f"""
        import os, signal, threading, time
        from types import SimpleNamespace
        from lowrung.engine import start
        os.environ["FIRST"] = {str(first)!r}
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=time.sleep)
        start.time = clock
        engine = LocalEngine(preload=["slow"])

        def kill():
            while not os.path.lexists(os.environ["FIRST"]):
                time.sleep(0.01)
            clock.now += 2 * start.RESTART_SECONDS
            os.kill(int(os.readlink(os.environ["FIRST"])), signal.SIGKILL)

        threading.Thread(target=kill).start()
        engine.submit(Job("a", folder, int))
        print(engine.wait()[0].value)
        """,
        tmp_path,
    )
    assert coordinator.communicate(timeout=PATIENCE)[0] == "0\n"


TOUCHES_CUDA = """
import os
PID = os.getpid()

class cuda:
    is_initialized = staticmethod(lambda: False)
    _is_in_bad_fork = staticmethod(lambda: os.getpid() != PID)
"""


def was_spawned_by(coordinator: int) -> bool:
    """Whether this process has the coordinator as its parent, and not a server that has imported torch."""
    return os.getppid() == coordinator and "torch" not in sys.modules


@pytest.mark.slow
def test_jobs_are_spawned_where_a_preload_touches_cuda(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TOUCHES_CUDA)
    result = coordinate(
        """
        import os, sys
        sys.stderr = sys.stdout
        coordinator = os.getpid()
        engine = LocalEngine(preload=["torch"])
        for key in ("a", "b"):
            engine.submit(Job(key, folder, partial(was_spawned_by, coordinator)))
            print(engine.wait()[0].value)
        """,
        tmp_path,
    ).communicate(timeout=PATIENCE)[0]
    note, *values = result.splitlines()
    assert "importing them once for all jobs touched CUDA, which fails in forked processes" in note
    assert values == ["True", "True"]


def ignore_sigterm_in_company(folder: Path) -> None:
    mailbox.post(folder, {"pids": [os.getpid(), start_a_process()]})
    ignore_sigterm(folder)


@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_no_orphan_outlives_a_killed_coordinator(tmp_path: Path, start: str) -> None:
    coordinator = coordinate(
        f"""
        engine = LocalEngine(start="{start}")
        engine.submit(Job("a", folder, partial(ignore_sigterm_in_company, folder)))
        print(*engine.wait()[0].report["pids"], flush=True)
        engine.wait()
        """,
        tmp_path,
    )
    assert coordinator.stdout is not None
    pids = coordinator.stdout.readline().split()
    coordinator.kill()
    with atomic.lock(RunFolder(tmp_path / "run").lock, wait=True):
        assert [is_gone(int(pid)) for pid in pids] == [True, True]
    coordinator.communicate()


@pytest.mark.slow
def test_an_engine_that_nobody_closed_does_not_keep_the_coordinator(tmp_path: Path) -> None:
    coordinator = coordinate(
        """
        engine = LocalEngine()
        engine.submit(Job("a", folder, partial(run_until_told, folder)))
        engine.wait()
        """,
        tmp_path,
    )
    coordinator.communicate(timeout=PATIENCE)
    assert coordinator.returncode == 0


def coordinate(code: str, folder: Path) -> "subprocess.Popen[str]":
    """Starts a coordinator that runs ``code`` with ``folder`` / "run" as ``folder``."""
    lines = [
        "from functools import partial",
        "from pathlib import Path",
        "from lowrung.engine.base import Job",
        "from lowrung.engine.local import LocalEngine",
        "from lowrung.errors import EngineError",
        "from tests.engine.test_local import ignore_sigterm_in_company, run_until_told, was_spawned_by",
        f"folder = Path({str(folder / 'run')!r})",
    ]
    program = "\n".join(lines) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(ROOT / "src", ROOT, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def environment(*path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path or [ROOT / "src"]))}
