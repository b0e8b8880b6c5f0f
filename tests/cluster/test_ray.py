"""Ray on this machine: the engine contract, and a cluster of two nodes that loses one. See `make test-cluster`."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster installs it")

import ray
from ray.cluster_utils import Cluster

from hydra_plugins.lowrung.ray_launcher import RayLauncher
from lowrung.engine import node, ray_connection, ray_task
from lowrung.engine.base import Engine, Exit, Job
from lowrung.engine.ray_engine import RayEngine
from lowrung.errors import EngineError, FolderInUse, UsageError
from lowrung.store import atomic, mailbox
from lowrung.store.layout import ROOT, RunFolder
from tests import warm
from tests.cluster.private_ray import one_node, skip_where_ray_cannot_start
from tests.engine.contract import ProcessEngineContract, await_report, end_of
from tests.terminal import PATIENCE, command, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster on this machine that outlives its engines."""
    try:
        assert ray_connection.join(None)
    except EngineError:
        skip_where_ray_cannot_start()
        raise
    if ray.cluster_resources()["CPU"] < 2:
        ray.shutdown()
        pytest.skip("Ray sees one CPU, and the contract asks for two jobs at once")
    yield
    ray.shutdown()


class TestContract(ProcessEngineContract):
    @pytest.fixture
    def engine(self, cluster: None) -> Iterator[Engine]:
        with RayEngine(slots=2, cpus_per_job=1) as engine:
            yield engine

    @pytest.fixture
    def hasty_engine(self, cluster: None) -> Iterator[Engine]:
        with RayEngine(slots=2, cpus_per_job=1, time_limit=1) as engine:
            yield engine


def halts(folder: Path) -> None:
    """Says its process, which then hears nothing until it is told to go on."""
    mailbox.post(folder, {"pid": os.getpid()})
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_job_whose_watcher_was_killed_has_left_its_folder_when_its_end_is_told(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RayEngine(slots=1, cpus_per_job=1) as engine:
        engine.submit(Job("a", tmp_path, partial(halts, tmp_path)))
        job = int(await_report(engine).report["pid"])
        _fork_server, watcher, *_ = psutil.Process(job).parents()
        lock, held = atomic.lock, list[Path]()

        @contextlib.contextmanager
        def looked_at(path: Path) -> Iterator[None]:
            """The lock, as the engine finds it; the job goes on when it has been found held once."""
            try:
                with lock(path):
                    yield
            except FolderInUse:
                held.append(path)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job, signal.SIGCONT)
                raise

        monkeypatch.setattr(ray_task, "atomic", SimpleNamespace(lock=looked_at))
        watcher.kill()
        assert end_of(engine, "a").exit is Exit.DIED
        assert held
        with atomic.lock(RunFolder(tmp_path).lock):
            pass


class TestBadInput:
    def test_storage_that_a_node_does_not_see(self, cluster: None, tmp_path: Path, monkeypatch: Any) -> None:
        needs = dataclasses.replace(
            node.Needs.of(tmp_path), token="of another storage", working_folder=Path("/no/such")
        )
        monkeypatch.setattr(node.Needs, "of", lambda folder: needs)
        with RayEngine(slots=1, cpus_per_job=1) as engine:
            with pytest.raises(EngineError) as caught:
                engine.submit(Job("a", tmp_path, lambda: None))
            engine._are_nodes_checked = True  # as of a node that joined later
            engine.submit(Job("a", tmp_path, lambda: None))
            ended = end_of(engine, "a")
        assert f"does not see in {tmp_path} what" in str(caught.value)
        assert "does not see in /no/such what" in str(caught.value)
        assert (ended.exit, str(ended.value)) == (Exit.RAISED, str(caught.value))

    def test_other_versions_on_a_node(self, cluster: None, tmp_path: Path, monkeypatch: Any) -> None:
        with RayEngine(slots=1, cpus_per_job=1) as engine:
            needs = node.Needs.of(tmp_path)
            asked = dataclasses.replace(needs, made_with={**needs.made_with, "torch": "1.0", "a package": "2.0"})
            monkeypatch.setattr(node.Needs, "of", lambda folder: asked)
            with pytest.raises(
                EngineError, match=r"instead of 1\.0, a package not installed instead of 2\.0\. Install"
            ):
                engine.submit(Job("a", tmp_path, lambda: None))

    def test_a_job_that_fits_on_no_node(self, cluster: None) -> None:
        with pytest.raises(EngineError, match=r"must have room for a trial, but hydra.launcher.cpus_per_trial is 4096"):
            RayEngine(cpus_per_job=4096)

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ({"address": "ray://head:10001"}, "hydra.launcher.address must be host:port"),
            ({"address": "head"}, "hydra.launcher.address must be host:port"),
            ({"workers": 0}, "hydra.launcher.workers must be auto or a whole number >= 1, but is 0"),
            ({"cpus_per_trial": "2.5"}, "hydra.launcher.cpus_per_trial must be auto or a whole number"),
            ({"gpus_per_trial": 1.5}, "a whole number or a part of one GPU, and above 0, but is 1.5"),
            ({"time_limit": "soon"}, "hydra.launcher.time_limit must be seconds or a duration"),
        ],
    )
    def test_settings(self, setting: dict[str, Any], problem: str) -> None:
        settings = {
            "address": None,
            "workers": "auto",
            "cpus_per_trial": "auto",
            "gpus_per_trial": 1,
            "time_limit": None,
        }
        with pytest.raises(UsageError) as caught:
            RayLauncher(**{**settings, **setting}).make_engine([])
        assert problem in str(caught.value)

    def test_a_password_in_an_address_is_not_shown(self) -> None:
        launcher = RayLauncher("me:secret@head:6379", "auto", "auto", 1, None)
        assert "secret" not in "".join(launcher.problems())


