"""Whole sweeps in the tests' own process. Training and the preflight are simulated; all else is real."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from optuna import load_study
from optuna.trial import FrozenTrial

from lowrung.config import structured
from lowrung.config.schema import Config
from lowrung.costs import sizes
from lowrung.costs.sizes import TrainedSizes
from lowrung.engine.base import Ended, Event, Exit, Job
from lowrung.finetune.data.split import Split
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs, task
from lowrung.runs.task import Assignment
from lowrung.store import mailbox, results
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps.preflight import SIZES
from lowrung.sweeps.results import Results
from lowrung.track.base import Point
from tests.composing import Composer
from tests.engine.inline import InlineEngine
from tests.track.memory import MemoryTracker

RATE = "train.learning_rate=tag(log,interval(1e-5,1e-1))"
"""A learning rate that is searched."""

Act = Callable[[Config], Outcome | None]
"""Stands where training is: gives how a run ends, raises, or leaves nothing."""

SEEN = Preflight(
    model_fingerprint="model",
    learning_rate=3e-4,
    data_fingerprint="data",
    splits=(Split("docstrings", "digest", "simulated", "training", 512),),
    data_folder=Path("tokens"),
)
"""What the preflight finds."""


def sized_at(config: Config) -> Mapping[str, Mapping[int, TrainedSizes]]:
    """Sizes of a config's adapter at two ranks, from which those at others follow."""
    key = sizes.trained_key(config.lora, config.train)
    kept = 1e5 if config.train.gradient_checkpointing else 1e6
    found = TrainedSizes(
        trainable=10**6,
        trainable_bytes=4 * 10**6,
        flops_per_token=2e9,
        flops_per_pair=0.0,
        backward_flops_per_token=2e9,
        saved_per_token=kept,
        saved_per_pair=0.0,
    )
    twice = dataclasses.replace(found, trainable=2 * 10**6, trainable_bytes=8 * 10**6)
    return {key: {1: found, 2: twice}}


def trains(config: Config) -> Outcome:
    """A run whose loss is least at rank 8 and a rate of 1e-3."""
    loss = 1 + abs(math.log2(config.lora.r / 8)) + abs(math.log10(config.train.peak_rate) + 3)
    metrics = {"base/eval_loss": 9.0, "eval/loss": loss, "params/trainable": 100.0 * config.lora.r}
    return Outcome(Status.COMPLETE, metrics, {"time/total_seconds": 1.0})


def ranks(configs: list[Config]) -> list[int]:
    """Their ranks, in order."""
    return [config.lora.r for config in configs]


def fails_at(*bad: int) -> Act:
    """Raises for these ranks, as a bug in training would."""

    def act(config: Config) -> Outcome:
        if config.lora.r in bad:
            raise RuntimeError(f"no luck at rank {config.lora.r}")
        return trains(config)

    return act


def interrupts_at(rank: int) -> Act:
    """Stands for Ctrl-C while this rank trains."""

    def act(config: Config) -> Outcome:
        if config.lora.r == rank:
            raise KeyboardInterrupt
        return trains(config)

    return act


def by_seed(*results: float | Status) -> Act:
    """Trains to a loss that the seed decides, added to the rank's own; or ends as something else."""

    def act(config: Config) -> Outcome:
        result = results[config.seed]
        if isinstance(result, Status):
            return Outcome(result, cause=f"simulated, seed {config.seed}")
        trained = trains(config)
        loss = trained.metrics["eval/loss"] + result
        return Outcome(Status.COMPLETE, {**trained.metrics, "eval/loss": loss}, trained.measurements)

    return act


def leave(outcome: Outcome, run: Path) -> None:
    """Leaves an outcome in a run's folder, as the job would that the folder was given to."""
    folder = RunFolder(run)
    results.save(outcome, folder, folder.claim.read_text())


class Died(Exception):  # noqa: N818
    """What a task raises to play a process that is killed."""

    end = Exit.DIED, "SIGKILL"


class Evicted(Died):
    """What a task raises to play a job whose node a scheduler took."""

    end = Exit.EVICTED, "another job took its node"


class HadNoMemory(Died):
    """What a task raises to play a process that the system has ended since memory had run out."""

    end = Exit.OUT_OF_MEMORY, "memory ran out"


def _death(event: Event) -> Event:
    """The end of a job that raised `Died`, as an engine reports a killed process."""
    value = event.value if isinstance(event, Ended) else None
    if isinstance(value, JobReturn) and isinstance(value._return_value, Died):
        exit, cause = value._return_value.end
        return Ended(event.key, exit, cause=cause)
    return event


