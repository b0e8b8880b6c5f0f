"""The engine contract on a SLURM of two nodes, and what only SLURM does to jobs. See `make test-cluster`."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: make test-cluster installs it")

from lowrung.engine import node, slurm_commands
from lowrung.engine.base import Ended, Engine, Exit, Job
from lowrung.engine.interrupt import StopSignals
from lowrung.engine.slurm_engine import SlurmEngine
from lowrung.engine.slurm_submission import Options, Submitted
from lowrung.errors import EngineError, FolderInUse
from lowrung.store import layout, mailbox
from lowrung.store.layout import ROOT, RunFolder
from tests.cluster.conftest import slurm_or_skip
from tests.cluster.private_slurm import PrivateSlurm
from tests.engine.contract import ProcessEngineContract, await_report, end_of, events_of, run_until_told
from tests.terminal import PATIENCE

pytestmark = pytest.mark.slow

CANCELLED = "its job was cancelled in SLURM (scancel)"
WAITS = Options(partition="gpus")
"""What leaves a job waiting: the partition's node is down."""


def engine_with(options: Options = Options(), **settings: Any) -> SlurmEngine:  # noqa: B008
    """An engine of two slots that asks SLURM every second."""
    return SlurmEngine(**{"slots": 2, "cpus_per_job": 1, "options": options, "poll_seconds": 1.0, **settings})


class TestContract(ProcessEngineContract):
    @pytest.fixture
    def engine(self, slurm: PrivateSlurm) -> Iterator[Engine]:
        with engine_with() as engine:
            yield engine

    @pytest.fixture
    def hasty_engine(self, slurm: PrivateSlurm) -> Iterator[Engine]:
        with engine_with(time_limit=1) as engine:
            yield engine


def await_reports(engine: Engine, *keys: str) -> None:
    """Waits until each of these jobs has reported; several may in one answer."""
    waiting = set(keys)
    while waiting:
        news = engine.wait(timeout=PATIENCE)
        assert news, f"{waiting} did not report"
        waiting -= {event.key for event in news}


def await_node(engine: Engine, key: str, folder: Path) -> str:
    """SLURM's number of a job, once it runs and has reported."""
    await_reports(engine, key)
    return job_of(folder)


def job_of(folder: Path) -> str:
    submitted = Submitted.of(RunFolder(folder))
    assert submitted is not None, folder
    return submitted.job