LISTENING = """
import psutil
from hydra_plugins.lowrung.ray_launcher import RayLauncher
with RayLauncher(None, 1, 1, 1, None).make_engine([]):
    ours = {process.pid for process in psutil.Process().children(recursive=True)} | {psutil.Process().pid}
    for each in psutil.net_connections("tcp"):
        if each.status == "LISTEN" and each.pid in ours:
            print(each.laddr.ip)
"""


def test_a_cluster_of_its_own_listens_on_loopback_alone(cluster: None, tmp_path: Path) -> None:
    variables = environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    if "timed out during startup" in done.stderr:
        pytest.skip("Ray's 30 s for the start of a node are too few here")
    addresses = [line.removeprefix("::ffff:") for line in done.stdout.split()]
    assert addresses, done.stderr
    assert set(addresses) == {"127.0.0.1"}


@pytest.mark.parametrize("listens", [False, True], ids=["nothing listens", "something else listens"])
def test_an_address_that_does_not_answer_is_one_sentence(tmp_path: Path, listens: bool) -> None:
    """Ray itself asks whatever listens there for 13 minutes."""
    code = (
        "from lowrung.engine.ray_engine import RayEngine; from lowrung.errors import EngineError; import sys\n"
        "try: RayEngine(address=sys.argv[1])\n"
        "except EngineError as error: print(error)"
    )
    variables = environment(PYTHONPATH=str(ROOT / "src"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1] if listens else 9}"
        shown = subprocess.run(
            [sys.executable, "-c", code, address], env=variables, cwd=tmp_path, capture_output=True, text=True
        )
    assert f"hydra.launcher.address={address} does not" in shown.stdout, shown.stderr
    assert not shown.stderr


FULL = """
import signal, sys
from pathlib import Path
from lowrung.engine.base import Ended, Job
from lowrung.engine.ray_engine import RayEngine
with RayEngine(slots=1, cpus_per_job=1) as engine:
    engine._are_nodes_checked = True  # a node that has no memory answers nothing
    engine.submit(Job("a", Path(sys.argv[1]), signal.pause))
    print(*(f"{each.exit}: {each.cause}" for each in engine.wait() if isinstance(each, Ended)))
"""


def test_a_job_that_ray_ends_for_want_of_memory_is_told_so(cluster: None, tmp_path: Path) -> None:
    """Ray looks at the memory of the whole node, and ends tasks where too much of it is used: here one percent."""
    limits = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    variables = environment(PYTHONPATH=str(ROOT / "src"), **limits)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    if "timed out during startup" in done.stderr:
        pytest.skip("Ray's 30 s for the start of a node are too few here")
    assert done.stdout == "out of memory: memory of its node ran out, and Ray ended its process\n", done.stderr


SWEEP = [
    *("-m", "model=tiny", "data=number_words", "data.train_size=64", "data.eval_size=8", "data.metrics=[]"),
    *("lora.r=1,2,3", "train.max_steps=200", "train.eval_steps=10", "verify.prompts=2", "verify.new_tokens=2"),
    *("study=s", "hydra/launcher=ray", "hydra.launcher.cpus_per_trial=1", "hydra.launcher.workers=2"),
]


def test_a_node_is_lost_in_the_middle_of_a_sweep_whose_coordinator_is_told_to_end(tmp_path: Path) -> None:
    nodes = one_node()
    try:
        lost = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        with sweep_on(nodes, tmp_path) as (process, printed):
            until(process, printed, lambda: all(reported(tmp_path, trial) > 10 for trial in (0, 1)))  # one on each
            nodes.remove_node(lost, allow_graceful=False)
            until(process, printed, lambda: "Ray lost its process or its node" in printed.read_text())
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(PATIENCE) == 143, printed.read_text()
        with sweep_on(nodes, tmp_path) as (process, printed):
            assert process.wait(PATIENCE) == 0, printed.read_text()
        assert "the same command goes on from here" in printed.read_text()
        rows = json.loads((tmp_path / "multirun" / "s" / "leaderboard.json").read_text())
        assert [row["status"] for row in rows] == ["complete"] * 3
    finally:
        nodes.shutdown()


@contextmanager
def sweep_on(nodes: Cluster, folder: Path) -> Iterator[tuple[warm.Started, Path]]:
    """A sweep's process and what it prints; it is killed at the end of the block where it still runs."""
    typed = command(*SWEEP, f"hydra.launcher.address={nodes.address}")[1:]
    with (folder / "printed").open("ab") as printed, Path(os.devnull).open("rb") as nothing:
        process = warm.start(typed, folder, environment(), (nothing, printed, printed))
    try:
        yield process, folder / "printed"
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


def reported(folder: Path, trial: int) -> int:
    return len(mailbox.Reader(folder / "multirun" / "s" / str(trial) / "run").read())


def until(process: warm.Started, printed: Path, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, printed.read_text()
        assert time.monotonic() < deadline, printed.read_text()
        time.sleep(0.05)
