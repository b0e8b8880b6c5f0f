"""``hydra/launcher=ray``: jobs as tasks of a Ray cluster."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.lowrung.launching import EngineLauncher, time_problems

if TYPE_CHECKING:
    from lowrung.engine.base import Engine


@dataclass
class RayLauncherConf:
    """Runs jobs on a Ray cluster (``pip install 'lowrung[ray]'``). The store must be on storage that all nodes share.

    Attributes:
        address: of a running cluster: ``host:port`` of its head, or ``auto`` for the one that this machine is part of.
            null starts one on this machine, on 127.0.0.1, for the time of the sweep.
        workers: how many jobs run at the same time. ``auto`` is as many as the cluster has room for at the start.
        cpus_per_trial: CPUs of each job, and its threads. ``auto`` is all of a node's, or with GPUs an equal share for
            each job that they take; of nodes that differ the smallest counts.
        gpus_per_trial: GPUs of each job. One, or a part of one: with 0.5 two jobs share a GPU and its memory. Where the
            cluster has no GPU, jobs run on CPUs.
        time_limit: how long a job may run: seconds, or a duration such as ``90s``, ``30m`` or ``1h30m``. A job that
            runs longer is stopped and has failed; the others go on. null is no limit.
    """

    _target_: str = "hydra_plugins.lowrung.ray_launcher.RayLauncher"
    address: Any = None
    workers: Any = "auto"
    cpus_per_trial: Any = "auto"
    gpus_per_trial: float = 1
    time_limit: Any = None


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayLauncherConf, provider="lowrung")


class RayLauncher(EngineLauncher):
    """Runs Hydra's jobs on a `lowrung.engine.ray_engine.RayEngine`.

    Args:
        address: see `RayLauncherConf`.
        workers: see `RayLauncherConf`.
        cpus_per_trial: see `RayLauncherConf`.
        gpus_per_trial: see `RayLauncherConf`.
        time_limit: see `RayLauncherConf`.
    """

    def __init__(self, address: Any, workers: Any, cpus_per_trial: Any, gpus_per_trial: float, time_limit: Any) -> None:
        self._address = address
        self._counts = {"workers": workers, "cpus_per_trial": cpus_per_trial}
        self._gpus_per_trial = gpus_per_trial
        self._time_limit = time_limit

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """See `EngineLauncher`; also where Ray is not installed, or does not answer."""
        from lowrung.engine import durations
        from lowrung.errors import EngineError, UsageError

        if problems := self.problems():
            raise UsageError(problems)
        if self._address is None:
            _keep_to_this_machine()
        from lowrung.engine.ray_engine import RayEngine

        workers, cpus = (None if count == "auto" else count for count in self._counts.values())
        try:
            return RayEngine(
                address=self._address,
                slots=workers,
                cpus_per_job=cpus,
                gpus_per_job=self._gpus_per_trial,
                preload=preload,
                time_limit=durations.seconds(self._time_limit),
            )
        except EngineError as error:
            raise UsageError(str(error)) from error

    def problems(self) -> list[str]:
        """What is wrong with the settings, before Ray is asked."""
        return [
            *_package_problems(),
            *_address_problems(self._address),
            *(problem for name, count in self._counts.items() for problem in _count_problems(name, count)),
            *_gpu_problems(self._gpus_per_trial),
            *time_problems(self._time_limit),
        ]


def _keep_to_this_machine() -> None:
    """Has a cluster of Ray's own start on loopback alone, as it does on Windows and macOS; it reads this at its import.

    Whatever address it is given for its node, it would put that of the network in the place of 127.0.0.1.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _package_problems() -> Iterator[str]:
    from lowrung.errors import install

    if importlib.util.find_spec("ray") is None:
        yield f"hydra/launcher=ray needs the package ray, which is not installed. {install('ray')}"


def _address_problems(address: Any) -> Iterator[str]:
    """What is wrong with ``hydra.launcher.address``: a client's sweep would end with its link to the cluster."""
    if address is None or address == "auto":
        return
    host, _, port = str(address).rpartition(":")
    if not host or "/" in host or "@" in host or not port.isdecimal():
        shown = str(address).rpartition("@")[2] if "@" in str(address) else address
        yield (
            f"hydra.launcher.address must be host:port of a Ray cluster, auto or null, but is {shown!r}. Start the"
            " sweep on a node of the cluster; addresses of clients (ray://) and passwords have no place here."
        )


def _count_problems(name: str, count: Any) -> Iterator[str]:
    is_whole = isinstance(count, int) and not isinstance(count, bool)
    if count != "auto" and not (is_whole and count >= 1):
        yield f"hydra.launcher.{name} must be auto or a whole number >= 1, but is {count!r}."


def _gpu_problems(gpus: float) -> Iterator[str]:
    """Ray gives whole GPUs, or one for several jobs."""
    if gpus <= 0 or (gpus > 1 and gpus != int(gpus)):
        yield (
            f"hydra.launcher.gpus_per_trial must be a whole number or a part of one GPU, and above 0, but is {gpus:g}."
            " With 0.5 two trials share a GPU. Where the cluster has none, leave it at 1."
        )
