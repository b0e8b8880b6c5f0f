"""One fine-tune, from a base model and prepared data to trained weights on disk."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from lowrung.config.schema import ModelConf, is_converted
from lowrung.finetune.data import taught
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.data.template import Format
from lowrung.finetune.lora import adapter, loftq, merge, products
from lowrung.finetune.lora.parameters import ParameterCount, count_parameters
from lowrung.finetune.models import ends, generate, pretrained
from lowrung.finetune.models.ends import Ends
from lowrung.finetune.models.head import LabelledLogits, Row
from lowrung.finetune.models.score import Scores
from lowrung.finetune.training import checkpoints, evaluation, metrics
from lowrung.finetune.training.callbacks import CheckpointLoaded, OnlyLoad, OnReport, Report, StopOnRequest, Stopped
from lowrung.finetune.training.metrics import Answered
from lowrung.finetune.training.ranks import ALONE, Ranks
from lowrung.finetune.training.trainer import LabelledTrainer, Recipe, eval_metrics, make_trainer


@dataclasses.dataclass(frozen=True)
class Trained:
    """What was trained, in memory and on disk.

    Attributes:
        model: the base with its adapter, or the whole model where all of it was trained, in evaluation mode.
        held_out: held-out rows of ``input_ids`` and ``labels``.
        parameters: the number of parameters that were trained.
        metrics: exact results, by MLflow name.
        measurements: times and sizes of this run, by MLflow name.
        dtype: the coarsest precision of its weights.
        labelled_logits: what its loss was computed from.
        logits: of the first held-out rows, as they were scored: float32, each of shape (labelled tokens, vocabulary).
        scores: of the held-out rows.
        answers: the scores of each held-out row's answer, by the metric's name without ``eval/``.
        ranks: each adapted layer's rank and scaling; see `lowrung.finetune.lora.adapter.ranks`.
        ends: where its answers end.
    """

    model: PreTrainedModel | PeftModel
    held_out: Sequence[Row]
    parameters: ParameterCount
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]
    dtype: torch.dtype
    labelled_logits: LabelledLogits
    logits: Sequence[Tensor]
    scores: Scores
    answers: Mapping[str, Sequence[float]]
    ranks: Mapping[str, Mapping[str, float]]
    ends: Ends


def fine_tune(
    base: ModelConf,
    recipe: Recipe,
    *,
    format: Format,
    scores: Sequence[str] = (),
    threads: int,
    folder: Path,
    on_report: OnReport,
    should_stop: Callable[[], bool] = lambda: False,
    kept_rows: int = 0,
    ranks: Ranks = ALONE,
) -> Trained | None:
    """Trains and saves. On a CPU the result is the same to the bit at the same thread count.

    With a complete checkpoint of this run in the checkpoint folder, training goes on from there, to the same result.
    Everything reported before the checkpoint is reported again.

    Args:
        base: the base model, with the settings that it is loaded with.
        recipe: what it is trained on, and how.
        format: how the rows were written down, which says where answers end.
        scores: the metrics of generated text; see `lowrung.finetune.training.metrics`.
        threads: CPU threads of this process.
        folder: where the adapter, or the whole model, and its tokenizer are saved.
        on_report: called with every step's and every evaluation's metrics; step 0 is the base model's evaluation.
        should_stop: asked after every step whether to end.
        kept_rows: held-out rows whose logits are given back, for the gate.
        ranks: those that train this model together, of which all make this call. The first one reports, is asked
            whether to stop, and saves.

    Returns:
        what was trained; None in all ranks but the first, which have parted then.

    Raises:
        Diverged: when a loss or a trainable parameter is not finite.
        Stopped: when it was asked to stop, after a checkpoint was written.
    """
    torch.set_num_threads(threads)
    set_seed(recipe.seed)
    tokenizer, train = pretrained.tokenizer_of(base), recipe.train
    held_out = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in recipe.data.eval]
    checkpoint = checkpoints.latest(recipe.checkpoints, ranks)
    loaded = _loaded(base, recipe, ranks)
    start = checkpoint or evaluation.of_base(
        loaded, tokenizer, held_out, size=train.eval_batch_size, folder=recipe.base_folder, ranks=ranks
    )
    model, initial = _trainable(loaded, base, recipe)
    parameters = count_parameters(model)
    print(parameters, flush=True)
    trainer, report, stop = make_trainer(
        model, tokenizer, recipe, on_report=on_report, should_stop=should_stop, ranks=ranks
    )
    trainer.keeps = kept_rows
    base_loss, final_scores = _train(trainer, report, stop, start)
    model.eval()
    tokens_per_second = trainer.tokens_per_second
    ranks.part()
    if not ranks.is_first:
        return None
    ends = _ends(base, tokenizer, recipe.data, format)
    saved_bytes = _save(model, tokenizer, folder, base, initial)
    ends.write(folder)
    started = time.perf_counter()
    answering = _reloaded(base, folder) if scores and train.parallel == "fsdp" else model
    answered = _answered(scores, answering, tokenizer, held_out, ends, train.eval_batch_size)
    answer_seconds = time.perf_counter() - started
    layer_ranks = adapter.ranks(model) if isinstance(model, PeftModel) else {}
    return Trained(
        model=model,
        held_out=held_out,
        parameters=parameters,
        metrics={
            "base/eval_loss": base_loss,
            **{f"eval/{name}": value for name, value in {**eval_metrics(final_scores), **answered.metrics}.items()},
            **parameters.metrics,
            **_rank_metrics(layer_ranks),
            "adapter/bytes": saved_bytes,
        },
        measurements={
            **trainer.measured,
            "time/evaluation_seconds": trainer.scoring_seconds + answer_seconds,
            "train/tokens_per_second": tokens_per_second,
            **recipe.data.measurements,
        },
        dtype=_lowest_dtype(model),
        labelled_logits=trainer.labelled_logits,
        logits=[logits for _, logits in sorted(trainer.kept.items())],
        scores=final_scores,
        answers=answered.each,
        ranks=layer_ranks,
        ends=ends,
    )


def _ends(base: ModelConf, tokenizer: PreTrainedTokenizerBase, data: Prepared, format: Format) -> Ends:
    listed = ends.listed(pretrained.folder_of(base))
    return taught.taught(tokenizer, format.template(tokenizer), listed=listed, rows=data.train).ends


def _answered(
    scores: Sequence[str],
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    ends: Ends,
    batch_size: int,
) -> Answered:
    """The scores of the model's answers; without any, nothing is generated."""
    if not scores:
        return Answered({}, {})
    texts = generate.answers(model, tokenizer, rows, ends=ends, batch_size=batch_size)
    return metrics.score(scores, *texts)


