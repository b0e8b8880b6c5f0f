"""Sweeps on a SLURM of two nodes: as users type them, and what befalls them there. See `make test-cluster`."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytest.importorskip("submitit", reason="submitit is not installed: make test-cluster installs it")

from lowrung.engine import cores, slurm_commands
from lowrung.engine.slurm_submission import Submitted
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder
from tests import warm
from tests.cluster.private_slurm import PrivateSlurm
from tests.terminal import PATIENCE, command, environment

pytestmark = pytest.mark.slow

SWEEP = [
    *("-m", "model=tiny", "data=number_words", "data.train_size=64", "data.eval_size=8", "data.metrics=[]"),
    *("train.max_steps=200", "train.eval_steps=10", "verify.prompts=2", "verify.new_tokens=2", "study=s"),
]
FIRST, BOTH = "lora.r=1", "lora.r=1,2"
ON_SLURM = [
    *("hydra/launcher=slurm", "hydra.launcher.cpus_per_trial=1", "hydra.launcher.workers=2"),
    "hydra.launcher.poll_seconds=1",
]


class Sweep:
    """A sweep's process, what it prints, and the folders of its trials' runs."""

    def __init__(self, folder: Path, searched: str, partition: str = "debug") -> None:
        self.folder, self.study = folder, folder / "multirun" / "s"
        self.typed = command(*SWEEP, searched, *ON_SLURM, f"hydra.launcher.partition={partition}")
        self._file = folder / "printed"

    @contextmanager
    def started(self) -> Iterator[warm.Started]:
        """Starts it; it is killed at the end of the block where it still runs."""
        with self._file.open("ab") as printed, Path(os.devnull).open("rb") as nothing:
            process = warm.start(self.typed[1:], self.folder, environment(), (nothing, printed, printed))
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)

    @property
    def printed(self) -> str:
        return self._file.read_text()

    def run(self, trial: int) -> RunFolder:
        return RunFolder((self.study / str(trial) / "run").resolve())

    def job(self, trial: int) -> str:
        """SLURM's number of a trial's job; empty between two of them."""
        submitted = Submitted.of(self.run(trial))
        return submitted.job if submitted else ""

    def await_progress(self, process: warm.Started, *trials: int) -> None:
        """Waits until these trials have trained for a while."""
        self.until(process, lambda: all(len(mailbox.Reader(self.run(one).path).read()) > 10 for one in trials))

    def await_next_job(self, process: warm.Started, before: str) -> None:
        """Waits until the first trial has another job than this one, which has trained for a while."""
        self.until(process, lambda: self.job(0) not in ("", before))
        self.await_progress(process, 0)

    def training(self, trial: int) -> psutil.Process:
        """The process that works in the folder of a trial's run."""
        lock = str(self.run(trial).lock)
        [found] = [one for one in psutil.process_iter() if lock in _open_files(one)]
        return found

    def until(self, process: "warm.Started | subprocess.Popen[bytes]", holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)

    def peak(self, trial: int) -> float:
        """The most bytes of memory that a trial's run has had."""
        peak: float = json.loads(self.run(trial).outcome.read_text())["measurements"]["memory/peak_bytes"]
        return peak

    def losses(self) -> dict[int, float]:
        """The results, by trial; all are complete, and nothing is left behind."""
        rows = json.loads((self.study / "leaderboard.json").read_text())
        assert {row["status"] for row in rows} == {"complete"}, self.printed
        assert not (self.folder / "runs" / ".slurm").exists()
        return {row["trial"]: row["metrics"]["eval/loss"] for row in rows}


