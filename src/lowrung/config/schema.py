"""Every key of a config, its type, unit and the reason for its default. conf/ holds the values."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "nf4")
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
DATASETS = ("docstrings", "number_words", "file", "hub")
FORMATS = ("auto", "chat", "plain")
ON_BAD_ROWS = ("error", "drop")
DATE = "2026-01-01"
METRICS = ("exact_match", "rouge", "bleu")
"""The metrics of generated text that lowrung brings; any other is a dotted name of the user's."""


def metric_names(metric: str) -> tuple[str, ...]:
    """The names, after ``eval/``, that an entry of ``data.metrics`` is recorded under."""
    return ("rouge1", "rouge2", "rougeL") if metric == "rouge" else (metric.rsplit(".", 1)[-1],)


METHODS = ("lora", "full")
INITS = (
    "default",
    "gaussian",
    "orthogonal",
    "pissa",
    "pissa_niter_16",
    "olora",
    "eva",
    "lora_ga",
    "corda",
    "loftq",
    "mica",
)
"""The inits by name; any number of iterations may stand for 16."""


DATA_INITS = ("eva", "lora_ga", "corda")
"""The inits that are computed from training examples."""


def is_init(init: str) -> bool:
    """Whether this names an init."""
    return init in INITS or re.fullmatch(r"pissa_niter_[1-9]\d*", init) is not None


def is_converted(init: str) -> bool:
    """Whether an init takes something out of the base's weights; see `lowrung.finetune.lora.adapter`."""
    return init.startswith("pissa") or init in ("olora", "lora_ga", "corda")


