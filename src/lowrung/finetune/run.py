"""One fine-tune, from a base model and a corpus to a trained adapter on disk."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, set_seed

from lowrung.finetune import adapter, data, generate
from lowrung.finetune import model as models
from lowrung.finetune.callbacks import OnReport
from lowrung.finetune.trainer import LabelledTrainer, Recipe, make_trainer


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained adapter, in memory and on disk.

    Attributes:
        model: the base with its adapter, in evaluation mode.
        tokenizer: the model's.
        held_out: prepared held-out rows of ``input_ids`` and ``labels``.
        parameters: how many parameters were trained.
        metrics: exact results, by MLflow name.
        measurements: times and sizes of this run, by MLflow name.
        dtype: the precision that the base was trained in.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    held_out: Sequence[dict[str, Any]]
    parameters: adapter.ParameterCount
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]
    dtype: torch.dtype


def fine_tune(
    *,
    model_folder: Path,
    dtype: str,
    corpus: data.Corpus,
    lora: Mapping[str, Any],
    recipe: Recipe,
    threads: int,
    adapter_folder: Path,
    scratch: Path,
    on_report: OnReport,
) -> Trained:
    """Trains one adapter and saves it. On a CPU the result is the same to the bit at the same thread count.

    Args:
        model_folder: the base model's.
        dtype: a torch dtype's name, or ``auto``.
        corpus: what to train and evaluate on.
        lora: keyword arguments of `lowrung.finetune.adapter.attach`.
        recipe: how to train.
        threads: CPU threads.
        adapter_folder: where the adapter and its tokenizer are saved.
        scratch: a folder for working files.
        on_report: called with every step's and every evaluation's metrics; step 0 is the base model's evaluation.

    Raises:
        Diverged: when a loss or a trainable parameter is not finite.
    """
    torch.set_num_threads(threads)
    set_seed(recipe.seed)
    place = models.device()
    tokenizer = models.load_tokenizer(model_folder)
    base = models.load_model(model_folder, models.dtype_for(dtype, place), place)
    model = adapter.attach(base, **lora)
    parameters = adapter.count_parameters(model)
    print(parameters, flush=True)
    trainer = make_trainer(
        model,
        tokenizer,
        train=corpus.train,
        evaluation=corpus.eval,
        recipe=recipe,
        scratch=scratch,
        on_report=on_report,
    )
    before = trainer.evaluate()
    trainer.train()
    after = _last_evaluation(trainer)
    model.eval()
    metrics = {
        "base/eval_loss": before["eval_loss"],
        "eval/loss": after["eval_loss"],
        "eval/perplexity": after["eval_perplexity"],
        "eval/token_accuracy": after["eval_token_accuracy"],
        **_parameter_metrics(parameters),
    }
    prepared: Any = trainer.eval_dataset
    held_out = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in prepared]
    if corpus.has_answers:
        metrics["eval/exact_match"] = generate.exact_match(
            model, tokenizer, held_out, batch_size=recipe.eval_batch_size
        )
    metrics["adapter/bytes"] = adapter.save(model, tokenizer, adapter_folder)
    measurements = {
        "time/train_seconds": trainer.step_seconds,
        "train/tokens_per_second": trainer.tokens_per_second,
    }
    return Trained(model, tokenizer, held_out, parameters, metrics, measurements, base.dtype)


def _last_evaluation(trainer: LabelledTrainer) -> dict[str, float]:
    """The scores after the last step, without computing them twice where training ended with an evaluation."""
    last = next(log for log in reversed(trainer.state.log_history) if "eval_loss" in log)
    if last["step"] == trainer.state.global_step:
        return dict(last)
    return trainer.evaluate()


def _parameter_metrics(parameters: adapter.ParameterCount) -> dict[str, float]:
    return {
        "params/trainable": parameters.trainable,
        "params/total": parameters.total,
        "params/trainable_percent": parameters.percent,
        **{f"params/trainable/{name}": count for name, count in parameters.by_module.items()},
    }
