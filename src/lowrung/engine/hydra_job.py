"""Hydra jobs on an engine: what every launcher of lowrung has in common."""

import dataclasses
import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung.config.interpolation import absolute, own_hydra_node
from lowrung.engine import worker
from lowrung.engine.base import Ended, Engine, Exit, Job
from lowrung.errors import EngineError
from lowrung.store.layout import RunFolder

log = logging.getLogger(__name__)


def task_maker(hydra_context: HydraContext) -> Callable[[TaskFunction, DictConfig], Callable[[], JobReturn]]:
    """Makes what packs a sweep's Hydra jobs, so that they can run in other processes.

    Args:
        hydra_context: as given to the launcher or sweeper.

    Returns:
        a function of a job's task function, the one below ``@hydra.main``, and of its composed config, with
        ``hydra.job.num`` and ``hydra.job.id`` set, that makes a task for an engine. A task function that raises makes
        the task return a `JobReturn` whose status is ``FAILED`` and whose return value raises that exception; its
        traceback is printed.
    """
    singletons = Singleton.get_state()  # once: to copy them takes 6 ms
    return lambda task_function, config: HydraTask(hydra_context, task_function, config, singletons)


@dataclasses.dataclass(frozen=True)
class HydraTask:
    """A Hydra job, for a process of its own; see `task_maker`."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: Any

    def __call__(self) -> JobReturn:
        """Runs the job in its folder."""
        _set_singletons(self.singletons)
        setup_globals()
        result = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if result.status is JobStatus.FAILED:
            traceback.print_exception(result._return_value)
            result.return_value = worker.portable(result._return_value)
        return result


def _set_singletons(state: Any) -> None:
    """Hydra's own function, but with the plugins that this process knows: to look for them anew takes 30 ms a run."""
    Singleton.set_state({**state, "instances": {**state["instances"], Plugins: Plugins.instance()}})


def launch(
    engine: Engine,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Runs a batch of Hydra jobs to their ends: what `hydra.plugins.launcher.Launcher.launch` is to do.

    Args:
        engine: where they run; it stays open.
        hydra_context: as given to the launcher.
        task_function: the function below ``@hydra.main``.
        config: the sweep's config, as given to the launcher.
        job_overrides: for each job, the overrides that make it.
        initial_job_idx: the number of the first job.

    Returns:
        one result a job, in the order of ``job_overrides``. A job whose process died has failed with an `EngineError`.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    log.info("Launching %d jobs, %d at a time", len(job_overrides), engine.slots)
    make_task = task_maker(hydra_context)
    configs: dict[str, DictConfig] = {}
    results: dict[str, JobReturn] = {}
    for number, overrides in enumerate(job_overrides, start=initial_job_idx):
        while len(configs) - len(results) >= engine.slots:
            _collect(engine, configs, results)
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        job_config = _compose(hydra_context, config, overrides, number)
        engine.submit(Job(key=str(number), folder=output_folder(job_config), task=make_task(task_function, job_config)))
        configs[str(number)] = job_config
    while len(results) < len(configs):
        _collect(engine, configs, results)
    return [results[key] for key in configs]


def output_folder(config: DictConfig) -> Path:
    """The folder that `run_job` will use for a job of a sweep; its config may refer to itself by ``${hydra:...}``."""
    with own_hydra_node(config):
        return absolute(config.hydra.sweep.dir, str(config.hydra.sweep.subdir))


def sweep_folder(config: DictConfig) -> str:
    """The folder of all of a sweep's jobs, as a job's config has it."""
    with own_hydra_node(config):
        return str(config.hydra.sweep.dir)


def leave_files(config: DictConfig) -> None:
    """Leaves Hydra's own files in the folder of a job that need not run, as `run_job` does for one that runs."""
    if config.hydra.output_subdir is not None:
        folder = output_folder(config) / config.hydra.output_subdir
        folder.mkdir(parents=True, exist_ok=True)
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.save(ours, folder / "config.yaml")
        OmegaConf.save(OmegaConf.masked_copy(config, ["hydra"]), folder / "hydra.yaml")
        OmegaConf.save(config.hydra.overrides.task, folder / "overrides.yaml")


def _compose(hydra_context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    job_config = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id = str(number)
        job_config.hydra.job.num = number
    return job_config


def _collect(engine: Engine, configs: dict[str, DictConfig], results: dict[str, JobReturn]) -> None:
    for event in engine.wait():
        if isinstance(event, Ended):
            results[event.key] = _result(event, configs[event.key])


def _result(ended: Ended, config: DictConfig) -> JobReturn:
    if ended.exit is Exit.RETURNED:
        result: JobReturn = ended.value
        return result
    folder = output_folder(config)
    error = ended.value if ended.exit is Exit.RAISED else _lost(ended, folder)
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    failed = JobReturn(overrides=overrides, working_dir=str(folder), task_name=config.hydra.job.name)  # type: ignore[arg-type]
    failed.status = JobStatus.FAILED
    failed.return_value = error
    return failed


def _lost(ended: Ended, folder: Path) -> EngineError:
    return EngineError(
        f"A job must return or raise, but job {ended.key} did neither: {ended.cause}. Read {RunFolder(folder).log}."
    )
