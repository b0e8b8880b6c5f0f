"""The ways to run the same trials: which commands, in which environment, and where each leaves its losses."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peers import environment
from benchmarks.peers.task import Files, Task
from lowrung.engine import cores
from lowrung.store.layout import ROOT, StudyFolder

LOWRUNG = "lowrung"

STUDY = "peers"

Command = Sequence[str]


class Way(ABC):
    """One way to run a task's trials."""

    name: ClassVar[str]

    settings: ClassVar[Mapping[str, str]]
    """What it does otherwise than the others; printed and recorded."""

    @abstractmethod
    def commands(self, task: Task, files: Files, folder: Path) -> Iterable[Command]:
        """The commands that run all trials, one after the other.

        Args:
            task: the trials.
            files: the model and the rows.
            folder: where the commands run, empty at first.
        """

    @abstractmethod
    def losses(self, task: Task, folder: Path) -> list[list[float]]:
        """The loss of each step, for each trial in the order of the task."""

    def variables(self) -> dict[str, str]:
        """Environment variables beside those of all ways."""
        return {}


class Lowrung(Way):
    """A sweep, with what a sweep does: the preflight, two evaluations a trial, the gate and MLflow."""

    name = LOWRUNG
    settings: ClassVar[Mapping[str, str]] = {
        "threads": "all cores",
        "gradient checkpointing": "off",
        "evaluations a trial": "2: before and after training",
        "gate": "on",
        "tracking": "MLflow",
        "processes": "one sweep",
    }

    def commands(self, task: Task, files: Files, folder: Path) -> Iterable[Command]:
        """One sweep over the rates, with a store of its own, so that nothing is answered from an earlier one."""
        settings: dict[str, object] = {
            "model": task.model,
            "model.dtype": task.dtype,
            "data": "file",
            "data.path": str(files.source),
            "data.eval_path": str(files.held_out),
            "data.eval_size": "null",
            "data.max_length": task.max_length,
            "lora.r": task.rank,
            "lora.alpha": task.alpha,
            "lora.dropout": 0.0,
            "lora.target_modules": task.target_modules,
            "train.learning_rate": ",".join(map(str, task.learning_rates)),
            "train.max_steps": task.steps,
            "train.eval_steps": task.steps,
            "train.batch_size": task.batch_size,
            "train.warmup_ratio": task.warmup,
            "seed": task.seed,
            "study": STUDY,
            "store": str(folder / "runs"),
        }
        script = str(ROOT / "src" / "train.py")
        return [[sys.executable, script, "-m", *(f"{key}={value}" for key, value in settings.items())]]

    def losses(self, task: Task, folder: Path) -> list[list[float]]:
        """What the runs reported; a grid's trials are in the order of the command line."""
        metrics = [[point["metrics"] for point in reports(run)] for run in runs(task, folder)]
        return [[step["train/loss"] for step in of_run if "train/loss" in step] for of_run in metrics]


def train(task: Task, files: Files, store: Path, *own: str) -> Command:
    """A command of lowrung's, with what the task says but rank and rates.

    Args:
        task: the trials.
        files: the rows.
        store: for the runs' results.
        own: the command's other arguments.
    """
    settings = {
        "model": task.model,
        "model.dtype": task.dtype,
        "data": "file",
        "data.path": files.source,
        "data.eval_path": files.held_out,
        "data.eval_size": "null",
        "data.max_length": task.max_length,
        "lora.alpha": task.alpha,
        "lora.dropout": 0.0,
        "lora.target_modules": task.target_modules,
        "train.max_steps": task.steps,
        "train.batch_size": task.batch_size,
        "train.warmup_ratio": task.warmup,
        "seed": task.seed,
        "study": STUDY,
        "store": store,
    }
    script = str(ROOT / "src" / "train.py")
    return [sys.executable, script, *own, *(f"{key}={value}" for key, value in settings.items())]


def runs(task: Task, folder: Path) -> list[Path]:
    """The folders of lowrung's runs, in the order of the trials."""
    study = StudyFolder(folder / "multirun" / STUDY)
    return [study.job(number).run for number in range(len(task.learning_rates))]


def reports(run: Path) -> list[dict[str, Any]]:
    """What a run reported: points with ``step``, ``time`` and ``metrics``."""
    return [json.loads(line) for line in (run / "reports.jsonl").read_text(encoding="utf-8").splitlines()]


