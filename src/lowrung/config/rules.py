"""The rules for a config, which need no device, disk or network; messages are in the user's spelling.

Rules that need the model and the data are those of `lowrung.finetune.preflight`, before the first run.
"""

import dataclasses
import datetime
import functools
import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from lowrung.config import keys, lora_rules, rank_rules, schema
from lowrung.config.keys import declared, suggest_key
from lowrung.config.limits import above, at_least, one_of
from lowrung.config.schema import Config, DataConf, ModelConf, SourceConf, TrainConf
from lowrung.store.disk import LONGEST_NAME


def problems(config: Config) -> list[str]:
    """Every rule that a config breaks: ranges, choices, and settings that exclude each other."""
    if misshapen := list(_misshapen(config)):
        return misshapen
    return [
        *_undeclared(config),
        *_model_rules(config.model),
        *_data_rules(config.data),
        *lora_rules.problems(config.lora),
        *_train_rules(config.train),
        *rank_rules.problems(config),
        *_pair_rules(config),
        *_verify_rules(config),
    ]


def _misshapen(config: Config) -> Iterator[str]:
    """Lists and mappings that are none: OmegaConf takes whatever an interpolation gives in their place."""
    for key, kinds in _containers().items():
        value = functools.reduce(getattr, key.split("."), config)
        if type(value) not in kinds:
            form = "a list such as [a,b]" if list in kinds else "a mapping such as {name:value}"
            yield f"{key} must be {form}, but is {value!r}."


@functools.cache
def _containers() -> dict[str, set[Any]]:
    """The settings that are lists or mappings, each with the classes that its value may have."""
    found: dict[str, set[Any]] = {}
    for key, annotation in keys.types(Config).items():
        parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
        kinds = {typing.get_origin(part) or part for part in parts}
        if kinds & {list, dict}:
            found[key] = kinds
    return found