def _rank_metrics(ranks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {"params/rank_mean": statistics.mean(layer["rank"] for layer in ranks.values())} if ranks else {}


def _loaded(base: ModelConf, recipe: Recipe, ranks: Ranks) -> PreTrainedModel:
    """The base as it is trained, without an adapter."""
    if recipe.lora.is_full:
        # A step is often smaller than what bfloat16 can add to a weight.
        dtype = torch.float32 if base.dtype == "auto" else None
        return pretrained.load_base(base, pretrained.device(), dtype=dtype)
    shards = ranks.count if recipe.train.parallel == "fsdp" else 1
    model = pretrained.load_base(base, pretrained.device(), shards=shards)
    if base.quantization == "none":
        return model
    return adapter.prepare_quantized(model, gradient_checkpointing=recipe.train.gradient_checkpointing)


def _trainable(
    model: PreTrainedModel, base: ModelConf, recipe: Recipe
) -> tuple[PreTrainedModel | PeftModel, Mapping[str, Tensor] | None]:
    """The model that is trained, and the initial factors of an init that takes a part of the base's weights."""
    lora, rows = recipe.lora, recipe.data.train
    if lora.is_full:
        return model.requires_grad_(True), None
    examples = rows.select(range(min(lora.init_examples, len(rows))))
    adapted = adapter.attach(model, lora, examples, added_rows=pretrained.added_rows(base))
    adapter.save_what_is_trained_alone(adapted)
    if lora.init == "loftq":
        original = dataclasses.replace(base, quantization="none", device_map=None)
        loftq.start(adapted, pretrained.load_base(original, torch.device("cpu"), dtype=torch.float32))
    products.settle(adapted)
    return adapted, adapter.factors(adapted) if is_converted(lora.init) else None


def _train(
    trainer: LabelledTrainer, report: Report, stop: StopOnRequest, start: Scores | checkpoints.Checkpoint
) -> tuple[float, Scores]:
    """Trains from the base, whose scores are given, or from a checkpoint.

    Returns:
        the eval loss before training, and the scores after it.

    Raises:
        Stopped: when it was asked to stop.
    """
    if isinstance(start, Scores):
        trainer.say(start)
        trainer.train()
    else:
        _go_on(trainer, report, start)
    if stop.has_stopped:
        raise Stopped(trainer.state.global_step)
    base_loss = next(metrics["eval/loss"] for _, metrics in report.history if "eval/loss" in metrics)
    return base_loss, _last_evaluation(trainer)


def _go_on(trainer: LabelledTrainer, report: Report, checkpoint: checkpoints.Checkpoint) -> None:
    """Reports again what was reported before the checkpoint, and trains from there, or only loads its weights."""
    print(f"going on from step {checkpoint.step}", flush=True)
    for step, reported in checkpoint.history:
        report.report(step, reported)
    tokens = max(reported.get("train/tokens", 0) for _, reported in checkpoint.history)
    trainer.count_on(checkpoint.measured, int(tokens))
    if checkpoint.result is None:
        trainer.train(resume_from_checkpoint=str(checkpoint.path))
        return
    trainer.add_callback(OnlyLoad())
    with suppress(CheckpointLoaded):
        trainer.train(resume_from_checkpoint=str(checkpoint.result))


def _last_evaluation(trainer: LabelledTrainer) -> Scores:
    """The scores of the final weights, without computing them twice where training ended with an evaluation."""
    if trainer.args.load_best_model_at_end:
        return trainer.scores()  # of an earlier step, whose scores were reported then
    last = next((log for log in reversed(trainer.state.log_history) if "eval_loss" in log), None)
    if last is None or last["step"] != trainer.state.global_step:
        trainer.evaluate()
    return trainer.last_scores or trainer.scores()  # none where the last evaluation was before a checkpoint


def _save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    base: ModelConf,
    initial: Mapping[str, Tensor] | None,
) -> int:
    if isinstance(model, PeftModel):
        return adapter.save(model, tokenizer, folder, origin=pretrained.origin_of(base), initial=initial)
    with pretrained.quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _reloaded(base: ModelConf, folder: Path) -> PeftModel:
    """The saved adapter on its whole base: a part of one, without the other ranks, generates nothing."""
    return merge.with_adapter(pretrained.load_base(base, pretrained.device()), folder)


def _lowest_dtype(model: PreTrainedModel | PeftModel) -> torch.dtype:
    """The coarsest precision among the weights; what a quantised base holds in integers does not count."""
    used = {parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point}
    return max(used, key=lambda dtype: torch.finfo(dtype).eps)