class InProcessEngine:
    """Runs each job in this process, the oldest first, one a `wait`; the preflight is answered at once.

    Args:
        slots: how many jobs it takes before it must be waited for.
        seen: what the preflight finds.
    """

    def __init__(self, slots: int = 1, seen: Any = SEEN) -> None:
        self._slots = [InlineEngine() for _ in range(slots)]
        self._busy: list[InlineEngine] = []
        self._seen = seen
        self.most_at_once = 0
        self.is_preloaded = False
        self.is_open = self.is_closed = False

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def threads(self) -> int:
        return 1

    def preload(self) -> None:
        """Only notes it; see `lowrung.engine.base.Engine.preload`."""
        self.is_preloaded = True

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def submit(self, job: Job) -> None:
        if job.folder.name == "preflight" and job.key != SIZES:
            job = dataclasses.replace(job, task=lambda: (self._seen, []))
        slot = next(slot for slot in self._slots if slot not in self._busy)
        slot.submit(job)
        self._busy.append(slot)
        self.most_at_once = max(self.most_at_once, len(self._busy))

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        return [_death(event) for event in self._busy.pop(0).wait()] if self._busy else []

    def waiting(self, key: str) -> None:
        """None: jobs begin at once."""

    def tidy(self, folder: Path) -> None:
        """Finds nothing."""

    def cancel(self, key: str) -> None:
        for slot in self._busy:
            slot.cancel(key)

    def close(self) -> None:
        self.is_closed = True
        for slot in self._slots:
            slot.close()


class Stage:
    """A working folder with its tracker, where sweeps are run as `python src/train.py -m` would.

    Args:
        composer: composes their configs.
        empty_database: a study's database before its first study; a copy takes no time, to make one 0.1 s.
    """

    def __init__(self, composer: Composer, empty_database: Path) -> None:
        self.composer = composer
        self._empty_database = empty_database
        self.tracker = MemoryTracker()
        self.engine = InProcessEngine()
        self.ran: list[Config] = []
        self.assigned: list[Assignment] = []
        self.results: Results | None = None
        """What the last sweep that came to its end returned."""
        self.returned: Any = "done"
        """What each job returns."""

    def sweep(
        self, *overrides: str, n_trials: int | None = None, act: Act = trains, slots: int = 1, seen: Any = SEEN
    ) -> list[Config]:
        """Runs a sweep to its end; gives the configs that were trained, in order.

        Where its overrides name no study it is called ``s``, and ``n_trials`` is no override: what was composed in
        another test need not be again.
        """
        self.ran, self.assigned, self.engine, self.results = [], [], InProcessEngine(slots, seen), None
        study = [] if any(text.startswith("study=") for text in overrides) else ["study=s"]
        master = self.composer.compose(["hydra/job_logging=none", *study, *overrides], RunMode.MULTIRUN)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=master,
            hydra_context=HydraContext(self.composer.hydra.config_loader, callbacks=Silent()),  # type: ignore[arg-type]
            task_function=lambda composed: self._task(composed, act),
        )
        if n_trials is not None:
            sweeper.settings["n_trials"] = n_trials  # type: ignore[attr-defined]
        launcher: Any = SimpleNamespace(make_engine=self._make_engine)
        sweeper.launcher = launcher
        arguments = OmegaConf.to_container(master.hydra.overrides.task)
        assert isinstance(arguments, list)
        try:
            self.results = sweeper.sweep([str(argument) for argument in arguments])
        finally:
            assert self.engine.is_closed == self.engine.is_open
        return self.ran

    def _make_engine(self, preload: Sequence[str]) -> InProcessEngine:
        self.engine.is_open = True
        database = StudyFolder(Path("multirun/s")).database
        if not database.exists():
            database.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._empty_database, database)
        return self.engine

    def _task(self, composed: DictConfig, act: Act) -> Any:
        assignment = task.assigned()
        assert assignment is not None
        config = inputs.pinned(structured.resolve(composed), assignment.preflight)
        self.ran.append(config)
        self.assigned.append(assignment)
        folder = assignment.folder
        if assignment.opening is not None:
            assignment.opening.open(self.tracker)
        mailbox.post(folder.path, dataclasses.asdict(Point(1, time.time(), {"train/loss": 2.5})))
        outcome = act(config)
        if outcome is not None:
            results.save(outcome, folder, assignment.claim)
        return self.returned

    @property
    def study(self) -> StudyFolder:
        """The study of sweeps that named none."""
        return StudyFolder(Path("multirun/s"))

    def trials(self, folder: StudyFolder | None = None) -> list[FrozenTrial]:
        """The study's trials, as Optuna has them."""
        study = folder or self.study
        return load_study(study_name=study.path.name, storage=f"sqlite:///{study.database.absolute()}").trials


class Silent:
    """Hydra's callbacks, of which there are none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda **_: None