class TrlLoop(Way):
    """A loop over ``trl sft``, as people run it: its defaults, less those that a CPU refuses."""

    name = "trl sft"
    settings: ClassVar[Mapping[str, str]] = {
        "threads": "1, as `accelerate launch` sets it",
        "gradient checkpointing": "on, TRL's default",
        "evaluations a trial": "none",
        "gate": "none",
        "tracking": "none",
        "processes": "two a trial",
    }

    def commands(self, task: Task, files: Files, folder: Path) -> Iterable[Command]:
        """A command for each rate."""
        trl = str(Path(sys.executable).with_name("trl"))
        fixed: dict[str, object] = {
            "model_name_or_path": files.model,
            "dataset_name": str(files.ordered),
            "dtype": task.dtype,
            "bf16": "false",  # the default, bfloat16, is refused on a CPU
            "max_steps": task.steps,
            "per_device_train_batch_size": task.batch_size,
            "max_length": task.max_length,
            "lora_r": task.rank,
            "lora_alpha": task.alpha,
            "lora_dropout": 0.0,
            "lora_target_modules": task.target_modules,
            "lr_scheduler_type": "linear",
            "warmup_steps": task.warmup,
            "weight_decay": 0.0,
            "seed": task.seed,
            "logging_steps": 1,  # the losses are compared step by step
            "report_to": "none",
            **self.changed(),
        }
        for number, rate in enumerate(task.learning_rates):
            own = {"learning_rate": rate, "output_dir": str(folder / str(number))}
            given = [text for key, value in {**fixed, **own}.items() for text in (f"--{key}", str(value))]
            yield [trl, "sft", "--use_peft", *given]

    def changed(self) -> dict[str, str]:
        """Arguments that are not TRL's defaults."""
        return {}

    def losses(self, task: Task, folder: Path) -> list[list[float]]:
        """What the trainer's state holds, which it saves with its last checkpoint."""
        states = [
            folder / str(number) / f"checkpoint-{task.steps}" / "trainer_state.json"
            for number in range(len(task.learning_rates))
        ]
        logs = [json.loads(state.read_text(encoding="utf-8"))["log_history"] for state in states]
        return [[entry["loss"] for entry in log if "loss" in entry] for log in logs]


class TunedTrlLoop(TrlLoop):
    """The same loop by someone who knows what it sets: all threads, no gradient checkpointing."""

    name = "trl sft, tuned"
    settings: ClassVar[Mapping[str, str]] = {
        **TrlLoop.settings,
        "threads": "all cores",
        "gradient checkpointing": "off",
    }

    def changed(self) -> dict[str, str]:
        """No gradient checkpointing."""
        return {"gradient_checkpointing": "false"}

    def variables(self) -> dict[str, str]:
        """`accelerate launch` keeps a number of threads that is set."""
        return {"OMP_NUM_THREADS": str(cores.usable_cores())}


class HydraOptuna(Way):
    """Hydra 1.4's Optuna sweeper around a plain script: all trials in one process, tuned as far as TRL goes."""

    name = "hydra-optuna"
    settings: ClassVar[Mapping[str, str]] = {**TunedTrlLoop.settings, "processes": "one sweep"}

    def commands(self, task: Task, files: Files, folder: Path) -> Iterable[Command]:
        """One sweep over the rates."""
        script = Path(__file__).parent / "hydra14" / "sft_sweep.py"
        rates = ",".join(map(str, task.learning_rates))
        settings: dict[str, object] = {
            "model": files.model,
            "rows": str(files.ordered),
            "lora.r": task.rank,
            "lora.lora_alpha": task.alpha,
            "lora.target_modules": task.target_modules,
            "+sft.max_steps": task.steps,
            "+sft.per_device_train_batch_size": task.batch_size,
            "+sft.max_length": task.max_length,
            "+sft.lr_scheduler_type": "linear",
            "+sft.warmup_steps": task.warmup,
            "+sft.weight_decay": 0.0,
            "+sft.seed": task.seed,
            "sft.model_init_kwargs.dtype": task.dtype,
            "hydra.sweeper.n_trials": len(task.learning_rates),
            "hydra.sweeper.n_jobs": 1,  # the basic launcher runs a batch's trials one after the other anyway
            "hydra.sweep.dir": STUDY,
            "sft.learning_rate": f"choice({rates})",
        }
        given = [f"{key}={value}" for key, value in settings.items()]
        return [[str(environment.python()), str(script), "-m", *given]]

    def losses(self, task: Task, folder: Path) -> list[list[float]]:
        """What the script wrote down; a grid's trials come in an order of Optuna's."""
        files = (folder / STUDY).glob("*/losses.json")
        records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        by_rate = {record["learning_rate"]: record["losses"] for record in records}
        return [by_rate[rate] for rate in task.learning_rates]


WAYS: dict[str, Way] = {way.name: way for way in (Lowrung(), TrlLoop(), TunedTrlLoop(), HydraOptuna())}
