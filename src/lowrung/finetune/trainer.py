"""TRL's SFTTrainer, with the head on labelled tokens only and with token-weighted eval scores."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from lowrung.finetune import score
from lowrung.finetune.callbacks import OnReport, Report


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; the fields are those of `lowrung.schema.TrainConf`, with the run's seed and the data's length."""

    learning_rate: float
    max_steps: int
    batch_size: int
    eval_batch_size: int
    gradient_accumulation_steps: int
    eval_steps: int
    lr_scheduler_type: str
    warmup_ratio: float
    weight_decay: float
    max_length: int
    seed: int


class LabelledTrainer(SFTTrainer):
    """SFTTrainer that runs the head where there is a label, and evaluates by sums over tokens.

    The stock trainer's eval loss is a mean of batch means, which moves by 0.03 with the batch size.
    """

    tokens_seen = 0
    step_seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on per second of forward and backward passes, padding and evaluations left out."""
        return self.tokens_seen / max(self.step_seconds, 1e-9)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass, timed."""
        started = time.perf_counter()
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.step_seconds += time.perf_counter() - started
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum over labelled tokens, divided by their number in all accumulated batches of the step."""
        self.tokens_seen += int(inputs["attention_mask"].sum())
        logits, labels = score.labelled_logits(model, inputs)
        total = score.negative_log_likelihood(logits, labels)
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores the held-out rows and logs them; see `lowrung.finetune.score.evaluate`."""
        assert self.model is not None
        scores = score.evaluate(self.model, self._batches_by_length(eval_dataset or self.eval_dataset))
        metrics = {
            "eval_loss": scores.loss,
            "eval_perplexity": math.exp(scores.loss) if scores.loss < 700 else math.inf,
            "eval_token_accuracy": scores.token_accuracy,
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _batches_by_length(self, rows: Any) -> Iterator[dict[str, Tensor]]:
        """Batches of rows of like length: less padding, and the scores do not depend on the order."""
        ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(ordered), size):
            chunk = [{k: row[k] for k in ("input_ids", "labels")} for row in ordered[start : start + size]]
            yield self._prepare_inputs(self.data_collator(chunk))


def make_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Dataset,
    evaluation: Dataset,
    recipe: Recipe,
    scratch: Path,
    on_report: OnReport,
) -> LabelledTrainer:
    """Builds the trainer; it tokenises both datasets with the model's chat template.

    Args:
        model: the base with its adapter, on the device where it is trained.
        tokenizer: the model's.
        train: rows of ``prompt`` and ``completion``.
        evaluation: held-out rows of the same form.
        recipe: how to train.
        scratch: a folder for working files.
        on_report: called with every step's and every evaluation's metrics.
    """
    disable_progress_bars()
    on_gpu = torch.cuda.is_available()
    settings = SFTConfig(
        output_dir=str(scratch),
        learning_rate=recipe.learning_rate,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.eval_batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        lr_scheduler_type=recipe.lr_scheduler_type,
        # A share below 1, or steps: transformers reads 1.0 as one step.
        warmup_steps=recipe.max_steps if recipe.warmup_ratio == 1 else recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_length=recipe.max_length,
        seed=recipe.seed,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,  # with the default, a NaN loss is logged as 0.0
        gradient_checkpointing=False,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = LabelledTrainer(
        model=model, args=settings, train_dataset=train, eval_dataset=evaluation, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Report(on_report, lambda: trainer.tokens_per_second))
    return trainer
