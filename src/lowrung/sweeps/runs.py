"""The runs of a sweep: a trial's point, trained with one seed, from the plan to all that is needed to start it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from lowrung.config import structured
from lowrung.config.schema import Config, TrainConf
from lowrung.costs.prediction import Prediction
from lowrung.report import leaderboard
from lowrung.runs import inputs
from lowrung.search.axes import Value
from lowrung.store import layout
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.folders import Taken
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint

BY_PLAN = "by_plan"
"""The fact of a run in the study that says whether its batches are smaller since the plan says so."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trial's point, trained with one seed. How far the run is, only `lowrung.sweeps.queue.Queue` knows.

    Attributes:
        trial: the trial's number.
        key: names the run in the engine and on the screen.
        title: the run's name for people.
        stage: the trial's; empty where the sweep has none.
        point: the trial's values, as text; with several seeds, the run's too.
        overrides: the job's, as Hydra overrides.
        composed: what Hydra composes from them, its own node included.
        config: the job's.
        job: the job's folder, in the study's.
        folder: the run's, in the store.
        steps: optimiser steps of the whole run.
        is_halved: whether its batches are smaller than was asked for.
        is_retried: whether they are since its memory did not suffice, and not by the plan.
    """

    trial: int
    key: str
    title: str
    stage: str
    point: Mapping[str, str]
    overrides: Sequence[str]
    composed: DictConfig
    config: Config
    job: JobFolder
    folder: RunFolder
    steps: int
    is_halved: bool
    is_retried: bool

    @property
    def seed(self) -> int:
        """What it is trained with."""
        return self.config.seed

    @property
    def why_halved(self) -> str | None:
        """Why its batches are smaller than was asked for, and what they are; None where they are not."""
        if not self.is_halved:
            return None
        train, why = self.config.train, "out of memory" if self.is_retried else "too large by the plan"
        return f"{why}; batch_size {train.batch_size}, gradient_accumulation_steps {train.gradient_accumulation_steps}"


@dataclasses.dataclass(frozen=True)
class RunMaker:
    """Makes the runs of a sweep.

    Attributes:
        plan: the sweep's.
        composer: makes the jobs' configs.
        threads: CPU threads of each run.
        gpus: of each run, where there are any.
        taken: the folders of the jobs that were made.
    """

    plan: Plan
    composer: Composer
    threads: int
    gpus: float
    taken: Taken

    @classmethod
    def of(cls, plan: Plan, composer: Composer, threads: int) -> "RunMaker":
        """One that has made none yet."""
        return cls(plan, composer, threads, plan.gpus, Taken(plan.folder))

    def make(
        self,
        trial: int,
        point: GridPoint,
        params: Mapping[str, Value],
        seed: int,
        *,
        stage: str = "",
        overrides: Sequence[str] | None = None,
        is_by_plan: bool = False,
    ) -> Run:
        """A trial's run.

        Args:
            trial: the trial's number.
            point: that the trial belongs to.
            params: the trial's values.
            seed: one of the point's.
            stage: the trial's.
            overrides: those of `half_the_batch`, where the run is tried with them; None follows from the rest.
            is_by_plan: whether it is since the plan says so, and not since its memory did not suffice.

        Raises:
            UsageError: when a trial of other values has the job's folder.
        """
        space = point.space
        wanted = overrides or space.overrides(params, seed=seed if space.seeds else None)
        composed = self.composer.job(wanted, trial, subfolder=f"seed_{seed}" if space.seeds else "")
        config = structured.resolve(composed)
        config = inputs.at_a_rate(inputs.with_ranks(config, self.gpus), self.plan.preflight(config))
        job = JobFolder(Path(composed.hydra.runtime.output_dir))  # which `Composer.job` has set
        self.taken.take(job.path, params, seed)
        texts = space.texts(params)
        name = leaderboard.name(texts)
        return Run(
            trial=trial,
            key=f"{trial}/{seed}" if space.seeds else str(trial),
            title=f"trial {trial}"
            + (f" of {stage}" if stage else "")
            + (f" ({name})" if name else "")
            + (f", seed {seed}" if space.seeds else ""),
            stage=stage,
            point={**texts, **({"seed": str(seed)} if space.seeds else {})},
            overrides=wanted,
            composed=composed,
            config=config,
            job=job,
            folder=self.folder(config),
            steps=inputs.steps(config, self.plan.preflight(config)),
            is_halved=overrides is not None,
            is_retried=overrides is not None and not is_by_plan,
        )

    def predict(self, config: Config) -> Prediction | None:
        """What a run with this config will take; see `lowrung.runs.planned.predict`."""
        return self.plan.predict(config, self.threads)

    def folder(self, config: Config) -> RunFolder:
        """Where the store has, or will have, the results of a run with this config."""
        config = inputs.with_ranks(config, self.gpus)
        signature = inputs.run_signature(config, self.plan.preflight(config), self.threads)
        return layout.run_folder(Path(self.plan.config.store).absolute(), signature)


def halved(train: TrainConf) -> TrainConf | None:
    """Batches of half the size, with as many examples a step; None for a size whose half its ranks do not divide."""
    if train.batch_size % (2 * train.rank_count):
        return None
    accumulation = train.gradient_accumulation_steps * 2
    return dataclasses.replace(train, batch_size=train.batch_size // 2, gradient_accumulation_steps=accumulation)


def half_the_batch(run: Run, times: int = 1) -> list[str] | None:
    """Overrides for batches that are halved so often; None where they cannot be, or did not help once."""
    train: TrainConf | None = run.config.train
    for _ in range(times):
        train = halved(train) if train is not None else None
    if train is None or run.is_retried:
        return None
    return [
        *run.overrides,
        f"train.batch_size={train.batch_size}",
        f"train.gradient_accumulation_steps={train.gradient_accumulation_steps}",
    ]