BIASES = ("none", "all", "lora_only")
TARGETS = ("all-linear", "attention", "mlp")
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""The schedules of transformers that need no further settings."""

SCHEDULES_WITH_SETTINGS = (
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
)
"""Those that take theirs from ``train.sft.lr_scheduler_kwargs``."""
PARALLELS = ("none", "ddp", "fsdp")
TRACKERS = ("mlflow", "none")
VERIFIED = ("all", "finalists")


@dataclass
class ModelConf:
    """The base model.

    Attributes:
        path: a local folder as `save_pretrained` leaves it, a hub id (``Qwen/Qwen2.5-0.5B-Instruct``), or
            ``embedded:NAME`` for a model that comes with lowrung.
        revision: branch, tag or commit of a hub model; null is its main branch. The commit that was found is part of
            a run's signature, so a branch that has moved is another model.
        dtype: the weights' precision while training. ``auto`` is bfloat16 on a GPU that has it, and float32 on a CPU,
            where matrix products in bfloat16 are slow (measured: 1.5 times slower than in float32). With ``lora=full``,
            ``auto`` is float32 everywhere, since many steps are too small to change a weight in bfloat16.
        attn_implementation: which attention transformers computes, one of `ATTENTIONS`; null lets transformers choose.
        quantization: ``none``, ``int8`` (LLM.int8(), arXiv:2208.07339) or ``nf4`` (QLoRA, arXiv:2305.14314): the
            frozen base is held in 8 or 4 bits a weight. Needs bitsandbytes; works on a CPU too.
        double_quantization: with ``nf4``, quantises the quantisation constants too. This saves 0.4 bits a weight, as in
            the QLoRA paper.
        device_map: null puts the model on the run's one device; ``auto`` spreads it over all GPUs that the run sees
            (see ``hydra.launcher.gpus_per_trial``).
        trust_remote_code: runs Python code that comes with the model. Read that code first.
        added_tokens: texts that become tokens of their own, such as ``["<think>","</think>"]``. Embedding and head get
            a row for each, which starts at the mean of the other rows. An adapter trains and saves only these rows of
            the matrices, unless ``lora.modules_to_save`` trains them whole. The tokenizer beside the adapter has the
            tokens, and AutoPeft adds rows for them to the original base.
    """

    path: str = MISSING
    revision: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    quantization: str = "none"
    double_quantization: bool = True
    device_map: str | None = None
    trust_remote_code: bool = False
    added_tokens: list[str] = field(default_factory=list)

    def __hash__(self) -> int:
        """Equal models are one key, so that each is loaded once; a model that is a key must not be changed."""
        return hash(digest(self))


@dataclass
class SourceConf:
    """Where examples come from.

    Attributes:
        name: ``docstrings``, ``number_words``, ``file`` or ``hub``.
        path: for ``file`` a JSONL, CSV or Parquet file; for ``hub`` a dataset's id.
        subset: for ``hub``, the dataset's subset (its config's name); null where it has only one.
        split: for ``hub``, the split to train on.
        messages_column: a column of chats, each a list of ``{role, content}``. Every turn of the assistant is learnt,
            unless it has ``weight: 0`` or ``train: false``. Other keys, such as ``tool_calls`` and
            ``reasoning_content``, are passed on to the chat template.
        prompt_column: a column of prompts, each a text or a list of messages. Prompts are not learnt.
        completion_column: a column of completions, each a text or a list of one message. Completions are learnt.
        text_column: a column of texts, which are learnt whole. If the data has several of the three forms, the first
            of these is taken: messages, prompt and completion, text.
        tools_column: a column of the tools that may be called, each a list of JSON schemas or such a list as a JSON
            text. It is optional, and the chat template writes it. A column ``chat_template_kwargs`` is read too, as in
            TRL: variables of the chat template for that row alone.
        weight: the source's share in a mixture, relative to the other sources' weights.
    """

    name: str = MISSING
    path: str | None = None
    subset: str | None = None
    split: str = "train"
    messages_column: str = "messages"
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    text_column: str = "text"
    tools_column: str = "tools"
    weight: float = 1.0


@dataclass
class DataConf(SourceConf):
    """The task: its examples, how they are split, and how they are scored.

    Attributes:
        name: ``docstrings``, ``number_words``, ``file``, ``hub``, or ``mixture`` of the ``sources``.
        sources: for ``mixture``, what is mixed: a list of sources with the fields above.
        eval_path: for ``file``, a separate file to evaluate on; null holds out examples of ``path``.
        eval_split: for ``hub``, the split to evaluate on; null holds out examples of ``split``.
        train_size: examples to train on; null is all.
        eval_size: held-out examples that the eval scores are computed over; null is all of ``eval_path`` or
            ``eval_split``.
        max_length: tokens after which an example is cut.
        seed: draws the examples and the split. It is not the run's seed, so that runs with several seeds share their
            data.
        format: how prompt and completion become one text: ``chat`` uses the tokenizer's chat template, ``plain`` puts
            the completion after the prompt, ``auto`` is ``chat`` if the tokenizer has a template, else ``plain``.
        chat_template_kwargs: variables of the chat template, by name: ``{enable_thinking:false}``. They count wherever
            the template is used, also when the model is asked later. On the command line a JSON text will do.
        date: the day at which the clock of chat templates that ask for the time stands, such as those that write
            "Today Date". A fixed day, so that a run repeats; a time may follow, as in ``2026-01-01T12:00``.
        on_bad_rows: ``error`` refuses data with rows that cannot be learnt (an empty answer, a chat that the template
            refuses, an answer that it leaves out, no room below ``max_length``), ``drop`` leaves them out and names
            them. The run records their number as ``data/dropped_rows``.
        metrics: scores of greedily generated text: ``exact_match``, ``rouge``, ``bleu``, or the dotted name of a
            function ``(predictions, references) -> number`` of yours.
    """

    sources: list[SourceConf] = field(default_factory=list)
    eval_path: str | None = None
    eval_split: str | None = None
    train_size: int | None = None
    eval_size: int | None = None
    max_length: int = MISSING
    seed: int = 0
    format: str = "auto"
    chat_template_kwargs: Any = None
    date: str = DATE
    on_bad_rows: str = "error"
    metrics: list[str] = field(default_factory=list)


@dataclass
class LoraConf:
    """The adapter (LoRA, arXiv:2106.09685).

    Attributes:
        method: ``lora``, or ``full``: all weights are trained and there is no adapter; the other fields are unused.
        r: rank of the update B·A.
        alpha: numerator of the scaling alpha / r (rsLoRA: alpha / sqrt(r)). 32 at every rank, as in "LoRA Without
            Regret" (Thinking Machines, 2025): with AdamW, every entry of B moves by about the learning rate, so that at
            a constant alpha / r the update grows with r, and a sweep over r compares learning rates.
            ``${twice:${lora.r}}`` keeps alpha / r constant all the same.
        dropout: probability with which an input of A is dropped in training.
        bias: which biases are trained: ``none``, ``all`` of the model, or ``lora_only``, those of adapted layers.
        use_rslora: rank-stabilised scaling, arXiv:2312.03732.
        use_dora: a trained magnitude beside the low-rank direction, arXiv:2402.09353.
        init: where A and B start. At random: ``default`` (A random, B zero), ``gaussian``, ``orthogonal`` (A and B
            random, B·A zero; even ranks). From the base's weights: ``pissa`` (principal singular vectors,
            arXiv:2404.02948), ``pissa_niter_N`` (the same by N iterations of a randomised decomposition, much faster),
            ``olora`` (orthonormal, arXiv:2406.01775), ``mica`` (B is fixed at the least singular vectors and A alone is
            trained, arXiv:2604.01694), ``loftq`` (corrects the quantisation error of a quantised base,
            arXiv:2310.08659). From training examples: ``eva`` (the directions in which each layer's inputs vary most;
            it also distributes the ranks among the layers, arXiv:2410.07170), ``lora_ga`` (the gradients' singular
            vectors, arXiv:2407.05000), ``corda`` (the weights' singular vectors, weighed by the inputs,
            arXiv:2406.05223). With every init, the saved adapter is for the original base.
        init_examples: training examples that ``eva``, ``lora_ga`` and ``corda`` are computed from. 128 examples are
            some thousand tokens, which is several times the width of a small model's layers. CorDA's authors take 256
            long examples.
        target_modules: ``all-linear`` (every linear layer but the head), ``attention`` or ``mlp`` (those of each
            block), a list of module names, or a regular expression over whole module names. Of a model that takes
            images or sound too, only the layers that text goes through are meant.
        experts: adapts the experts of a mixture too, where the model holds each layer's as one stack of matrices. These
            are no linear layers, and without this they stay as they are. Each expert gets the rank. Needs
            ``dropout=0`` and the init ``default`` or ``gaussian``, without DoRA. ``target_modules=[]`` adapts the
            experts alone.
        modules_to_save: modules that are trained whole and saved with the adapter, such as ``[lm_head]``. A head that
            the base ties to its embedding is trained separately from it, and the merged model holds both.
        trainable_token_indices: ids of tokens whose embeddings are trained and saved with the adapter, such as those
            that mark the turns of a chat: ``[1,2]``. A head that is tied to the embedding follows. The tokens of
            ``model.added_tokens`` are trained in any case.
        rank_pattern: ranks that differ from r, by module name or regular expression: ``{q_proj:16}``.
        alpha_pattern: alphas that differ from alpha, in the same way.
        layers_to_transform: the numbers of the blocks that are adapted, from 0; null is all.
        lora_plus_ratio: learning rate of B divided by that of A (LoRA+, arXiv:2402.12354, where it is 16); null is the
            same rate for both.
        peft: any other field of PEFT's ``LoraConfig``, such as ``{exclude_modules:[down_proj]}``; each is a setting of
            its own too, ``lora.peft.exclude_modules=[down_proj]``, and can be swept. They are held to PEFT's dataclass
            before the first run; a field that another setting of lowrung sets is refused.
    """

    method: str = "lora"
    r: int = MISSING
    alpha: float = MISSING
    dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init: str = "default"
    init_examples: int = 128
    target_modules: Any = "all-linear"
    experts: bool = False
    modules_to_save: list[str] = field(default_factory=list)
    trainable_token_indices: list[int] = field(default_factory=list)
    rank_pattern: Any = None
    alpha_pattern: Any = None
    layers_to_transform: list[int] | None = None
    lora_plus_ratio: float | None = None
    peft: dict[str, Any] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained, without an adapter."""
        return self.method == "full"


