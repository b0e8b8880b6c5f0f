"""``hydra/launcher=slurm``: jobs as jobs of a SLURM cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, List  # noqa: UP035  (OmegaConf reads the annotation)

from hydra.core.config_store import ConfigStore

from hydra_plugins.lowrung.launching import EngineLauncher, time_problems

if TYPE_CHECKING:
    from lowrung.engine.base import Engine


@dataclass
class SlurmLauncherConf:
    """Runs jobs on SLURM (``pip install 'lowrung[slurm]'``). The store must be on storage that all nodes share.

    Attributes:
        partition: where jobs wait; several with commas. null is the cluster's default, as in all fields below.
        account: that jobs are charged to.
        qos: quality of service.
        gres: generic resources as SLURM names them. GPUs of one kind with ``gpu:a100:1``: as many as gpus_per_trial.
        time: after which SLURM ends a job: a duration such as ``90m`` or ``4h``, or as SLURM writes it
            (``1-00:00:00``). A run that is not done by then goes on in a further job, from its checkpoint.
        memory: of a node for each job, as SLURM writes it, ``32G``.
        constraint: features that a node must have.
        setup: lines of bash that run on the node before each job, such as ``module load cuda``. One that fails ends it.
        workers: how many jobs wait or run at the same time.
        cpus_per_trial: CPUs of each job, and its threads.
        gpus_per_trial: GPUs of each job. Where the partition has none, jobs run on CPUs.
        time_limit: how long a run may take in one job: seconds, or a duration such as ``90s``, ``30m`` or ``1h30m``. A
            run that takes longer is stopped and has failed; the others go on. null is no limit.
        poll_seconds: how often SLURM is asked for the states of all jobs, in one call. Ends that jobs report themselves
            are seen at once.
    """

    _target_: str = "hydra_plugins.lowrung.slurm_launcher.SlurmLauncher"
    partition: Any = None
    account: Any = None
    qos: Any = None
    gres: Any = None
    time: Any = None
    memory: Any = None
    constraint: Any = None
    setup: List[str] = field(default_factory=list)  # noqa: UP006
    workers: int = 8
    cpus_per_trial: int = 4
    gpus_per_trial: int = 1
    time_limit: Any = None
    poll_seconds: float = 10


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="lowrung")


class SlurmLauncher(EngineLauncher):
    """Runs Hydra's jobs on a `lowrung.engine.slurm_engine.SlurmEngine`.

    Args:
        asked: the fields of `SlurmLauncherConf`.
    """

    def __init__(self, **asked: Any) -> None:
        self._asked = SlurmLauncherConf(**asked)

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """See `EngineLauncher`; also where submitit or SLURM is not there, or no node has room for a job."""
        from lowrung.engine import durations
        from lowrung.errors import UsageError

        if problems := self.problems():
            raise UsageError(problems)
        from lowrung.engine.slurm_engine import SlurmEngine
        from lowrung.engine.slurm_submission import Options

        asked = self._asked
        return SlurmEngine(
            slots=asked.workers,
            cpus_per_job=asked.cpus_per_trial,
            options=Options(
                partition=asked.partition,
                account=asked.account,
                qos=asked.qos,
                gres=asked.gres,
                memory=asked.memory,
                constraint=asked.constraint,
                setup=list(asked.setup),
            ),
            preload=preload,
            time_limit=durations.seconds(asked.time_limit),
            poll_seconds=asked.poll_seconds,
        )

    def problems(self) -> list[str]:
        """What is wrong with the settings, or asks for what the cluster has not."""
        return time_problems(self._asked.time_limit)
