"""TRL's SFTTrainer, with the head on labelled tokens only and with token-weighted eval scores."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from lowrung.config.schema import LoraConf, TrainConf, total_steps
from lowrung.finetune import library_options
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.models import head, score
from lowrung.finetune.training import evaluation, known_way, memory
from lowrung.finetune.training.callbacks import OnReport, Report, StopOnRequest
from lowrung.finetune.training.checkpoints import Keep
from lowrung.finetune.training.packing import pack, require_separation
from lowrung.finetune.training.ranks import ALONE, Ranks

ABOUT_PADDING = ("neftune_noise_alpha", "pad_to_multiple_of")
"""Options of TRL that count a batch's columns: NEFTune's noise is the smaller the longer a row is, and all rows of a
batch as one would have a third of it (8 rows)."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a model is trained on, and how.

    Attributes:
        data: the rows to train and evaluate on.
        lora: the adapter's settings, which may say that all weights are trained.
        train: the trainer's settings.
        max_length: the most tokens of a row.
        seed: of the adapter's initial weights, the order of the rows and dropout.
        checkpoints: the folder of this run's checkpoints.
        base_folder: what is kept of the base and these rows; see `lowrung.config.signature.of_base`.
    """

    data: Prepared
    lora: LoraConf
    train: TrainConf
    max_length: int
    seed: int
    checkpoints: Path
    base_folder: Path


class LabelledTrainer(SFTTrainer):
    """SFTTrainer that runs the head where there is a label, and evaluates by sums over tokens.

    The stock trainer's eval loss is a mean of batch means, which moves by 0.03 with the batch size.

    Attributes:
        labelled_logits: how the logits are computed; `make_trainer` chooses it by what the model itself says.
        kept: logits of the last evaluation, by the row's number, for the gate; none once another step is made.
    """

    labelled_logits: head.LabelledLogits

    last_scores: score.Scores | None = None
    """Of the last evaluation in this process."""

    keeps = 0
    """The first held-out rows, so many, whose logits are kept."""

    tokens_seen = 0
    step_seconds = 0.0
    scoring_seconds = 0.0
    peak_before = 0.0

    tokens_before = 0
    """Tokens that were trained on before the checkpoint that the run goes on from."""

    ranks = ALONE
    """Those that train this model together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: dict[int, Tensor] = {}

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on per second of forward and backward passes, padding and evaluations left out.

        All ranks are to ask at the same time.
        """
        return (self.tokens_before + self.ranks.total(self.tokens_seen)) / max(self.step_seconds, 1e-9)

    @property
    def measured(self) -> dict[str, float]:
        """What was measured so far, before a checkpoint too, by metric name."""
        return {
            "time/train_seconds": self.step_seconds,
            "time/evaluation_seconds": self.scoring_seconds,
            "memory/peak_bytes": max(self.peak_before, memory.peak_bytes()),
        }

    def count_on(self, measured: Mapping[str, float], tokens: int) -> None:
        """Counts on from what was measured before the checkpoint that the run goes on from, and tokens trained on."""
        self.step_seconds = measured["time/train_seconds"]
        self.scoring_seconds = measured["time/evaluation_seconds"]
        self.peak_before = measured["memory/peak_bytes"]
        self.tokens_before = tokens

    def speed(self) -> dict[str, float]:
        """Tokens trained on so far, and once a step was made tokens per second, by metric name; over all ranks."""
        seen = self.tokens_before + self.ranks.total(self.tokens_seen)
        speed = {"train/tokens": float(seen)}
        return speed | ({"train/tokens_per_second": seen / max(self.step_seconds, 1e-9)} if seen else {})

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of one device, of which each rank makes its part; from now on ranks draw apart."""
        if not self.ranks.are_several:
            return super().get_train_dataloader()
        whole = self.data_collator
        self.data_collator = self.ranks.collating_its_part(whole)
        loader = super().get_train_dataloader()
        self.data_collator = whole
        self.ranks.read_whole_batches(loader)
        self.ranks.draw_apart(self.args.seed)
        return loader

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass, timed."""
        self.kept.clear()
        started = time.perf_counter()
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]
        if loss.is_cuda and isinstance(self.model, nn.Module):  # else the card has only been told what to compute
            torch.cuda.synchronize(next(self.model.parameters()).device)  # where the backward pass ends
        self.step_seconds += time.perf_counter() - started
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum over labelled tokens, divided by their number in all accumulated batches of the step.

        With several ranks the number is that of all of them. Their gradients' mean is taken, so that each counts as
        many times as there are ranks, and the mean of the losses is that of one device.
        """
        mask = inputs.get("attention_mask")  # packed rows have no padding, and no mask
        logits, labels = self.labelled_logits(model, inputs)
        if labels.numel():  # else a rank for which no row was left
            self.tokens_seen += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        total = score.negative_log_likelihood(logits, labels)
        items = self.ranks.total(labels.numel()) if num_items_in_batch is None else num_items_in_batch
        return self.ranks.count * total / items

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores the held-out rows and logs them; see `lowrung.finetune.models.score.evaluate`."""
        return self.say(self.scores())

    def say(self, scores: score.Scores) -> dict[str, float]:
        """Logs scores as those of an evaluation at the present step."""
        self.last_scores = scores
        metrics = {f"eval_{name}": value for name, value in eval_metrics(scores).items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(self) -> score.Scores:
        """Scores the held-out rows with the present weights."""
        assert self.model is not None
        started = time.perf_counter()
        rows: list[head.Row] = list(self.eval_dataset)  # type: ignore[arg-type]
        size, way = self.args.per_device_eval_batch_size, self.labelled_logits
        found = evaluation.scores(
            self.model, rows, size=size, batch=self.batch, way=way, ranks=self.ranks, on_logits=self._keep
        )
        if self.ranks.are_several:
            owners = evaluation.owners(rows, size, self.ranks)[: self.keeps]
            self.kept = evaluation.logits_of_all(self.kept, owners, found.tokens.tolist(), self.ranks)
        self.scoring_seconds += time.perf_counter() - started
        return found

    def _keep(self, number: int, logits: Tensor) -> None:
        if number < self.keeps:
            self.kept[number] = logits.to("cpu", torch.float32, copy=True)  # a view would keep the whole batch's

    def batch(self, rows: Sequence[head.Row]) -> head.Batch:
        """Rows as training gets them: as a padded batch, or with ``train.packing`` one behind the other."""
        chosen = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        batch: head.Batch = self._prepare_inputs(self.data_collator(chosen))
        return batch


def eval_metrics(scores: score.Scores) -> dict[str, float]:
    """What every evaluation records below ``eval/``; see `lowrung.finetune.training.metrics`."""
    return {
        "loss": scores.loss,
        "perplexity": math.exp(scores.loss) if scores.loss < 700 else math.inf,
        "token_accuracy": scores.token_accuracy,
    }


def make_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    *,
    on_report: OnReport,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> tuple[LabelledTrainer, Report, StopOnRequest]:
    """Builds the trainer, and the callbacks through which it reports and is stopped.

    Args:
        model: the model to train, on its device.
        tokenizer: the model's.
        recipe: what it is trained on, and how.
        on_report: called with every step's and every evaluation's metrics.
        should_stop: asked after every step whether to end, in the first rank.
        ranks: those that train this model together.

    Raises:
        UsageError: when rows are to be packed for a model that would let the examples see each other.
    """
    rows, train = recipe.data.train, recipe.train
    if train.packing:
        require_separation(model)
        rows = pack(rows, recipe.max_length)
    args = arguments(
        train, rows=len(rows), max_length=recipe.max_length, seed=recipe.seed, checkpoints=recipe.checkpoints
    )
    # transformers keeps no optimiser's state of weights that it has divided, and refuses whole checkpoints. These
    # weights are frozen; what is trained, the adapter, is whole in each rank.
    args.save_only_model = train.parallel == "fsdp"
    trainer = LabelledTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=recipe.data.eval,
        processing_class=tokenizer,
        optimizers=(_optimizer(model, recipe.lora, train, args), None),
    )
    args.save_only_model = False
    trainer.ranks = ranks
    _settle_whole_modules(model)
    trainer.labelled_logits = _labelled_logits(trainer, model, recipe)
    report = Report(on_report, trainer.speed)
    stop = StopOnRequest(lambda: bool(ranks.told(lambda: int(should_stop()))), saves=train.save_steps != 0)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(report)
    trainer.add_callback(stop)
    trainer.add_callback(
        Keep(lambda: report.history, lambda: trainer.measured, train.save_total_limit, lambda: stop.has_stopped, ranks)
    )
    if train.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(train.early_stopping))
    return trainer, report, stop


def _labelled_logits(
    trainer: LabelledTrainer, model: PreTrainedModel | PeftModel, recipe: Recipe
) -> head.LabelledLogits:
    """How the logits are computed, by what the model itself says; where that is not the quickest way, it is printed."""
    train = recipe.train
    about_padding = [name for name in ABOUT_PADDING if train.sft.get(name)]

    def measure() -> head.LabelledLogits:
        return head.choose(model, trainer.batch(head.probe_rows(recipe.data.eval)), joins=not about_padding)

    known = known_way.path(recipe.base_folder, recipe.lora, train, recipe.seed, model.device)
    way = known_way.of(model, known, measure, trainer.ranks)
    if way is head.on_all_tokens:
        print("the head sees all tokens, since this model's forward pass needs them", flush=True)
    elif about_padding:
        print(f"rows are padded, since train.sft has {' and '.join(about_padding)}", flush=True)
    elif not train.packing and (why_padded := head.why_padded(model, way)):
        print(f"rows are padded, since the forward pass of this model {why_padded}", flush=True)
    return way


def _settle_whole_modules(model: nn.Module) -> None:
    """Gives modules that are trained whole the precision of the modules that they replace.

    On a quantised base, SFTTrainer puts all trained parameters in bfloat16. LoRA's layers cast their inputs; a head or
    an embedding does not, and a CPU refuses products of two precisions.
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            held = next(module.original_module.parameters()).dtype
            module.modules_to_save.to(held)


