"""Is this config possible? The rules: pure, no device, no disk, no network; in the user's spelling.

What needs a look at model and data is checked by `lowrung.finetune.preflight`, before the first run.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowrung import schema
from lowrung.schema import Config, LoraConf, TrainConf, VerifyConf

SPELLINGS = {"rank": "lora.r", "lr": "train.learning_rate", "steps": "train.max_steps", "rslora": "lora.use_rslora"}
"""What people type when they mean a setting whose name looks different."""


def rules(config: Config) -> list[str]:
    """The rules that span types: ranges, choices and pairs of fields."""
    return [
        *_undeclared(config),
        *_data_rules(config),
        *_lora_rules(config.lora),
        *_train_rules(config.train),
        *_verify_rules(config.verify),
    ]


OBJECTIVES = (
    "eval/loss",
    "eval/perplexity",
    "eval/token_accuracy",
    "eval/exact_match",
    "params/trainable",
    "adapter/bytes",
)
"""The metrics that a sweep can optimise."""


def objective_problems(objectives: Any) -> list[str]:
    """What is wrong with what a sweep is to optimise."""
    if not isinstance(objectives, Mapping):
        return [f"hydra.sweeper.objectives must be pairs such as {{eval/loss:minimize}}, but is {objectives!r}."]
    found = [] if objectives else ["hydra.sweeper.objectives must name a metric, but is empty."]
    for name, direction in objectives.items():
        found += _one_of("hydra.sweeper.objectives", name, OBJECTIVES)
        found += _one_of(f"hydra.sweeper.objectives.{name}", direction, ("minimize", "maximize"))
    return found


def answer_problems(config: Config, objectives: Mapping[str, str]) -> list[str]:
    """An objective that this config's task never scores."""
    if "eval/exact_match" not in objectives or config.data.name in schema.ANSWERED:
        return []
    return [
        "hydra.sweeper.objectives must name metrics that the task has, but eval/exact_match needs one right answer,"
        f" and data.name is {config.data.name!r}. Use data={schema.ANSWERED[0]}, or another metric."
    ]


def _undeclared(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that were added with ``+``: nothing would read them."""
    declared = [field.name for field in dataclasses.fields(node)]
    for name in vars(node):
        if name not in declared:
            yield f"{prefix}{name} is not a setting.{suggest_key(prefix + name, list(_declared(Config)))}"
    for name in declared:
        child = getattr(node, name)
        if dataclasses.is_dataclass(child):
            yield from _undeclared(child, f"{prefix}{name}.")


def _declared(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all that a config dataclass declares."""
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _declared(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _data_rules(config: Config) -> Iterator[str]:
    yield from _one_of("model.dtype", config.model.dtype, ("auto", *schema.DTYPES))
    yield from _one_of("data.name", config.data.name, schema.DATASETS)
    yield from _one_of("track.kind", config.track.kind, schema.TRACKERS)
    yield from _at_least("data.train_size", config.data.train_size, 1)
    yield from _at_least("data.eval_size", config.data.eval_size, 1)
    yield from _at_least("data.max_length", config.data.max_length, 8)
    yield from _at_least("seed", config.seed, 0)


def _lora_rules(lora: LoraConf) -> Iterator[str]:
    yield from _at_least("lora.r", lora.r, 1, "a rank of 0 trains nothing")
    if lora.r >= 1:  # alpha follows r by default: one mistake, one message
        yield from _above("lora.alpha", lora.alpha, 0)
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout must be in [0, 1), but is {lora.dropout}. Use 0 for no dropout."
    targets = lora.target_modules
    named = isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)
    if targets != "all-linear" and not named:
        yield f"lora.target_modules must be all-linear or a list such as [q_proj,v_proj], but is {targets!r}."


def _train_rules(train: TrainConf) -> Iterator[str]:
    yield from _above("train.learning_rate", train.learning_rate, 0)
    for name in ("max_steps", "batch_size", "eval_batch_size", "gradient_accumulation_steps", "eval_steps"):
        yield from _at_least(f"train.{name}", getattr(train, name), 1)
    yield from _one_of("train.lr_scheduler_type", train.lr_scheduler_type, schema.SCHEDULES)
    if not 0 <= train.warmup_ratio <= 1:
        yield f"train.warmup_ratio must be in [0, 1], but is {train.warmup_ratio}. It is a share of the steps."
    if not train.weight_decay >= 0:
        yield f"train.weight_decay must be at least 0, but is {train.weight_decay}."


def _verify_rules(verify: VerifyConf) -> Iterator[str]:
    yield from _at_least("verify.prompts", verify.prompts, 1)
    yield from _at_least("verify.new_tokens", verify.new_tokens, 1)
    yield from _one_of("verify.merge_dtype", verify.merge_dtype, schema.DTYPES)
    for dtype in {"float32", verify.merge_dtype} & set(schema.DTYPES):
        if dtype not in verify.tolerances:
            yield f"verify.tolerances must have an entry for {dtype}, but has {', '.join(verify.tolerances) or 'none'}."


def _at_least(name: str, value: float, least: float, why: str = "") -> Iterator[str]:
    if value < least:
        yield f"{name} must be at least {least}, but is {value}" + (f": {why}." if why else ".")


def _above(name: str, value: float, limit: float) -> Iterator[str]:
    if not value > limit:
        yield f"{name} must be above {limit}, but is {value}."


def _one_of(name: str, value: str, choices: Sequence[str]) -> Iterator[str]:
    if value not in choices:
        yield f"{name} must be one of {', '.join(choices)}, but is {value!r}.{did_you_mean(value, choices)}"


def did_you_mean(value: str, choices: Sequence[str], text: str = " Did you mean {}?") -> str:
    """What was meant, as the end of a message; empty where nothing comes close."""
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return text.format(close[0]) if close else ""


def suggest_key(key: str, keys: Sequence[str]) -> str:
    """The setting that was meant, as the end of a message; else where all of them are listed."""
    last = key.rsplit(".", 1)[-1]
    same_name = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if last in SPELLINGS or same_name:
        return f" Did you mean {SPELLINGS.get(last) or same_name[0]}?"
    return did_you_mean(key, keys) or " `python src/train.py --help` lists all settings."