class TestEnds:
    def test_several_jobs_are_one_array(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with() as engine:
            for key in ("a", "b"):
                engine.submit(Job(key, tmp_path / key, partial(os.getenv, "SLURM_ARRAY_JOB_ID")))
            ends = [event for event in events_of(engine, "a", "b") if isinstance(event, Ended)]
        assert len({end.value for end in ends}) == 1
        assert ends[0].value is not None
        assert not layout.slurm_folder(tmp_path / "a").exists()

    def test_a_job_that_somebody_cancels_ends_in_good_order(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with() as engine:
            engine.submit(Job("a", tmp_path, partial(handles_sigterm, tmp_path)))
            slurm.ask("scancel", await_node(engine, "a", tmp_path))
            assert end_of(engine, "a") == Ended("a", Exit.DIED, "stopped", CANCELLED)

    def test_a_waiting_job_that_somebody_cancels(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with(WAITS) as engine:
            engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
            assert engine.wait(timeout=0) == []
            (job,) = slurm.ask("squeue", "-h", "-o", "%i").split()
            slurm.ask("scancel", job)
            assert end_of(engine, "a") == Ended("a", Exit.DIED, cause=CANCELLED)

    def test_a_waiting_job_ends_with_the_sweep(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        """It cannot read its mailbox; a coordinator that is told to end would wait for days."""
        with engine_with(WAITS) as engine:
            engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
            assert engine.wait(timeout=0) == []
            mailbox.ask_to_stop(tmp_path, "pruned")
            assert engine.wait(timeout=2) == []
            mailbox.ask_to_stop(tmp_path, "cancelled")
            assert end_of(engine, "a") == Ended("a", Exit.CANCELLED, cause="cancelled")

    def test_a_job_that_is_preempted_is_evicted(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        """It has time for its checkpoint, though SLURM sends it SIGTERM twice within 50 ms."""
        with engine_with(Options(partition="low")) as engine:
            engine.submit(Job("a", tmp_path, partial(ends_as_a_run, tmp_path)))
            await_report(engine)
            other = ("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null")
            above = slurm.ask(*other, "--wrap", "sleep 1000")
            try:
                end = end_of(engine, "a")
            finally:
                slurm.ask("scancel", above)
        assert end == Ended("a", Exit.EVICTED, "saved", "SLURM ended its job: another job took its node")

    def test_jobs_whose_time_is_up(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        """One is told 90 s before; one hears nothing, as one that hangs, and is killed."""
        hears, hangs = tmp_path / "hears", tmp_path / "hangs"
        with engine_with() as engine:
            engine.submit(Job("hears", hears, partial(handles_sigterm, hears)))
            engine.submit(Job("hangs", hangs, partial(hears_nothing, hangs)))
            await_reports(engine, "hears", "hangs")
            # Now, not from the beginning: the warning would come before a job on a busy node hears it.
            for folder, minutes in ((hears, 1), (hangs, 0)):
                slurm.ask("scontrol", "update", f"JobId={job_of(folder)}", f"TimeLimit={minutes}")
            ends = {event.key: event for event in events_of(engine, "hears", "hangs") if isinstance(event, Ended)}
        said = "SLURM ended its job: "
        assert ends["hears"] == Ended("hears", Exit.EVICTED, "stopped", f"{said}its time was nearly up")
        assert ends["hangs"] == Ended("hangs", Exit.EVICTED, cause=f"{said}it reached its time limit")

    def test_a_controller_that_is_away_for_a_while(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        """A job that runs ends; what is submitted or cancelled meanwhile is, once the controller is back."""
        with engine_with() as engine:
            for key in ("ends", "is cancelled"):
                engine.submit(Job(key, tmp_path / key, partial(run_until_told, tmp_path / key)))
            await_reports(engine, "ends", "is cancelled")
            slurm.stop_controller()
            try:
                engine.cancel("is cancelled")
                mailbox.ask_to_stop(tmp_path / "ends")
                assert end_of(engine, "ends") == Ended("ends", Exit.RETURNED, "stopped")
                engine.submit(Job("later", tmp_path / "later", lambda: "begun"))
                assert engine.wait(timeout=0) == []
            finally:
                slurm.start_controller()
            ends = {
                event.key: event for event in events_of(engine, "is cancelled", "later") if isinstance(event, Ended)
            }
        assert ends["is cancelled"] == Ended("is cancelled", Exit.CANCELLED, cause="cancelled")
        assert ends["later"].value == "begun"

    def test_a_node_that_is_lost(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with() as engine:
            engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
            job = await_node(engine, "a", tmp_path)
            lost = slurm_commands.states([job])[job].nodes
            slurm.kill_node(lost)
            try:
                assert end_of(engine, "a") == Ended("a", Exit.EVICTED, cause="SLURM ended its job: its node failed")
                engine.submit(Job("a", tmp_path, os.uname))
                assert end_of(engine, "a").exit is Exit.RETURNED
            finally:
                slurm.return_node(lost)

    def test_a_step_that_is_killed_as_a_whole(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with() as engine:
            engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
            slurm.ask("scancel", "--signal=KILL", await_node(engine, "a", tmp_path))
            end = end_of(engine, "a")
        assert end.exit is Exit.DIED
        assert end.cause in ("SLURM says that its job ended as FAILED", CANCELLED)


def handles_sigterm(folder: Path) -> str:
    """Ends in good order when SLURM says so, as a run does."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    return run_until_told(folder)


def ends_as_a_run(folder: Path) -> str:
    """Ends in good order with a checkpoint that takes a moment to write; a second signal would end it at once."""
    with StopSignals() as signals:
        mailbox.post(folder, {"pid": os.getpid()})
        while not signals.is_to_stop:
            time.sleep(0.001)
        for _ in range(100):  # not one sleep: Python takes two signals that come during a call for one
            time.sleep(0.005)
    return "saved"


def hears_nothing(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mailbox.post(folder, {"pid": os.getpid()})
    time.sleep(PATIENCE)


def test_why_a_job_waits(slurm: PrivateSlurm, tmp_path: Path) -> None:
    with engine_with(WAITS) as engine:
        assert engine.waiting("a") is None
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        assert engine.waiting("a") == ""
        slurm.until("SLURM says why", lambda: not engine.wait(timeout=0.1) and bool(engine.waiting("a")))
        assert "n3" in str(engine.waiting("a")) or "DOWN" in str(engine.waiting("a"))
    with engine_with() as engine:
        engine.submit(Job("b", tmp_path, partial(run_until_told, tmp_path)))
        await_report(engine)
        assert engine.waiting("b") is None


class TestAnotherCoordinator:
    def test_a_running_job_of_one_that_was_killed_is_adopted(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        left = left_behind(tmp_path, "debug")
        with engine_with() as engine:
            assert not engine.adopt("b", tmp_path / "another")
            assert engine.adopt("b", tmp_path)
            await_report(engine)
            mailbox.ask_to_stop(tmp_path)
            assert end_of(engine, "b") == Ended("b", Exit.RETURNED, "stopped")
            assert not engine.adopt("b", tmp_path)
        assert len(slurm.ask("sacct", "-X", "-n", "-j", left).splitlines()) == 1

    def test_a_waiting_one_too(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        left_behind(tmp_path, "gpus")
        with engine_with() as engine:
            assert engine.adopt("b", tmp_path)
            assert engine.wait(timeout=0) == []
            engine.cancel("b")
            assert end_of(engine, "b") == Ended("b", Exit.CANCELLED, cause="cancelled")

    def test_a_new_job_for_the_folder_ends_an_earlier_one(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        left = left_behind(tmp_path, "debug")
        with engine_with() as engine:
            engine.submit(Job("b", tmp_path, lambda: "new"))
            assert end_of(engine, "b").value == "new"
        assert slurm_commands.states([left])[left].has_ended

    def test_what_ended_without_any_leaves_no_files(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        left = left_behind(folder, "debug")
        with engine_with() as engine:
            engine.tidy(tmp_path)
            assert Submitted.of(RunFolder(folder)) is not None
            mailbox.ask_to_stop(folder)
            slurm.until("it has ended", lambda: slurm_commands.states([left])[left].has_ended)
            engine.tidy(tmp_path)
        assert Submitted.of(RunFolder(folder)) is None
        assert not layout.slurm_folder(folder).exists()

    def test_one_that_runs_keeps_its_jobs(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with(WAITS) as engine, engine_with() as other:
            engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
            assert engine.wait(timeout=0) == []
            with pytest.raises(FolderInUse):
                other.adopt("a", tmp_path)
            with pytest.raises(FolderInUse):
                other.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))


LEAVES = """
import os, signal, sys
from functools import partial
from pathlib import Path
from tests.cluster.test_slurm_engine import Job, Options, engine_with, run_until_told
engine = engine_with(Options(partition=sys.argv[2]))
engine.submit(Job("a", Path(sys.argv[1]), partial(run_until_told, Path(sys.argv[1]))))
engine.wait(timeout=None if sys.argv[2] == "debug" else 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_behind(folder: Path, partition: str) -> str:
    """The job of a coordinator that was killed: it has reported, or waits in a partition whose node is down."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", LEAVES, str(folder), partition], env=variables, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    submitted = Submitted.of(RunFolder(folder))
    assert submitted is not None
    return submitted.job


class TestEnvironment:
    def test_what_a_job_has_of_the_coordinators(
        self, slurm: PrivateSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A coordinator may be a job itself, whose variables would set options of its jobs."""
        given = {"HF_TOKEN": "hf-secret,with a comma", "SECRET": "of the shell"}
        outer = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "13", "SBATCH_PARTITION": "gpus", "SLURM_NTASKS": "9"}
        for name, value in {**given, **outer, "CUDA_VISIBLE_DEVICES": "5"}.items():
            monkeypatch.setenv(name, value)
        setup = ["# a comment", "export FROM_SETUP=1"]
        with engine_with(Options(setup=setup)) as engine:
            engine.submit(Job("a", tmp_path / "a", partial(seen_and_told, tmp_path / "a")))
            await_report(engine)
            written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
            mailbox.ask_to_stop(tmp_path / "a")
            seen = end_of(engine, "a").value
        assert len(written) >= 5
        assert not any(b"hf-secret" in content for content in written)
        assert os.environ["SLURM_JOB_ID"] == "77"
        assert {name: seen.get(name) for name in given} == {"HF_TOKEN": given["HF_TOKEN"], "SECRET": None}
        assert (seen["FROM_SETUP"], seen.get("CUDA_VISIBLE_DEVICES"), seen["SLURM_NTASKS"]) == ("1", None, "1")
        assert seen["SLURM_JOB_ID"] != "77"


def seen_and_told(folder: Path) -> dict[str, str]:
    run_until_told(folder)
    return dict(os.environ)


class TestNodesThatCannot:
    @pytest.mark.parametrize(
        ("setup", "problem"),
        [
            ("module load no-such-module", "lowrung: setup line failed (hydra.launcher.setup): module load no-such"),
            ("exec >/dev/null 2>&1; exit 1", "must be on storage that all nodes share, but job"),
            ("export PATH=/nowhere", "srun: command not found"),
        ],
    )
    def test_a_job_that_does_not_begin(self, slurm: PrivateSlurm, tmp_path: Path, setup: str, problem: str) -> None:
        with engine_with(Options(setup=[setup])) as engine:
            engine.submit(Job("a", tmp_path, lambda: None))
            with pytest.raises(EngineError) as caught:
                engine.wait(timeout=PATIENCE)
        assert problem in str(caught.value)

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"token": "of another storage"}, "does not see in"),
            ({"working_folder": Path("/no/such")}, "does not see in /no/such what"),
            ({"made_with": {**node.made_with(), "torch": "1.0"}}, "instead of 1.0. Install"),
        ],
    )
    def test_a_node_that_differs(
        self,
        slurm: PrivateSlurm,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        changed: dict[str, Any],
        problem: str,
    ) -> None:
        needs = dataclasses.replace(node.Needs.of(tmp_path / "a"), **changed)
        with engine_with() as engine:
            monkeypatch.setattr(node.Needs, "of", lambda folder: needs)
            engine.submit(Job("a", tmp_path / "a", lambda: None))
            with pytest.raises(EngineError) as caught:
                engine.wait(timeout=PATIENCE)
            monkeypatch.undo()
            engine.submit(Job("b", tmp_path / "b", lambda: None))
            assert end_of(engine, "b").exit is Exit.RETURNED
            monkeypatch.setattr(node.Needs, "of", lambda folder: needs)  # as of a node that comes later
            engine.submit(Job("a", tmp_path / "a", lambda: None))
            ended = end_of(engine, "a")
        assert problem in str(caught.value)
        assert (ended.exit, str(ended.value)) == (Exit.RAISED, str(caught.value))

    def test_what_slurm_refuses(self, slurm: PrivateSlurm, tmp_path: Path) -> None:
        with engine_with(Options(partition="nope")) as engine:
            engine.submit(Job("a", tmp_path, lambda: None))
            with pytest.raises(EngineError, match=r"SLURM must take the sweep's jobs, but it does not: .*partition"):
                engine.wait()


def test_without_accounting_the_end_of_a_job_is_seen_too(tmp_path: Path) -> None:
    """The queue itself is asked, not sacct."""
    with slurm_or_skip(accounting=False) as cluster, engine_with() as engine:
        engine.submit(Job("a", tmp_path, partial(run_until_told, tmp_path)))
        cluster.ask("scancel", await_node(engine, "a", tmp_path))
        assert end_of(engine, "a").cause == CANCELLED