def arguments(train: TrainConf, *, rows: int, max_length: int, seed: int, checkpoints: Path) -> SFTConfig:
    """What TRL's trainer is given: lowrung's settings, and the fields of ``train.sft``.

    Args:
        train: how to train; its ``sft`` is without problems (see `lowrung.finetune.training.sft_trial`).
        rows: how many there are to train on.
        max_length: the most tokens of a row.
        seed: of the order of the rows and of dropout.
        checkpoints: a folder for checkpoints.
    """
    on_gpu = torch.cuda.is_available()
    steps = total_steps(train, rows)
    saves = train.save_steps != 0
    ours: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": train.peak_rate,
        "max_steps": steps,
        "per_device_train_batch_size": train.batch_size,
        "per_device_eval_batch_size": train.eval_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "lr_scheduler_type": train.lr_scheduler_type,
        # A share below 1, or steps: transformers reads 1.0 as one step.
        "warmup_steps": steps if train.warmup_ratio == 1 else train.warmup_ratio,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "max_length": max_length,
        "packing": train.packing,
        "eval_packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # it came as tokens, packed if it is to be
        "seed": seed,
        "eval_strategy": "steps",
        "eval_steps": train.eval_steps,
        "save_strategy": "steps" if saves else "no",
        "save_steps": train.save_steps or train.eval_steps,
        "load_best_model_at_end": train.early_stopping is not None,
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has waited
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # with the default, a NaN loss is logged as 0.0
        "gradient_checkpointing": train.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if train.gradient_checkpointing else None,
        "bf16": False,  # no autocast: a forward pass is in the precision of its weights, here as in the gate
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return SFTConfig(**{**ours, **library_options.arguments(SFTConfig, train.sft)})


def _optimizer(model: nn.Module, lora: LoraConf, train: TrainConf, args: SFTConfig) -> torch.optim.Optimizer | None:
    """With LoRA+ (arXiv:2402.12354), one with a rate for B that is so many times A's; None is the trainer's own."""
    if lora.is_full or lora.lora_plus_ratio is None:
        return None
    kind, settings = SFTTrainer.get_optimizer_cls_and_kwargs(args)
    if "optim" not in train.sft:  # AdamW too, but the trainer's own default is fused, which rounds otherwise
        settings.pop("fused", None)
    return create_loraplus_optimizer(
        model,  # type: ignore[arg-type]
        kind,
        **settings,
        loraplus_lr_ratio=lora.lora_plus_ratio,
        loraplus_weight_decay=train.weight_decay,
    )
