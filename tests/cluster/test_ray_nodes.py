"""Nodes that join a Ray cluster while a sweep runs. See `make test-cluster`."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster installs it")

import ray
from ray.cluster_utils import Cluster

from lowrung.engine import node, ray_task
from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.ray_engine import RayEngine
from lowrung.engine.ray_task import Refused
from lowrung.store import mailbox
from tests.cluster.private_ray import one_node
from tests.engine.contract import await_report, end_of, events_of, run_until_told
from tests.terminal import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A cluster of one node, with one CPU."""
    cluster = one_node()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_one_that_cannot_run_jobs_gets_none(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that it had goes to a node that can; where none is left, it fails."""
    head_node: Any = nodes.head_node  # Ray types it as None
    head, run = head_node.node_id, ray_task.run

    def refusing(request: node.Request) -> Ended | Refused:
        here = ray.get_runtime_context().get_node_id()
        return run(request) if here == head else Refused(here, ["other versions"])

    monkeypatch.setattr(ray_task, "run", refusing)
    with RayEngine(address=nodes.address, slots=2, cpus_per_job=1) as engine:
        engine.submit(Job("a", tmp_path / "a", partial(run_until_told, tmp_path / "a")))
        await_report(engine)
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        engine.submit(Job("b", tmp_path / "b", partial(str.upper, "b")))
        await_refusal(engine)
        assert engine.waiting("a") is None
        assert engine.waiting("b") == ""
        mailbox.ask_to_stop(tmp_path / "a")
        ends = {event.key: event for event in events_of(engine, "a", "b") if isinstance(event, Ended)}
        assert ends["b"] == Ended("b", Exit.RETURNED, "B")
        engine._unfit.add(head)
        engine.submit(Job("c", tmp_path / "c", partial(str.upper, "c")))
        nodes.add_node(num_cpus=1)
        end = end_of(engine, "c")
        assert end.exit is Exit.RAISED
        assert end.cause == "EngineError: other versions"
    assert capsys.readouterr().err.count("gets no trials: other versions") == 2


def await_refusal(engine: RayEngine) -> None:
    """Waits until a node has refused a job."""
    deadline = time.monotonic() + PATIENCE
    while not engine._unfit:
        assert engine.wait(timeout=0.1) == []
        assert time.monotonic() < deadline
