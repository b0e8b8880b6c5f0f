"""Every key of a config, its type, unit and the reason for its default. conf/ holds the values."""

import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf, open_dict

DTYPES = ("float32", "bfloat16", "float16")
DATASETS = ("docstrings", "number_words")
ANSWERED = ("number_words",)
"""The datasets whose completions are the one right answer, so that exact match means something."""
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
TRACKERS = ("mlflow", "none")


@dataclass
class ModelConf:
    """The base model.

    Attributes:
        path: a local folder as `save_pretrained` leaves it, or ``embedded:NAME`` for a model that comes with lowrung.
        dtype: the weights' precision while training; ``auto`` is bfloat16 on a GPU and float32 on a CPU, which has
            no fast bfloat16 matrix product (measured: 1.5 times slower than float32).
    """

    path: str = MISSING
    dtype: str = "auto"


@dataclass
class DataConf:
    """The task.

    Attributes:
        name: which dataset.
        train_size: examples to train on.
        eval_size: held-out examples that the eval scores are computed over.
        max_length: tokens after which an example is cut.
        seed: draws the examples and the split; apart from the run's seed, so that seeds share their data.
    """

    name: str = MISSING
    train_size: int = MISSING
    eval_size: int = MISSING
    max_length: int = MISSING
    seed: int = 0


@dataclass
class LoraConf:
    """The adapter (LoRA, arXiv:2106.09685).

    Attributes:
        r: rank of the update B·A.
        alpha: numerator of the scaling alpha / r (rsLoRA: alpha / sqrt(r)). Twice r by default, so that sweeping r
            does not also sweep the size of the update.
        dropout: probability of dropping an input of A while training.
        use_rslora: rank-stabilised scaling, arXiv:2312.03732.
        target_modules: ``all-linear`` (every linear layer but the head), or a list of module names.
    """

    r: int = MISSING
    alpha: float = MISSING
    dropout: float = 0.0
    use_rslora: bool = False
    target_modules: Any = "all-linear"


@dataclass
class TrainConf:
    """How to train.

    Attributes:
        learning_rate: peak rate of AdamW.
        max_steps: optimiser steps.
        batch_size: examples per forward pass.
        eval_batch_size: examples per forward pass of an evaluation; the scores do not depend on it.
        gradient_accumulation_steps: forward passes per optimiser step.
        eval_steps: steps between evaluations; the last step is always followed by one.
        lr_scheduler_type: a schedule's name in transformers, one of `SCHEDULES`.
        warmup_ratio: share of the steps over which the rate rises.
        weight_decay: AdamW's; 0 since the adapter starts at zero and few steps are made.
    """

    learning_rate: float = MISSING
    max_steps: int = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    gradient_accumulation_steps: int = 1
    eval_steps: int = MISSING
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0


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
        prompts: held-out examples that are compared.
        new_tokens: tokens that are generated greedily from each prompt.
        merge_dtype: the precision that a merged model would be shipped in; the gate looks at float32 too.
        keep_merged: keep the merged model in the run's folder; it is as large as the base.
        tolerances: by dtype.
    """

    enabled: bool = True
    prompts: int = MISSING
    new_tokens: int = MISSING
    merge_dtype: str = MISSING
    keep_merged: bool = False
    tolerances: dict[str, ToleranceConf] = field(default_factory=dict)


@dataclass
class TrackConf:
    """Where runs are recorded.

    Attributes:
        kind: ``mlflow`` or ``none``.
        uri: MLflow's tracking URI; null is ``mlflow.db`` (SQLite) in the working folder.
        experiment: MLflow's experiment.
    """

    kind: str = "mlflow"
    uri: str | None = None
    experiment: str = "lowrung"


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
        seed: of the adapter's initial weights, the order of the data and dropout. Never searched.
        study: the sweep's name; null is the task's or the preset's name with a short hash of the search space.
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


def register() -> None:
    """Makes the schema known to Hydra, and the resolvers ``twice`` and ``first`` to OmegaConf.

    Calling it again does no harm.
    """
    ConfigStore.instance().store(name="schema", node=Config, provider="lowrung")
    OmegaConf.register_new_resolver("twice", lambda value: 2 * value, replace=True)
    OmegaConf.register_new_resolver("first", lambda *values: next((v for v in values if v), None), replace=True)


def resolve(config: Any) -> Config:
    """Turns a composed Hydra config, with or without Hydra's own node, into plain dataclasses."""
    ours = copy.copy(config)
    with open_dict(ours):
        ours.pop("hydra", None)
    plain = OmegaConf.to_object(ours)
    assert isinstance(plain, Config)  # the schema is the first entry of the defaults list
    return plain


def determining(config: Config) -> dict[str, Any]:
    """The part of a config that determines a run's result: no paths, no tracking, no field that goes unused."""
    values = dataclasses.asdict(config)
    for name in ("track", "sweeps", "study", "store"):
        del values[name]
    del values["model"]["path"]  # the model's content stands for it
    values["verify"].pop("keep_merged")
    if not config.verify.enabled:
        values["verify"] = {"enabled": False}
    else:
        used = {"float32", config.verify.merge_dtype}
        values["verify"]["tolerances"] = {k: v for k, v in values["verify"]["tolerances"].items() if k in used}
    return values


def digest(value: Any) -> str:
    """A hash of a JSON-like value, the same in every process and on every machine (16 hex digits)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