def _open_files(process: psutil.Process) -> list[str]:
    try:
        return [file.path for file in process.open_files()]
    except psutil.Error:  # it has just ended
        return []


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A sweep on this machine of the first trial alone, with as many threads for it.

    Attributes:
        folder: in which it ran.
        loss: its result.
    """

    folder: Path
    loss: float

    def begun_anew(self, partition: str) -> Sweep:
        """The same sweep on SLURM in the same folder: the store has the preflight, and no run."""
        runs = [path for path in (self.folder / "runs").iterdir() if not path.name.startswith(".")]
        for path in [*runs, self.folder / "multirun"]:
            shutil.rmtree(path)
        (self.folder / "printed").unlink(missing_ok=True)
        return Sweep(self.folder, FIRST, partition)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    here = Sweep(tmp_path_factory.mktemp("here"), FIRST)
    done = warm.train(here.folder, *SWEEP, FIRST, f"hydra.launcher.workers={cores.usable_cores()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return Undisturbed(here.folder, here.losses()[0])


def test_a_cancelled_job_and_a_coordinator_that_dies(
    slurm: PrivateSlurm, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """It is started again as a job of its own, and adopts those of the first one."""
    sweep = Sweep(tmp_path, BOTH)
    with sweep.started() as process:
        sweep.await_progress(process, 0, 1)
        cancelled = sweep.job(0)
        slurm.ask("scancel", cancelled)
        sweep.await_next_job(process, cancelled)
        assert "was cancelled in SLURM" in sweep.printed
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
    left = slurm.ask("squeue", "-h", "-r", "-o", "%i").split()
    assert sweep.job(0) in left
    training = sweep.training(0)
    training.suspend()  # else it may be done before another coordinator has begun
    again = ["sbatch", "--wait", "--open-mode=append", f"--output={tmp_path / 'printed'}", f"--chdir={tmp_path}"]
    adopts = "goes on with the job that an earlier start of a sweep has left"
    with subprocess.Popen([*again, f"--wrap={shlex.join(sweep.typed)}"], env=environment()) as process:
        try:
            sweep.until(process, lambda: adopts in sweep.printed)
        finally:
            training.resume()
        assert process.wait(PATIENCE) == 0, sweep.printed
    assert "(its job was cancelled in SLURM (scancel)); tried again" in sweep.printed
    losses = sweep.losses()
    assert losses[0] == undisturbed.loss
    assert losses.keys() == {0, 1}
    slurm.until("no job is left", lambda: not slurm.ask("squeue", "-h"))


def test_a_run_that_loses_its_node_twice_and_its_coordinator(slurm: PrivateSlurm, undisturbed: Undisturbed) -> None:
    """Another job takes its node, the next node dies, then the coordinator is told to end."""
    sweep = undisturbed.begun_anew("low")
    with sweep.started() as process:
        sweep.await_progress(process, 0)
        first = sweep.job(0)
        other = ("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 1000")
        above = slurm.ask(*other)
        try:
            sweep.until(process, lambda: "another job took its node" in sweep.printed)
            assert "another job took its node; goes on from step" in sweep.printed
        finally:
            slurm.ask("scancel", above)
        sweep.await_next_job(process, first)
        second = sweep.job(0)
        lost = slurm_commands.states([second])[second].nodes
        slurm.kill_node(lost)
        try:
            sweep.await_next_job(process, second)
            assert "SLURM ended its job: its node failed" in sweep.printed
        finally:
            slurm.return_node(lost)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 143, sweep.printed
    assert sweep.printed.index("trial 0: submitted") < sweep.printed.index("trial 0: started")
    assert "the same command goes on from here" in sweep.printed
    assert list(sweep.run(0).checkpoints.glob("checkpoint-*"))
    slurm.until("no job is left", lambda: not slurm.ask("squeue", "-h"))
    with sweep.started() as process:
        assert process.wait(PATIENCE) == 0, sweep.printed
    assert sweep.losses() == {0: undisturbed.loss}


def test_a_run_of_two_ranks_is_one_job_and_trains_as_one_process_does(slurm: PrivateSlurm, tmp_path: Path) -> None:
    here, there = Sweep(tmp_path / "here", FIRST), Sweep(tmp_path / "there", FIRST)
    few = ["train.max_steps=4", "train.eval_steps=4", "train.batch_size=4", "track=none"]
    ranks = ["train.parallel=fsdp", "train.ranks=2", *ON_SLURM[:1], "hydra.launcher.cpus_per_trial=2"]
    for sweep, more in ((here, []), (there, ranks)):
        sweep.folder.mkdir()
        warm.succeeds(sweep.folder, *SWEEP, FIRST, *few, *more)
    assert there.peak(0) > 1.5 * here.peak(0)  # it is the sum over two processes, each with its own libraries
    assert there.losses()[0] == pytest.approx(here.losses()[0], rel=1e-6)  # measured: 4e-10


def test_all_that_the_cluster_cannot_give_is_said_at_once(slurm: PrivateSlurm, tmp_path: Path) -> None:
    asked = [
        *("partition=short", "account=nope", "qos=nope", "cpus_per_trial=40", "gpus_per_trial=3", "memory=1T"),
        *("constraint=fast", "time=4h"),
    ]
    before = slurm.ask("squeue", "-h", "-o", "%i")
    done = warm.train(tmp_path, *SWEEP, BOTH, *ON_SLURM, *(f"hydra.launcher.{one}" for one in asked))
    assert done.returncode == 2
    said = done.stdout + done.stderr
    for one in asked[1:]:
        assert f"hydra.launcher.{one.partition('=')[0]} must" in said, said
    assert not (tmp_path / "multirun").exists()
    assert slurm.ask("squeue", "-h", "-o", "%i") == before
