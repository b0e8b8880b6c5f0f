"""The rules of ``lora.*``: which adapters are possible."""

import re
from collections.abc import Iterator
from typing import Any

from lowrung.config import schema
from lowrung.config.limits import above, at_least, one_of
from lowrung.config.schema import LoraConf


def problems(lora: LoraConf) -> Iterator[str]:
    """Every rule of its own that ``lora`` breaks."""
    yield from one_of("lora.method", lora.method, schema.METHODS)
    if not schema.is_init(lora.init):
        yield from one_of("lora.init", lora.init, schema.INITS)
    yield from one_of("lora.bias", lora.bias, schema.BIASES)
    yield from at_least("lora.r", lora.r, 1, "a rank of 0 trains nothing")
    if lora.r >= 1:  # alpha follows r by default: one mistake, one message
        yield from above("lora.alpha", lora.alpha, 0)
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout must be in [0, 1), but is {lora.dropout}. Use 0 for no dropout."
    if not (_adapts_parameters(lora) and lora.target_modules == []):
        yield from _target_rules(lora.target_modules)
    for name, least in (("rank_pattern", 1), ("alpha_pattern", 0)):
        yield from _pattern_rules(f"lora.{name}", getattr(lora, name), least)
    tokens = lora.trainable_token_indices
    if min(tokens, default=0) < 0 or len(set(tokens)) < len(tokens):
        yield f"lora.trainable_token_indices must be token numbers from 0, each once, but is {tokens}."
    yield from _init_rules(lora)
    if _adapts_parameters(lora):
        yield from _parameter_rules(lora)
    for layer in lora.layers_to_transform or ():
        yield from at_least("lora.layers_to_transform", layer, 0)
    if lora.layers_to_transform is not None and _is_regex(lora.target_modules):
        yield (
            "lora.layers_to_transform needs lora.target_modules to be a preset or a list, but it is the regular"
            f" expression {lora.target_modules!r}. Choose the layers in that expression instead."
        )
    if lora.lora_plus_ratio is not None:
        yield from above("lora.lora_plus_ratio", lora.lora_plus_ratio, 0)


def _adapts_parameters(lora: LoraConf) -> bool:
    """Whether parameters that are no linear layers are adapted, such as experts."""
    return lora.experts or bool(lora.peft.get("target_parameters"))


def _parameter_rules(lora: LoraConf) -> Iterator[str]:
    """What PEFT cannot do with a parameter, to which it adds the update before the weights meet an input."""
    setting = "lora.experts=true" if lora.experts else "lora.peft.target_parameters"
    if lora.dropout:
        yield f"{setting} needs lora.dropout=0, since no input is there to drop, but lora.dropout is {lora.dropout}."
    if lora.use_dora:
        yield f"{setting} needs plain LoRA, but lora.use_dora is true. Use lora.use_dora=false."
    if lora.init not in ("default", "gaussian"):
        yield f"{setting} needs lora.init default or gaussian, but lora.init is {lora.init}. Use lora.init=default."
    for option in ("lora_bias", "velora_config", "use_bdlora"):
        if lora.peft.get(option):
            yield f"{setting} needs plain LoRA, but lora.peft.{option} is set. Leave one of them out."


def _init_rules(lora: LoraConf) -> Iterator[str]:
    """What an init asks of the other settings."""
    yield from at_least("lora.init_examples", lora.init_examples, 1)
    if lora.init == "orthogonal":
        ranks = {"lora.r": lora.r, **{f"lora.rank_pattern.{key}": rank for key, rank in _ranks(lora).items()}}
        for name, rank in ranks.items():
            if rank % 2:
                yield f"lora.init=orthogonal needs even ranks, half for A and half for B, but {name} is {rank}."
    if lora.init in ("loftq", "mica") and lora.use_dora:
        why = "DoRA's magnitudes would hide what it gives back" if lora.init == "loftq" else "it leaves B fixed"
        yield f"lora.init={lora.init} must be without DoRA, but lora.use_dora is true: {why}. Use lora.use_dora=false."
    if lora.init == "mica" and lora.lora_plus_ratio is not None:
        yield (
            f"lora.lora_plus_ratio must be null with lora.init=mica, which leaves B fixed, but is"
            f" {lora.lora_plus_ratio:g}. Use lora.lora_plus_ratio=null."
        )

    if schema.is_converted(lora.init) and lora.peft.get("use_bdlora"):
        yield (
            f"lora.init={lora.init} starts with whole matrices, which lora.peft.use_bdlora holds in blocks. Use"
            " lora.init=default, or leave lora.peft.use_bdlora out."
        )


def _ranks(lora: LoraConf) -> dict[str, int]:
    """The ranks of ``lora.rank_pattern``, without what is none."""
    try:
        items = schema.pattern(lora.rank_pattern)
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


def _pattern_rules(name: str, value: Any, least: int) -> Iterator[str]:
    remedy = f"An example: '{name}={{q_proj:16}}', or as JSON \"{name}='{{\\\"q_proj\\\": 16}}'\"."
    try:
        items = schema.pattern(value)
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