def _undeclared(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that were added with ``+``: nothing would read them."""
    fields = [field.name for field in dataclasses.fields(node)]
    for name in vars(node):
        if name not in fields:
            yield f"{prefix}{name} is not a setting.{suggest_key(prefix + name, list(declared(Config)))}"
    for name in fields:
        child = getattr(node, name)
        if dataclasses.is_dataclass(child):
            yield from _undeclared(child, f"{prefix}{name}.")


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
        yield f"data.eval_path needs data.name=file, but data.name is {data.name}. Leave data.eval_path out."
    if data.eval_split is not None and data.name != "hub":
        yield f"data.eval_split needs data.name=hub, but data.name is {data.name}. Leave data.eval_split out."
    if data.train_size is not None:
        yield from at_least("data.train_size", data.train_size, 1)
    if data.eval_size is not None:
        yield from at_least("data.eval_size", data.eval_size, 1)
    elif data.eval_path is None and data.eval_split is None:
        yield "data.eval_size must say how many examples are held out, but is null. Give a number, or data.eval_path."
    yield from at_least("data.max_length", data.max_length, 8)
    yield from one_of("data.format", data.format, schema.FORMATS)
    yield from one_of("data.on_bad_rows", data.on_bad_rows, schema.ON_BAD_ROWS)
    yield from _template_rules(data)
    for metric in data.metrics:
        if "." not in metric:  # else a function of the user's
            yield from one_of("data.metrics", metric, schema.METRICS)


def _template_rules(data: DataConf) -> Iterator[str]:
    """Rules of what chat templates are given; whether one reads it is a rule of the preflight's."""
    try:
        datetime.datetime.fromisoformat(data.date)
    except ValueError:
        yield f"data.date must be a day as ISO 8601 writes it, but is {data.date!r}. An example: {schema.DATE}."
    try:
        schema.pattern(data.chat_template_kwargs)
    except ValueError as error:
        yield (
            f"data.chat_template_kwargs must be variables of the chat template by name, {error}. An example:"
            " 'data.chat_template_kwargs={enable_thinking:false}'."
        )


def _source_rules(name: str, source: SourceConf, names: Sequence[str] = schema.DATASETS) -> Iterator[str]:
    yield from one_of(f"{name}.name", source.name, names)
    if source.name in ("file", "hub") and not source.path:
        example = "answers.jsonl" if source.name == "file" else "trl-lib/Capybara"
        yield f"{name}.path must name the {source.name}, but is {source.path!r}. An example: {name}.path={example}."
    yield from above(f"{name}.weight", source.weight, 0)


def _train_rules(train: TrainConf) -> Iterator[str]:
    if train.learning_rate is not None:
        yield from above("train.learning_rate", train.learning_rate, 0)
    yield from above("train.rate_factor", train.rate_factor, 0)
    for name in ("batch_size", "eval_batch_size", "gradient_accumulation_steps", "eval_steps", "save_total_limit"):
        yield from at_least(f"train.{name}", getattr(train, name), 1)
    if train.max_steps is None and train.epochs is None:
        yield "train.max_steps or train.epochs must say how long to train, but both are null."
    elif train.max_steps is not None and train.epochs is not None:
        yield (
            f"Only one of train.max_steps ({train.max_steps}) and train.epochs ({train.epochs:g}) can say how long to"
            " train. Add train.max_steps=null to train by epochs."
        )
    if train.max_steps is not None:
        yield from at_least("train.max_steps", train.max_steps, 1)
    if train.epochs is not None:
        yield from above("train.epochs", train.epochs, 0)
    if train.save_steps and train.eval_steps >= 1 and train.save_steps % train.eval_steps:
        yield (
            f"train.save_steps must be a multiple of train.eval_steps, {train.eval_steps}, but is {train.save_steps}: a"
            " run goes on from an evaluation."
        )
    elif train.save_steps is not None:
        yield from at_least("train.save_steps", train.save_steps, 0)
    if train.early_stopping is not None:
        yield from at_least("train.early_stopping", train.early_stopping, 1)
        if train.save_steps not in (None, train.eval_steps):
            yield (
                "train.early_stopping needs a checkpoint at each evaluation, since it takes the best one's weights,"
                f" but train.save_steps is {train.save_steps} and train.eval_steps is {train.eval_steps}."
                " Leave train.save_steps out."
            )
    schedules = (*schema.SCHEDULES, *schema.SCHEDULES_WITH_SETTINGS)
    yield from one_of("train.lr_scheduler_type", train.lr_scheduler_type, schedules)
    if not 0 <= train.warmup_ratio <= 1:
        yield f"train.warmup_ratio must be in [0, 1], but is {train.warmup_ratio}. It is a share of the steps."
    for name in ("weight_decay", "max_grad_norm"):
        if not 0 <= getattr(train, name) < math.inf:
            rule = "finite" if getattr(train, name) == math.inf else "at least 0"
            yield f"train.{name} must be {rule}, but is {getattr(train, name)}."


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
            f"lora.init={config.lora.init} makes A and B in the dtype of the base's weights, but with"
            f" model.quantization={config.model.quantization} these are integers. Use lora.init=default."
        )
    elif quantized and schema.is_converted(config.lora.init):
        yield (
            f"lora.init={config.lora.init} takes a part out of the base's weights, but"
            f" model.quantization={config.model.quantization} would round what is left, and the adapter would not fit"
            " the original base. Use lora.init=default, or model.quantization=none."
        )
    for option in ("use_bdlora", "velora_config"):
        if quantized and config.lora.peft.get(option):
            yield (
                f"lora.peft.{option} needs layers that are not quantised, but model.quantization is"
                f" {config.model.quantization}. Use model.quantization=none, or leave it out."
            )
    if not quantized and config.lora.init == "loftq" and config.lora.method != "full":
        yield (
            "lora.init=loftq gives back what quantising took from the base, but model.quantization=none takes nothing."
            " Use model.quantization=nf4 or int8, or lora.init=default."
        )
    if config.lora.method == "full" and config.model.dtype == "float16":
        yield "lora=full needs model.dtype float32 or bfloat16, but model.dtype is float16, whose gradients underflow."
    if config.train.packing and config.model.attn_implementation == "flex_attention":
        yield (
            "train.packing needs an attention that it was tested with, but model.attn_implementation is flex_attention."
            " Use model.attn_implementation=sdpa."
        )
    yield from one_of("track.kind", config.track.kind, schema.TRACKERS)
    yield from at_least("seed", config.seed, 0)
    yield from _study_rules(config.study)
    if not config.store:
        yield "store must name the folder that results are kept in, but is empty. An example: store=runs."


def _study_rules(study: str | None) -> Iterator[str]:
    """A study is a folder, and its trials are named by it: ``STUDY/3``."""
    if study is not None and not _is_file_name(study):
        yield (
            f"study must be the name of a folder, without '/' and of {LONGEST_NAME} bytes at most, but is {study!r}."
            " hydra.sweep.dir says where the folders of studies are; study=null names the study by what it is."
        )


def _is_file_name(name: str) -> bool:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        return False
    return name not in (".", "..") and not {"/", "\0"} & set(name) and 0 < length <= LONGEST_NAME


def _verify_rules(config: Config) -> Iterator[str]:
    verify = config.verify
    yield from one_of("verify.runs", verify.runs, schema.VERIFIED)
    yield from at_least("verify.prompts", verify.prompts, 1)
    yield from at_least("verify.new_tokens", verify.new_tokens, 1)
    yield from at_least("verify.forgetting", verify.forgetting, 0)
    if verify.forgetting and not verify.enabled:
        yield (
            f"verify.forgetting={verify.forgetting} needs the gate, which measures it, but verify.enabled is false. Add"
            " verify=default, or leave verify.forgetting out."
        )
    yield from one_of("verify.merge_dtype", verify.merge_dtype, schema.DTYPES)
    for dtype in sorted(schema.compared_dtypes(config) & set(schema.DTYPES)):
        if dtype not in verify.tolerances:
            yield f"verify.tolerances must have an entry for {dtype}, but has {', '.join(verify.tolerances) or 'none'}."
    for dtype, tolerances in verify.tolerances.items():
        for name, value in vars(tolerances).items():
            if not value >= 0:  # nothing is within NaN
                yield f"verify.tolerances.{dtype}.{name} must be at least 0, but is {value}."