def pattern(value: Any) -> dict[str, Any]:
    """``lora.rank_pattern`` or another setting of its kind as a dict; on the command line a JSON text will do.

    Raises:
        ValueError: when it is neither; the text goes on from what it must be.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"but {value!r} is not JSON") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"but is {value!r}")
    return {str(name): number for name, number in value.items()}


@dataclass
class TrainConf:
    """How to train.

    Attributes:
        learning_rate: peak rate of AdamW; null takes the model's prior: 5e-4 · (2000 / hidden size)^0.781, or ^0.0775
            for Qwen, and a tenth of it with ``lora=full``. It was fitted for ``lora.alpha=32``, where the best rate
            hardly depends on the rank; see `lowrung.config.prior`.
        rate_factor: ``learning_rate`` is multiplied by this: a search over ``train.rate_factor=0.3,1,3`` asks every
            model the same question, whatever its own rate is.
        max_steps: optimiser steps; null where ``epochs`` is given.
        epochs: passes over the training examples; null where ``max_steps`` is given.
        batch_size: examples per forward pass, over all ranks together.
        eval_batch_size: examples per forward pass of an evaluation. The scores do not depend on it.
        gradient_accumulation_steps: forward passes per optimiser step.
        eval_steps: steps between evaluations. There is always an evaluation after the last step.
        save_steps: steps between checkpoints, a multiple of ``eval_steps``; null is a checkpoint at every evaluation,
            0 is none. A run that was interrupted goes on from its last checkpoint. Checkpoints are deleted when the run
            is complete.
        save_total_limit: how many checkpoints are kept, the newest ones; with early stopping the best one too.
        early_stopping: ends the run when the eval loss has not improved for this many evaluations, and takes the
            weights of the best evaluation; null never ends it early.
        lr_scheduler_type: a schedule's name in transformers, one of `SCHEDULES` or `SCHEDULES_WITH_SETTINGS`. What it
            takes beside the number of steps is ``train.sft.lr_scheduler_kwargs``, such as ``{min_lr_rate:0.1}``.
        warmup_ratio: share of the steps over which the learning rate rises; ``train.sft.warmup_steps`` takes its part.
        weight_decay: AdamW's. 0, since the adapter starts at zero and is trained for few steps.
        max_grad_norm: a gradient with a larger norm is scaled down to this one; 0 never scales.
        packing: fills each row of a batch with several examples, up to ``data.max_length`` tokens, so that there is
            little padding. ``batch_size`` then counts rows. Examples in a row do not see each other: this is tried out
            on the model before training, and a model where they do (one with a recurrent state) is refused.
        gradient_checkpointing: computes activations a second time instead of keeping them. It needs less memory and is
            about a third slower.
        parallel: ``none``, or how the ranks of a run, one process for each GPU, train one model together: ``ddp`` gives
            each the whole model and a part of each batch, ``fsdp`` also divides the weights among them (FSDP2).
        ranks: how many ranks; null is one for each GPU of the trial (``hydra.launcher.gpus_per_trial``), and in a
            single run one for each GPU that it sees. Without GPUs it must be given.
        sft: other fields of TRL's ``SFTConfig``, such as ``{optim:adamw_8bit,adam_beta2:0.99,neftune_noise_alpha:5}``;
            each is a setting of its own too, ``train.sft.adam_beta2=0.99``, and can be swept. They are held to TRL's
            dataclass and tried out before the first run. A field that another setting of lowrung sets, or that its
            trainer does not read, is refused.
    """

    learning_rate: float | None = None
    rate_factor: float = 1.0
    max_steps: int | None = None
    epochs: float | None = None
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    gradient_accumulation_steps: int = 1
    eval_steps: int = MISSING
    save_steps: int | None = None
    save_total_limit: int = 1
    early_stopping: int | None = None
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    packing: bool = False
    gradient_checkpointing: bool = False
    parallel: str = "none"
    ranks: int | None = None
    sft: dict[str, Any] = field(default_factory=dict)

    @property
    def peak_rate(self) -> float:
        """The largest rate of the schedule, once ``learning_rate`` is known."""
        assert self.learning_rate is not None  # `lowrung.runs.inputs.pinned`
        return self.learning_rate * self.rate_factor

    @property
    def rank_count(self) -> int:
        """The number of processes that train together, once ``ranks`` is known."""
        if self.parallel == "none":
            return 1
        assert self.ranks is not None  # `lowrung.runs.inputs.with_ranks`
        return self.ranks


def threads_of_a_rank(train: TrainConf, threads: int) -> int:
    """The CPU threads of each rank, of those of a run."""
    return max(1, threads // train.rank_count)


def total_steps(train: TrainConf, rows: int) -> int:
    """Optimiser steps of a run over ``rows`` training rows; a last batch that is not full is one as well."""
    if train.max_steps is not None:
        return train.max_steps
    assert train.epochs is not None  # a rule of lowrung.config.rules
    batches = math.ceil(rows / train.batch_size)
    return math.ceil(train.epochs * math.ceil(batches / train.gradient_accumulation_steps))


@dataclass
class ToleranceConf:
    """How far a merged model may be from its adapter, over the completion tokens of the gate's prompts.

    Attributes:
        max_abs_logit_diff: largest difference of any logit.
        mean_kl: mean Kullback-Leibler divergence, in nats.
        top1_agreement: smallest share of tokens with the same most probable next token.
        eval_loss_delta: largest difference of the eval loss either way, in nats.
    """

    max_abs_logit_diff: float = MISSING
    mean_kl: float = MISSING
    top1_agreement: float = MISSING
    eval_loss_delta: float = MISSING


@dataclass
class VerifyConf:
    """The merged-vs-adapter gate.

    Attributes:
        enabled: whether complete runs are verified.
        runs: which runs of a sweep are: ``all``, or with ``finalists`` those of the last of ``hydra.sweeper.stages``
            alone. A run that an earlier stage has trained without the gate is trained once more then.
        prompts: held-out examples that are compared.
        new_tokens: tokens that are generated greedily from each prompt.
        merge_dtype: the precision that a merged model would be exported in, and that ``lowrung merge`` saves. The gate
            also compares in float32. bfloat16's grid is eight times coarser than float16's, so it drops much of a small
            update if the base is stored in bfloat16. Numbers beyond float16's range need bfloat16 or float32.
        keep_merged: keep the merged model in the run's folder. It is as large as the base.
        forgetting: paragraphs of general text (from the Python language reference, at most some 300). The loss on them
            is computed with the base and with the trained model. The difference is ``forget/loss_delta``, which a sweep
            can minimise or limit. 0 measures nothing; 48 take SmolLM2-135M some 18 s of one CPU thread.
        tolerances: by dtype.
    """

    enabled: bool = True
    runs: str = "all"
    prompts: int = MISSING
    new_tokens: int = MISSING
    merge_dtype: str = MISSING
    keep_merged: bool = False
    forgetting: int = 0
    tolerances: dict[str, ToleranceConf] = field(default_factory=dict)


@dataclass
class TrackConf:
    """Where runs are recorded.

    Attributes:
        kind: ``mlflow`` or ``none``.
        uri: MLflow's tracking URI; null is that of the environment variable ``MLFLOW_TRACKING_URI``, and where this is
            empty, ``mlflow.db`` (SQLite) in the working folder.
        experiment: MLflow's experiment; null is that of the variable ``MLFLOW_EXPERIMENT_NAME``, and where this is
            empty, ``lowrung``.
        system_metrics: whether how busy processor, memory and GPUs are is recorded every 10 s of a run; it takes less
            than 0.1% of the training time.
    """

    kind: str = "mlflow"
    uri: str | None = None
    experiment: str | None = None
    system_metrics: bool = True


@dataclass
class Config:
    """A whole config.

    Attributes:
        model: the base model.
        data: the task.
        lora: the adapter.
        train: how to train.
        verify: the merged-vs-adapter gate.
        track: where runs are recorded.
        sweeps: filled by ``sweeps=NAME``; holds nothing itself.
        seed: of the adapter's initial weights, the order of the data, and dropout. It is never searched.
        study: the name of the sweep and of its folder; null is the task's or the preset's name with a short hash of
            what the sweep is: settings, model and data, search space, versions.
        store: the folder where results are kept by signature.
    """

    model: ModelConf = field(default_factory=ModelConf)
    data: DataConf = field(default_factory=DataConf)
    lora: LoraConf = field(default_factory=LoraConf)
    train: TrainConf = field(default_factory=TrainConf)
    verify: VerifyConf = field(default_factory=VerifyConf)
    track: TrackConf = field(default_factory=TrackConf)
    sweeps: Any = None
    seed: int = 0
    study: str | None = None
    store: str = "runs"


PARTS = tuple(field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type))
"""The parts of a config that are dataclasses themselves."""


def compared_dtypes(config: Config) -> set[str]:
    """The precisions that the gate needs tolerances for: those of training and of both merges.

    ``auto`` is bfloat16 on a GPU, and in it the trainer holds the adapter of a quantised base.
    """
    is_auto = config.model.dtype == "auto" or config.model.quantization != "none"
    return {"float32", config.verify.merge_dtype, "bfloat16" if is_auto else config.model.dtype}


def digest(value: Any) -> str:
    """A hash of a JSON-like value, the same in every process and on every machine (16 hex digits).

    Parts of a config count by all their fields; anything else that JSON does not have, such as a path, by its text.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_json(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
