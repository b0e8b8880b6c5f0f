"""``hydra/launcher=slurm``: jobs as jobs of a SLURM cluster."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, List  # noqa: UP035  (OmegaConf reads the annotation)

from hydra.core.config_store import ConfigStore

from hydra_plugins.lowrung.launching import EngineLauncher, time_problems

if TYPE_CHECKING:
    from lowrung.engine.base import Engine
    from lowrung.engine.slurm_words import Wanted


@dataclass
class SlurmLauncherConf:
    """Runs jobs on SLURM (``pip install 'lowrung[slurm]'``). The store must be on storage that all nodes share.

    Attributes:
        partition: where jobs wait; several as ``"hydra.launcher.partition='a,b'"``. null is the cluster's
            default, as in all fields below.
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
        self._found: tuple[list[str], bool] | None = None

    def make_engine(self, preload: Sequence[str]) -> "Engine":
        """See `EngineLauncher`; also where submitit or SLURM is not there, or no node has room for a job."""
        from lowrung.engine import durations
        from lowrung.errors import UsageError

        problems, has_gpus = self._find()
        if problems:
            raise UsageError(problems)
        from lowrung.engine.slurm_engine import SlurmEngine
        from lowrung.engine.slurm_submission import Options

        return SlurmEngine(
            slots=self._asked.workers,
            cpus_per_job=self._asked.cpus_per_trial,
            options=Options.of(self._wanted(), setup=list(self._asked.setup), has_gpus=has_gpus),
            preload=preload,
            time_limit=durations.seconds(self._asked.time_limit),
            poll_seconds=self._asked.poll_seconds,
        )

    def problems(self) -> list[str]:
        """What is wrong with the settings, or asks for what the cluster has not."""
        return self._find()[0]

    def _find(self) -> tuple[list[str], bool]:
        """What is wrong, and whether jobs run on GPUs; SLURM is asked once."""
        if self._found is None:
            from lowrung.engine import slurm_cluster, slurm_words

            missing = [*_package_problems(), *slurm_cluster.command_problems()]
            wrong = [*_number_problems(self._asked), *time_problems(self._asked.time_limit)]
            wrong += slurm_words.problems(self._wanted())
            lacking, has_gpus = ([], False) if missing or wrong else slurm_cluster.problems(self._wanted())
            self._found = [*missing, *wrong, *lacking], has_gpus
        return self._found

    def _wanted(self) -> "Wanted":
        from lowrung.engine.slurm_words import Wanted

        asked = self._asked
        texts = {name: getattr(asked, name) for name in ("partition", "account", "qos", "gres", "constraint")}
        texts |= {name: getattr(asked, name) for name in ("time", "memory")}
        return Wanted(
            **{name: None if text is None else str(text) for name, text in texts.items()},
            cpus=asked.cpus_per_trial,
            gpus=asked.gpus_per_trial,
        )


def _package_problems() -> Iterator[str]:
    from lowrung.errors import install

    if importlib.util.find_spec("submitit") is None:
        yield f"hydra/launcher=slurm needs the package submitit, which is not installed. {install('slurm')}"


def _number_problems(asked: SlurmLauncherConf) -> Iterator[str]:
    for name in ("workers", "cpus_per_trial", "gpus_per_trial"):
        if getattr(asked, name) < 1:
            yield f"hydra.launcher.{name} must be a whole number >= 1, but is {getattr(asked, name)}."
    if asked.poll_seconds < 1:
        yield (
            f"hydra.launcher.poll_seconds must be at least 1, but is {asked.poll_seconds:g}. SLURM's controller answers"
            " all users of the cluster."
        )
