"""An engine on Ray: each job is a task of a cluster, with CPUs and GPUs of its own.

Ray places tasks and says which were lost. Retries are the coordinator's, which knows of checkpoints, so Ray makes none.
"""

import atexit
import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lowrung.engine import node, ray_connection, ray_task, submission
from lowrung.engine.base import Event, Job, Reported, require_room
from lowrung.engine.process import GRACE_SECONDS
from lowrung.engine.ray_task import Refused
from lowrung.errors import EngineError, FolderInUse, first_line
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder

POLL_SECONDS = 0.2
"""Seconds between two readings of the mailboxes; the end of a job is noticed at once."""

KILL_SECONDS = 2 * GRACE_SECONDS
"""From a cancel until the whole process of Ray is killed: the job in it has `GRACE_SECONDS` for its own end."""

CHECK_SECONDS = 120.0
"""How long the nodes of a cluster may take to say whether they can run jobs: each starts a process for it."""

_NODE = "ray.io/node-id"
"""Ray's own label of a node."""


@dataclasses.dataclass
class _Running:
    """A job between `submit` and its `Ended`; ``kill_at`` is when Ray kills what was cancelled."""

    folder: Path
    request: node.Request
    ref: Any
    reader: mailbox.Reader
    is_cancelled: bool = False
    kill_at: float = float("inf")
    is_begun: bool = False

    def has_begun(self) -> bool:
        """Whether a node has taken it."""
        self.is_begun = self.is_begun or RunFolder(self.folder).node.is_file()
        return self.is_begun


