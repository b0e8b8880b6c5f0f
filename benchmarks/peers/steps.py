"""``python -m benchmarks.peers.steps TASK FOLDER ROUNDS STEPS OUT``: CPU seconds of a step, in turn and in one process.

Three are compared on the same batches: TRL's own trainer, lowrung's, and the floor: the frozen base alone, forward and
backward to its inputs, on padded batches, with the head on labelled tokens. No adapter, no optimiser, no trainer.
"""

import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.rows import tokens
from benchmarks.peers.task import Files, Task, turned
from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.engine import cores
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.data.template import Format
from lowrung.finetune.training import fine_tune
from lowrung.finetune.training.trainer import Recipe

HELD_OUT = 2
"""Rows that lowrung evaluates on here, where only its steps are measured."""


@dataclasses.dataclass
class Steps:
    """What was seen of one way: the CPU seconds of each step but the first, and the loss of each step."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)


class Clock(TrainerCallback):
    """Reads the CPU time of all threads after each step."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Notes the time."""
        self.read.append(time.process_time())


class Noting(SFTTrainer):
    """TRL's trainer, which keeps the batches that it was given."""

    def training_step(self, model: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        """One forward and backward pass."""
        self.batches = [*getattr(self, "batches", ()), {name: tensor.clone() for name, tensor in inputs.items()}]
        loss: Tensor = super().training_step(model, inputs, *rest)  # type: ignore[no-untyped-call]
        return loss


def main(arguments: Sequence[str]) -> None:
    """Measures and writes."""
    task, files = Task.read(Path(arguments[0])), Files.read(Path(arguments[1]))
    rounds, steps, out = int(arguments[2]), int(arguments[3]), Path(arguments[4])
    torch.set_num_threads(cores.usable_cores())
    with tempfile.TemporaryDirectory(dir=files.folder) as scratch:
        record = measure(dataclasses.replace(task, steps=steps), files, rounds, Path(scratch))
    out.write_text(json.dumps(record), encoding="utf-8")


def measure(task: Task, files: Files, rounds: int, scratch: Path) -> dict[str, Any]:
    """Runs each way in turn, in another order each round.

    Returns:
        ``cpu_seconds`` by way, the median of its steps; ``ratios`` of lowrung's to the others', of each round's
        medians; ``losses`` by way; and what the batches hold.

    Raises:
        ValueError: when TRL makes other tokens of a row than lowrung does.
    """
    _, data = tokens(task, files.folder, scratch / "tokens")
    batches = _same_rows(task, files, data, scratch)
    ways: Mapping[str, Callable[[], Steps]] = {
        "stock": lambda: stock(task, files, scratch)[0],
        "lowrung": lambda: lowrungs(task, data, scratch),
        "floor": lambda: floor(files, batches),
    }
    seen: dict[str, list[Steps]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in turned(list(ways), turn):
            seen[name].append(ways[name]())
    medians = {name: [statistics.median(one.seconds) for one in of_rounds] for name, of_rounds in seen.items()}
    return {
        "rounds": rounds,
        "steps_measured_a_round": task.steps - 1,
        "threads": torch.get_num_threads(),
        "cpu_seconds": {
            name: statistics.median(second for one in of_rounds for second in one.seconds)
            for name, of_rounds in seen.items()
        },
        "ratios": {
            name: sorted(own / other for own, other in zip(medians["lowrung"], medians[name], strict=True))
            for name in ("stock", "floor")
        },
        "losses": {name: seen[name][0].losses for name in ("stock", "lowrung")},
        "tokens_a_step": statistics.fmean(int(batch["attention_mask"].sum()) for batch in batches),
        "padding": 1
        - sum(int(batch["attention_mask"].sum()) for batch in batches)
        / sum(batch["input_ids"].numel() for batch in batches),
        "labelled": sum(int((batch["labels"] != -100).sum()) for batch in batches)
        / sum(int(batch["attention_mask"].sum()) for batch in batches),
    }


def _same_rows(task: Task, files: Files, data: Prepared, scratch: Path) -> Sequence[dict[str, Tensor]]:
    """The batches of TRL's trainer, whose rows are compared with lowrung's; one step of it, which also warms up."""
    _, trainer = stock(task, files, scratch)
    theirs: Any = trainer.train_dataset
    for number, (one, other) in enumerate(zip(theirs, data.train, strict=True)):
        if any(list(one[name]) != list(other[name]) for name in ("input_ids", "labels")):
            raise ValueError(f"TRL makes other tokens of row {number} than lowrung does")
    return trainer.batches


def stock(task: Task, files: Files, scratch: Path) -> tuple[Steps, Noting]:
    """TRL's own trainer, tuned: all threads, no gradient checkpointing."""
    clock = Clock()
    trainer = Noting(
        model=files.model,
        args=SFTConfig(
            output_dir=str(scratch / "stock"),
            learning_rate=task.learning_rates[0],
            max_steps=task.steps,
            per_device_train_batch_size=task.batch_size,
            max_length=task.max_length,
            lr_scheduler_type="linear",
            warmup_steps=task.warmup,
            seed=task.seed,
            bf16=False,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": task.dtype},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset(str(files.ordered))["train"],
        peft_config=LoraConfig(
            r=task.rank,
            lora_alpha=task.alpha,
            lora_dropout=0.0,
            target_modules=task.target_modules,
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Steps(_between(clock.read), losses), trainer


def lowrungs(task: Task, data: Prepared, scratch: Path) -> Steps:
    """The trainer of lowrung's runs, which reports after each step."""
    read, losses = [], []

    def on_report(step: int, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            read.append(time.process_time())
            losses.append(metrics["train/loss"])

    recipe = Recipe(
        data=dataclasses.replace(data, eval=data.eval.select(range(HELD_OUT))),
        lora=LoraConf(r=task.rank, alpha=task.alpha, target_modules=task.target_modules),
        train=TrainConf(
            learning_rate=task.learning_rates[0],
            max_steps=task.steps,
            batch_size=task.batch_size,
            eval_batch_size=HELD_OUT,
            eval_steps=task.steps,
            save_steps=0,
            warmup_ratio=task.warmup,
        ),
        max_length=task.max_length,
        seed=task.seed,
        checkpoints=scratch / "checkpoints",
        base_folder=scratch / "base",
    )
    fine_tune.fine_tune(
        ModelConf(f"embedded:{task.model}", dtype=task.dtype),
        recipe,
        format=Format(),
        threads=cores.usable_cores(),
        folder=scratch / "adapter",
        on_report=on_report,
    )
    return Steps(_between(read), losses)


def floor(files: Files, batches: Sequence[dict[str, Tensor]]) -> Steps:
    """The frozen base alone, forward and backward."""
    model = AutoModelForCausalLM.from_pretrained(files.model, dtype=torch.float32).requires_grad_(False)
    read, losses = [], []
    for batch in batches:
        inputs = model.get_input_embeddings()(batch["input_ids"]).requires_grad_()
        body = model.base_model(inputs_embeds=inputs, attention_mask=batch["attention_mask"], use_cache=False)
        labels = batch["labels"][:, 1:]
        is_labelled = labels != -100
        logits = model.get_output_embeddings()(body.last_hidden_state[:, :-1][is_labelled])
        loss = torch.nn.functional.cross_entropy(logits, labels[is_labelled])
        loss.backward()  # type: ignore[no-untyped-call]
        read.append(time.process_time())
        losses.append(loss.item())
    return Steps(_between(read), losses)


def _between(read: Sequence[float]) -> list[float]:
    """The times from one step's end to the next one's; the first step, which warms up, is left out."""
    return [after - before for before, after in itertools.pairwise(read)]


if __name__ == "__main__":
    main(sys.argv[1:])
