"""The two ways to sweep that are compared: lowrung's, and Hydra's batches. Both run in the current folder."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.simulation import SimulatedEngine
from lowrung.config import structured
from lowrung.engine import hydra_job
from lowrung.store.layout import ROOT

RANKS = (4, 8, 16, 32)
RATES = (1e-5, 1e-1)
FIXED = ("model=tiny", "data=number_words", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled")


def lowrung(engine: SimulatedEngine, runs: int, *, tracks: bool) -> None:
    """A sweep by lowrung's coordinator, as ``python src/train.py -m`` runs it: Hydra, Optuna in SQLite, MLflow.

    Args:
        engine: stands for the processes.
        runs: trials of the sweep.
        tracks: whether it is tracked in MLflow.
    """
    searched = (f"lora.r={','.join(map(str, RANKS))}", f"train.learning_rate=tag(log,interval({RATES[0]},{RATES[1]}))")
    track = () if tracks else ("track=none",)
    with _composed(["study=free", f"hydra.sweeper.n_trials={runs}", *track, *searched]) as (context, master):
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=master, hydra_context=context, task_function=_is_not_run
        )
        sweeper.launcher = SimpleNamespace(make_engine=lambda preload: engine)
        with _muted():
            sweeper.sweep(OmegaConf.to_container(master.hydra.overrides.task))


def batches(engine: SimulatedEngine, runs: int) -> None:
    """The same sweep as Hydra's Optuna sweeper does it: ask for a batch, launch it, wait for all of it, tell it.

    It tracks nothing, and its study is in SQLite too.

    Args:
        engine: stands for the processes.
        runs: trials of the sweep.
    """
    axes: dict[str, BaseDistribution] = {
        "lora.r": CategoricalDistribution(RANKS),
        "train.learning_rate": FloatDistribution(*RATES, log=True),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage="sqlite:///batches.db", sampler=optuna.samplers.TPESampler(seed=0))
    with _composed(["study=batches"]) as (context, master), _muted():
        fixed = list(OmegaConf.to_container(master.hydra.overrides.task))  # type: ignore[arg-type]
        for first in range(0, runs, engine.slots):
            trials = [study.ask(axes) for _ in range(min(engine.slots, runs - first))]
            overrides = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            results = hydra_job.launch(engine, context, _is_not_run, master, overrides, first)
            for trial, result in zip(trials, results, strict=True):
                study.tell(trial, result.return_value.loss)
    engine.close()


def _is_not_run(config: DictConfig) -> None:
    """Stands for training."""


@contextlib.contextmanager
def _composed(overrides: Sequence[str]) -> Iterator[tuple[HydraContext, DictConfig]]:
    """Hydra and a sweep's config, composed from this checkout."""
    structured.register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), job_name="train", version_base="1.3"):
        hydra: Hydra | None = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("config", [*FIXED, *overrides], RunMode.MULTIRUN, with_log_configuration=False)
        yield HydraContext(hydra.config_loader, Callbacks()), master


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Sends what is printed nowhere: thousands of lines, one a report."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
