"""PEFT's own word: an adapter is put on the base without weights, before the first run, to see what PEFT refuses."""

import copy
import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from lowrung.config.schema import LoraConf
from lowrung.errors import said
from lowrung.finetune.lora import adapter, peft_config, settings


def refusals(model: PreTrainedModel, adapters: Sequence[LoraConf], added_rows: Sequence[int] = ()) -> list[str]:
    """Why PEFT does not put an adapter on this base as its settings say.

    An adapter takes 0.3 s on the skeleton of a model of 8 billion weights, so those that only differ in what PEFT
    accepts at any value are tried once.

    Args:
        model: the base's skeleton.
        adapters: settings without `fit.problems`.
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.
    """
    distinct: dict[str, LoraConf] = {}
    for lora in adapters:
        distinct.setdefault(repr(dataclasses.replace(lora, alpha=1.0, lora_plus_ratio=None, init_examples=1)), lora)
    found = (problem for lora in distinct.values() for problem in _refusals(model, lora, added_rows))
    return list(dict.fromkeys(found))


def adapted(model: PreTrainedModel, lora: LoraConf, added_rows: Sequence[int] = ()) -> PeftModel:
    """A copy of the skeleton with an adapter of these settings, in which what a run trains has a gradient.

    With ``eva`` each layer has the rank of its settings: how they are spread is known once the data were read.

    Args:
        model: the base's skeleton.
        lora: settings without `refusals`.
        added_rows: see `refusals`.
    """
    if lora.init == "eva":
        lora = dataclasses.replace(lora, init="default")
    return _injected(model, peft_config.make(model, lora, settings.targets(model, lora), added_rows))


def _refusals(model: PreTrainedModel, lora: LoraConf, added_rows: Sequence[int]) -> Iterator[str]:
    if lora.init == "eva":  # which PEFT gets as an adapter that starts at random
        lora = dataclasses.replace(lora, init="default")
    names = settings.targets(model, lora)
    try:
        config = peft_config.make(model, lora, names, added_rows)
    except (TypeError, ValueError) as error:
        yield f"PEFT refuses these settings of lora: {_in_short(error)}"
        return
    try:
        adapted = set(adapter.adapted_layers(_injected(model, config)))
    except Exception as error:  # whatever a layer that PEFT does not know makes it raise
        yield from _explained(model, config, names, error)
        return
    meant = {name for name in (*names, *settings.target_parameters(model, lora)) if not _is_whole(name, model, lora)}
    if adapted != meant:
        yield (
            f"lora.target_modules means {len(meant)} layers, but PEFT would adapt {len(adapted)} of other names:"
            f" {', '.join(sorted(adapted ^ meant)[:4])}. Name the layers by their whole names."
        )


def _injected(model: PreTrainedModel, config: LoraConfig, *, holds_numbers: bool = False) -> PeftModel:
    """The adapter on a copy of the skeleton; where it would start from weights, it starts at random."""
    config = copy.deepcopy(config)
    if config.init_lora_weights != "mica" or holds_numbers:  # MiCA trains A alone, and computes nothing here
        config.init_lora_weights = True
    config.corda_config, config.lora_ga_config = None, None
    with warnings.catch_warnings():  # the run will say them
        warnings.simplefilter("ignore")
        return get_peft_model(copy.deepcopy(model), config, low_cpu_mem_usage=not holds_numbers)


def _explained(model: PreTrainedModel, config: LoraConfig, names: Sequence[str], error: Exception) -> list[str]:
    """Which kinds of layers PEFT refuses by themselves, or what it says of all of them."""
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(name.rsplit(".", 1)[-1], name)
    refused = {kind: why for kind, name in kinds.items() if (why := _refusal_of_one(model, config, name))}
    if kinds and not refused and not config.target_parameters:
        return []  # it was the skeleton's lack of numbers
    if len(refused) in (0, len(kinds)):
        return [f"PEFT refuses these settings of lora: {next(iter(refused.values()), _in_short(error))}"]
    return [
        f"lora.target_modules means {kinds[kind]}, which PEFT refuses: {why} Leave such layers out:"
        f" 'lora.peft.exclude_modules=[{kind}]'."
        for kind, why in refused.items()
    ]


def _refusal_of_one(model: PreTrainedModel, config: LoraConfig, name: str) -> str | None:
    """What PEFT says against an adapter on one layer alone; here that layer has numbers, in case PEFT reads them."""
    alone, config = copy.deepcopy(model), copy.deepcopy(config)
    alone.get_submodule(name).to_empty(device="cpu")
    config.target_modules, config.target_parameters = re.escape(name), None
    config.modules_to_save, config.trainable_token_indices, config.rank_pattern, config.alpha_pattern = (
        None,
        None,
        {},
        {},
    )
    try:
        _injected(alone, config, holds_numbers=True)
    except Exception as error:
        return _in_short(error)
    return None


def _is_whole(name: str, model: PreTrainedModel, lora: LoraConf) -> bool:
    """Whether a layer is in a module that is trained whole, where PEFT puts no adapter."""
    return any(name == whole or name.startswith(f"{whole}.") for whole in settings.trained_whole(model, lora))


def _in_short(error: Exception) -> str:
    text = said(error)
    return text if text.endswith((".", "…", "!")) else f"{text}."
