"""Is this config possible? The rules: pure, no device, no disk, no network; in the user's spelling.

What needs a look at model and data is checked by `lowrung.finetune.preflight`, before the first run.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowrung.config import schema
from lowrung.config.schema import Config, DataConf, LoraConf, ModelConf, SourceConf, TrainConf
from lowrung.errors import did_you_mean

SPELLINGS = {"rank": "lora.r", "lr": "train.learning_rate", "steps": "train.max_steps", "rslora": "lora.use_rslora"}
"""What people type when they mean a setting whose name looks different."""


LONGEST_NAME = 255
"""Bytes of a file's name on Linux."""


def problems(config: Config) -> list[str]:
    """The rules that span types: ranges, choices and pairs of fields."""
    return [
        *_undeclared(config),
        *_model_rules(config.model),
        *_data_rules(config.data),
        *_lora_rules(config.lora),
        *_train_rules(config.train),
        *_pair_rules(config),
        *_verify_rules(config),
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


def is_declared(key: str) -> bool:
    """Whether a key is one of our settings, or a group of them."""
    return any(known == key or known.startswith(f"{key}.") for known in _declared(Config))


def _declared(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all that a config dataclass declares."""
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _declared(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _model_rules(model: ModelConf) -> Iterator[str]:
    yield from one_of("model.dtype", model.dtype, ("auto", *schema.DTYPES))
    yield from one_of("model.quantization", model.quantization, schema.QUANTIZATIONS)
    if model.attn_implementation is not None:
        yield from one_of("model.attn_implementation", model.attn_implementation, schema.ATTENTIONS)
    if model.device_map not in (None, "auto"):
        yield f"model.device_map must be null or auto, but is {model.device_map!r}."
    if "" in model.added_tokens or len(set(model.added_tokens)) < len(model.added_tokens):
        yield f"model.added_tokens must be texts that are not empty, each once, but is {model.added_tokens}."


def _data_rules(data: DataConf) -> Iterator[str]:
    if data.name == "mixture":
        if not data.sources:
            yield "data.sources must list what is mixed, but is empty. An example: data=mixture."
        for number, source in enumerate(data.sources):
            yield from _source_rules(f"data.sources[{number}]", source)
    else:
        yield from _source_rules("data", data, (*schema.DATASETS, "mixture"))
    if data.eval_path is not None and data.name != "file":
        yield f"data.eval_path needs data.name=file, but that is {data.name}."
    if data.eval_split is not None and data.name != "hub":
        yield f"data.eval_split needs data.name=hub, but that is {data.name}."
    if data.train_size is not None:
        yield from _at_least("data.train_size", data.train_size, 1)
    if data.eval_size is not None:
        yield from _at_least("data.eval_size", data.eval_size, 1)
    elif data.eval_path is None and data.eval_split is None:
        yield "data.eval_size must say how many examples are held out, but is null. Give a number, or data.eval_path."
    yield from _at_least("data.max_length", data.max_length, 8)
    yield from one_of("data.format", data.format, schema.FORMATS)
    for metric in data.metrics:
        if "." not in metric:  # else a function of the user's
            yield from one_of("data.metrics", metric, schema.METRICS)


def _source_rules(name: str, source: SourceConf, names: Sequence[str] = schema.DATASETS) -> Iterator[str]:
    yield from one_of(f"{name}.name", source.name, names)
    if source.name in ("file", "hub") and not source.path:
        example = "answers.jsonl" if source.name == "file" else "trl-lib/Capybara"
        yield f"{name}.path must name the {source.name}, but is {source.path!r}. An example: {name}.path={example}."
    yield from _above(f"{name}.weight", source.weight, 0)


def _lora_rules(lora: LoraConf) -> Iterator[str]:
    yield from one_of("lora.method", lora.method, schema.METHODS)
    if not schema.is_init(lora.init):
        yield from one_of("lora.init", lora.init, schema.INITS)
    yield from one_of("lora.bias", lora.bias, schema.BIASES)
    yield from _at_least("lora.r", lora.r, 1, "a rank of 0 trains nothing")
    if lora.r >= 1:  # alpha follows r by default: one mistake, one message
        yield from _above("lora.alpha", lora.alpha, 0)
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout must be in [0, 1), but is {lora.dropout}. Use 0 for no dropout."
    yield from _target_rules(lora.target_modules)
    for name, least in (("rank_pattern", 1), ("alpha_pattern", 0)):
        yield from _pattern_rules(f"lora.{name}", getattr(lora, name), least)
    tokens = lora.trainable_token_indices
    if min(tokens, default=0) < 0 or len(set(tokens)) < len(tokens):
        yield f"lora.trainable_token_indices must be token numbers from 0, each once, but is {tokens}."
    yield from _init_rules(lora)
    for layer in lora.layers_to_transform or ():
        yield from _at_least("lora.layers_to_transform", layer, 0)
    if lora.layers_to_transform is not None and _is_regex(lora.target_modules):
        yield (
            "lora.layers_to_transform needs target_modules as a preset or a list, but that is the regular expression"
            f" {lora.target_modules!r}. Name the layers in it instead."
        )
    if lora.lora_plus_ratio is not None:
        yield from _above("lora.lora_plus_ratio", lora.lora_plus_ratio, 0)


def _init_rules(lora: LoraConf) -> Iterator[str]:
    """What an init asks of the other settings."""
    yield from _at_least("lora.init_examples", lora.init_examples, 1)
    if lora.init == "orthogonal":
        ranks = {"lora.r": lora.r, **{f"lora.rank_pattern.{key}": rank for key, rank in _ranks(lora).items()}}
        for name, rank in ranks.items():
            if rank % 2:
                yield f"lora.init=orthogonal needs even ranks, half for A and half for B, but {name} is {rank}."
    if lora.init in ("loftq", "mica") and lora.use_dora:
        why = (
            "is what quantising took, which DoRA's magnitudes would hide" if lora.init == "loftq" else "leaves B fixed"
        )
        yield f"lora.init={lora.init} {why}: it does not go with lora.use_dora=true. Use lora.use_dora=false."
    if lora.init == "mica" and lora.lora_plus_ratio is not None:
        yield (
            f"lora.lora_plus_ratio is a learning rate for B, but is {lora.lora_plus_ratio:g} with lora.init=mica, which"
            " leaves B fixed. Use lora.lora_plus_ratio=null."
        )


def _ranks(lora: LoraConf) -> dict[str, int]:
    """The ranks of ``lora.rank_pattern``, without what is none."""
    try:
        items = pattern(lora.rank_pattern)
    except ValueError:
        return {}
    return {key: rank for key, rank in items.items() if isinstance(rank, int)}


def _is_regex(targets: Any) -> bool:
    return isinstance(targets, str) and targets not in schema.TARGETS


def _target_rules(targets: Any) -> Iterator[str]:
    if isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets):
        return
    if not isinstance(targets, str) or not targets:
        yield (
            f"lora.target_modules must be {', '.join(schema.TARGETS)}, a list such as [q_proj,v_proj] or a regular"
            f" expression, but is {targets!r}."
        )
    elif problem := _regex_problem(targets):
        yield f"lora.target_modules must be a valid regular expression, but {targets!r} is not: {problem}."


def _regex_problem(text: str) -> str | None:
    try:
        re.compile(text)
    except re.error as error:
        return str(error)
    return None


def pattern(value: Any) -> dict[str, Any]:
    """``lora.rank_pattern`` or ``lora.alpha_pattern`` as a dict; on the command line a JSON text will do.

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


def _pattern_rules(name: str, value: Any, least: int) -> Iterator[str]:
    remedy = f"An example: '{name}={{q_proj:16}}', or as JSON \"{name}='{{\\\"q_proj\\\": 16}}'\"."
    try:
        items = pattern(value)
    except ValueError as error:
        yield f"{name} must be pairs of a module's name and a number, {error}. {remedy}"
        return
    for key, number in items.items():
        kinds = int if least else (int, float)
        if isinstance(number, bool) or not isinstance(number, kinds) or not number >= max(least, 1e-9):
            kind = "a rank of at least 1" if least else "a number above 0"
            yield f"{name}.{key} must be {kind}, but is {number!r}."
        if problem := _regex_problem(key):
            yield f"{name} must have names or regular expressions as keys, but {key!r} is neither: {problem}."


def _train_rules(train: TrainConf) -> Iterator[str]:
    yield from _above("train.learning_rate", train.learning_rate, 0)
    for name in ("batch_size", "eval_batch_size", "gradient_accumulation_steps", "eval_steps", "save_total_limit"):
        yield from _at_least(f"train.{name}", getattr(train, name), 1)
    if train.max_steps is None and train.epochs is None:
        yield "train.max_steps or train.epochs must say how long to train, but both are null."
    elif train.max_steps is not None and train.epochs is not None:
        yield (
            f"Only one of train.max_steps ({train.max_steps}) and train.epochs ({train.epochs:g}) can say how long to"
            " train. Add train.max_steps=null to train by epochs."
        )
    if train.max_steps is not None:
        yield from _at_least("train.max_steps", train.max_steps, 1)
    if train.epochs is not None:
        yield from _above("train.epochs", train.epochs, 0)
    if train.save_steps and train.eval_steps >= 1 and train.save_steps % train.eval_steps:
        yield (
            f"train.save_steps must be a multiple of train.eval_steps, but is {train.save_steps} and that is"
            f" {train.eval_steps}: a run goes on from an evaluation."
        )
    elif train.save_steps is not None:
        yield from _at_least("train.save_steps", train.save_steps, 0)
    if train.early_stopping is not None:
        yield from _at_least("train.early_stopping", train.early_stopping, 1)
        if train.save_steps not in (None, train.eval_steps):
            yield (
                "train.early_stopping takes the best evaluation's weights, so each needs a checkpoint, but"
                f" train.save_steps is {train.save_steps} and train.eval_steps {train.eval_steps}."
                " Leave train.save_steps out."
            )
    yield from one_of("train.lr_scheduler_type", train.lr_scheduler_type, schema.SCHEDULES)
    if not 0 <= train.warmup_ratio <= 1:
        yield f"train.warmup_ratio must be in [0, 1], but is {train.warmup_ratio}. It is a share of the steps."
    for name in ("weight_decay", "max_grad_norm"):
        if not getattr(train, name) >= 0:
            yield f"train.{name} must be at least 0, but is {getattr(train, name)}."


def _pair_rules(config: Config) -> Iterator[str]:
    """Rules over several groups."""
    quantized = config.model.quantization != "none"
    if quantized and config.lora.method == "full":
        yield (
            f"lora=full trains all weights, but model.quantization={config.model.quantization} freezes them in few"
            " bits. Use an adapter, or model.quantization=none."
        )
    elif quantized and config.lora.init in ("orthogonal", "mica"):
        yield (
            f"lora.init={config.lora.init} makes A and B of the base's weights' kind, but with"
            f" model.quantization={config.model.quantization} those are integers. Use lora.init=default."
        )
    elif quantized and schema.is_converted(config.lora.init):
        yield (
            f"lora.init={config.lora.init} takes a part out of the base's weights, but"
            f" model.quantization={config.model.quantization} would round what is left, and the adapter would not fit"
            " the original base. Use lora.init=default, or model.quantization=none."
        )
    if not quantized and config.lora.init == "loftq" and config.lora.method != "full":
        yield (
            "lora.init=loftq gives back what quantising took from the base, but model.quantization=none takes nothing."
            " Use model.quantization=nf4 or int8, or lora.init=default."
        )
    if config.lora.method == "full" and config.model.dtype == "float16":
        yield "lora=full needs model.dtype float32 or bfloat16, but it is float16, whose gradients underflow."
    if config.train.packing and config.model.attn_implementation == "flex_attention":
        yield "train.packing was never tried with model.attn_implementation=flex_attention. Use sdpa."
    yield from one_of("track.kind", config.track.kind, schema.TRACKERS)
    yield from _at_least("seed", config.seed, 0)
    yield from _study_rules(config.study)
    if not config.store:
        yield "store must name the folder that results are kept in, but is empty. An example: store=runs."


def _study_rules(study: str | None) -> Iterator[str]:
    """A study is a folder, and its trials are named by it: ``STUDY/3``."""
    if study is not None and (study in (".", "..") or "/" in study or len(study.encode()) > LONGEST_NAME):
        yield (
            f"study must be the name of a folder, without '/' and of {LONGEST_NAME} bytes at most, but is {study!r}."
            " hydra.sweep.dir says where the folders of studies are."
        )


def _verify_rules(config: Config) -> Iterator[str]:
    verify = config.verify
    yield from _at_least("verify.prompts", verify.prompts, 1)
    yield from _at_least("verify.new_tokens", verify.new_tokens, 1)
    yield from _at_least("verify.forgetting", verify.forgetting, 0)
    yield from one_of("verify.merge_dtype", verify.merge_dtype, schema.DTYPES)
    for dtype in sorted(schema.compared_dtypes(config) & set(schema.DTYPES)):
        if dtype not in verify.tolerances:
            yield f"verify.tolerances must have an entry for {dtype}, but has {', '.join(verify.tolerances) or 'none'}."


def _at_least(name: str, value: float, least: float, why: str = "") -> Iterator[str]:
    if value < least:
        yield f"{name} must be at least {least}, but is {value}" + (f": {why}." if why else ".")


def _above(name: str, value: float, limit: float) -> Iterator[str]:
    if not value > limit:
        yield f"{name} must be above {limit}, but is {value}."


def one_of(name: str, value: str, choices: Sequence[str]) -> Iterator[str]:
    """The problem of a value that is none of the choices, with the one that was meant."""
    if value not in choices:
        yield f"{name} must be one of {', '.join(choices)}, but is {value!r}.{did_you_mean(value, choices)}"


def suggest_key(key: str, keys: Sequence[str]) -> str:
    """The setting that was meant, as the end of a message; else where all of them are listed."""
    last = key.rsplit(".", 1)[-1]
    same_name = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if last in SPELLINGS or same_name:
        return f" Did you mean {SPELLINGS.get(last) or same_name[0]}?"
    return did_you_mean(key, keys) or " `python src/train.py --help` lists all settings."