class RayEngine:
    """Runs jobs as tasks of a Ray cluster.

    Args:
        address: of a node of a running cluster, ``host:port``, or ``auto`` for the one that this machine is part of.
            None starts a cluster on this machine, on loopback, which ends with the engine.
        slots: how many jobs run at the same time; None is as many as the cluster has room for now.
        cpus_per_job: CPUs of each job, and its threads; None is an equal share of a node's for each job that fits on
            its GPUs, and all of a node's where there are none. Of nodes that differ the smallest counts.
        gpus_per_job: GPUs of each job; a part of one, such as 0.5, is shared. Where the cluster has none, jobs run
            on CPUs.
        preload: modules to import once for all jobs of a Ray worker.
        time_limit: seconds after which a job that still runs is ended, unless it is not limited; None lets it run.

    Raises:
        EngineError: when the cluster does not answer, or has no node with room for a job.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        slots: int | None = None,
        cpus_per_job: int | None = None,
        gpus_per_job: float = 1,
        preload: Sequence[str] = (),
        time_limit: float | None = None,
    ) -> None:
        self._is_ours = ray_connection.join(address)
        self._is_closed = False
        self._preload, self._time_limit = list(preload), time_limit
        self._running: dict[str, _Running] = {}
        atexit.register(self.close)
        try:
            nodes = list(_alive().values())
            self._gpus = gpus_per_job if any(each.get("GPU") for each in nodes) else 0
            self.threads = cpus_per_job or _share(nodes, self._gpus)
            room = sum(_room(each, self.threads, self._gpus) for each in nodes)
            if not room:
                raise EngineError(_no_room(nodes, self.threads, self._gpus))
            self.slots = slots or room
        except BaseException:
            self.close()
            raise
        self._are_nodes_checked = False
        self._unfit: set[str] = set()
        self._task = ray.remote(ray_task.run)

    def preload(self) -> None:
        """Does nothing: which processes will run jobs is Ray's to say. Each imports before its first job."""

    def submit(self, job: Job) -> None:
        """Starts a job; see `lowrung.engine.base.Engine.submit`."""
        require_room(job.key, self._running, self.slots, is_closed=self._is_closed)
        folder = job.folder.resolve()
        if folder in (running.folder for running in self._running.values()):
            raise FolderInUse(f"Another job works in {folder}. Wait for it to end, or give this one its own folder.")
        task = submission.pickled(job)
        submission.prepare(folder)
        RunFolder(folder).node.unlink(missing_ok=True)
        needs = node.Needs.of(folder)
        self._check_nodes(needs)
        request = node.Request(
            key=job.key,
            folder=folder,
            task=task,
            variables={**node.carried(), **job.env},
            threads=self.threads,
            preload=self._preload,
            time_limit=self._time_limit if job.is_limited else None,
            needs=needs,
        )
        self._running[job.key] = _Running(folder, request, self._placed(request), mailbox.Reader(folder))

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none: jobs end with their coordinator; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Waits for reports and ends; see `lowrung.engine.base.Engine.wait`."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            events = list(self._events())
            left = deadline - time.monotonic()
            if events or not self._running or left <= 0:
                return events
            self._ended(min(POLL_SECONDS, left))

    def waiting(self, key: str) -> str | None:
        """Whether a job's task waits for room; Ray does not say why. See `lowrung.engine.base.Engine.waiting`."""
        running = self._running.get(key)
        return "" if running is not None and not running.has_begun() else None

    def tidy(self, folder: Path) -> None:
        """Finds nothing: jobs end with their coordinator; see `lowrung.engine.base.Engine.tidy`."""

    def cancel(self, key: str) -> None:
        """Ends a job by SIGTERM, and after 5 s by SIGKILL; a job that has no node yet ends at once."""
        running = self._running.get(key)
        if running is not None and not running.is_cancelled:  # a second one would take the job's time to end from it
            running.is_cancelled, running.kill_at = True, time.monotonic() + KILL_SECONDS
            with contextlib.suppress(RayError, ValueError):
                ray.cancel(running.ref, force=False)

    def close(self) -> None:
        """Cancels what still runs, waits until it is gone, and leaves the cluster; nothing is reported any more."""
        if self._is_closed:
            return
        self._is_closed = True
        for key in self._running:
            self.cancel(key)
        deadline = time.monotonic() + 2 * KILL_SECONDS
        while self._running and time.monotonic() < deadline:  # a cluster that does not answer is left alone
            self.wait(POLL_SECONDS)
        self._running.clear()
        if self._is_ours:
            ray.shutdown()
        atexit.unregister(self.close)

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_nodes(self, needs: node.Needs) -> None:
        """Asks each node once, before the first job, whether it can run jobs of this coordinator.

        Raises:
            EngineError: with what is wrong with each that cannot.
        """
        if self._are_nodes_checked:
            return
        ask = ray.remote(node.Needs.problems)
        asked = {
            one: ask.options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False)
            ).remote(needs)
            for one in _alive()
        }
        found: list[str] = []
        for one, answer in asked.items():
            try:
                problems: list[str] = ray.get(answer, timeout=CHECK_SECONDS)
            except RayError as error:
                if one not in _alive():  # lost meanwhile: Ray lists a node for seconds after its end
                    continue
                raise EngineError(
                    f"Every node must run what the coordinator runs, but one cannot be asked ({first_line(error)})."
                    " Install lowrung on all of them, in the same versions."
                ) from error
            found += problems
        if found:
            raise EngineError("\n".join(dict.fromkeys(found)))
        self._are_nodes_checked = True

    def _placed(self, request: node.Request) -> Any:
        """Hands a job to Ray, for any node that is not known to be unfit."""
        without = {_NODE: f"!in({','.join(sorted(self._unfit))})"} if self._unfit else None
        asked = self._task.options(num_cpus=self.threads, num_gpus=self._gpus, max_retries=0, label_selector=without)
        return asked.remote(request)

    def _goes_elsewhere(self, running: _Running, refused: Refused) -> bool:
        """Whether a job that a node cannot run, as one that joined later, was handed to another one."""
        nodes = _alive()
        if refused.node not in self._unfit:
            self._unfit.add(refused.node)
            print(f"warning: a node of the Ray cluster gets no trials: {refused.problems[0]}", file=sys.stderr)
        fit = nodes.keys() - self._unfit
        if running.is_cancelled or not any(_room(nodes[one], self.threads, self._gpus) for one in fit):
            return False
        running.ref = self._placed(running.request)
        return True

    def _ended(self, seconds: float) -> set[Any]:
        """The references of jobs that have ended, once there is one or the time has passed."""
        refs = [running.ref for running in self._running.values()]
        ended, _ = ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=False)
        return set(ended)

    def _events(self) -> Iterator[Event]:
        if not self._running:
            return
        refs = [running.ref for running in self._running.values()]
        ended = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])  # asked first: all that they did has happened
        gone_by = time.monotonic() + ray_task.GONE_SECONDS  # of all of a lost node together
        for key, running in list(self._running.items()):
            for report in running.reader.read():
                yield Reported(key, report)
            if running.ref in ended:
                end = ray_task.end(key, running.folder, running.ref, gone_by)
                if isinstance(end, Refused):
                    if self._goes_elsewhere(running, end):
                        continue
                    end = node.refused(key, end.problems)
                del self._running[key]
                yield end
            elif time.monotonic() >= running.kill_at:
                running.kill_at = float("inf")
                with contextlib.suppress(RayError, ValueError):
                    ray.cancel(running.ref, force=True)


def _alive() -> dict[str, dict[str, float]]:
    """What each node has, by Ray's name of it."""
    return {each["NodeID"]: each["Resources"] for each in ray.nodes() if each["Alive"]}


def _share(nodes: Sequence[dict[str, float]], gpus: float) -> int:
    """The CPUs of a job: those of the smallest node that has room for one, over the jobs that its GPUs take."""
    fit = [each for each in nodes if not gpus or each.get("GPU", 0) >= gpus] or list(nodes)
    return max(1, min(int(each.get("CPU", 0) // max(1, each.get("GPU", 0) // gpus if gpus else 1)) for each in fit))


def _room(node: dict[str, float], cpus: int, gpus: float) -> int:
    by_cpu = node.get("CPU", 0) // cpus
    return int(min(by_cpu, node.get("GPU", 0) // gpus) if gpus else by_cpu)


def _no_room(nodes: Sequence[dict[str, float]], cpus: int, gpus: float) -> str:
    has = "; ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in nodes)
    return (
        "A node of the cluster must have room for a trial, but hydra.launcher.cpus_per_trial"
        f" is {cpus}, gpus_per_trial is {gpus:g}, and the nodes have {has}. Lower them."
    )
