"""What lowrung makes of each of PEFT's options in an adapter that comes from outside: only what is understood passes.

An option that PEFT reads and lowrung does not know could make the numbers of a command wrong in silence. So each field
of PEFT's `LoraConfig` is in `OPTIONS`, and a test runs over the fields of the installed release.
"""

import dataclasses
import enum
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from peft import LoraConfig
from peft import __version__ as peft_version

from lowrung.adapters.files import Saved


class Use(enum.StrEnum):
    """What an adapter is to be used for, as the end of "must be unset for an adapter to be ...".

    A use includes those before it: what is merged is loaded, and what is combined is loaded beside others. Merging and
    sharing are apart from each other.
    """

    LOAD = "loaded"
    MERGE = "merged"
    SHARE = "loaded on a base that others share"
    COMBINE = "combined"


_INCLUDES = {
    Use.LOAD: (Use.LOAD,),
    Use.MERGE: (Use.LOAD, Use.MERGE),
    Use.SHARE: (Use.LOAD, Use.SHARE),
    Use.COMBINE: (Use.LOAD, Use.SHARE, Use.COMBINE),
}

UNDERSTOOD: Mapping[Use, str] = {}
"""No use is refused: PEFT, and what lowrung does beside it, take the option into account."""

_PEFT_ALONE = "Use the adapter with PEFT itself."
_MERGE_FIRST = "Merge it (lowrung merge), and name the merged model's folder instead."

OPTIONS: Mapping[str, Mapping[Use, str]] = {
    **dict.fromkeys(
        (
            # what the adapter is, and what it was trained on
            *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
            # ranks and scalings
            *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
            # which layers, which the names of the tensors say as well
            *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
            # what is trained beside the factors (`lowrung.adapters.extras`); `lora_bias` see `bias_problems`
            *("bias", "lora_bias", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
            # the start, of which the saved factors are the end; see `lowrung.adapters.compatibility` for inits
            *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
            # training alone: VeLoRA compresses what the backward pass keeps
            *("inference_mode", "lora_dropout", "velora_config", "runtime_config"),
            # without effect unless another option is set, or the base is a GPTQ one, which lowrung does not load
            *("megatron_core", "use_qalora", "qalora_group_size"),
        ),
        UNDERSTOOD,
    ),
    "use_dora": {
        Use.COMBINE: (
            "DoRA's magnitudes have no sum, and PEFT would drop them. Compare their answers (lowrung generate), or"
            " train without lora.use_dora."
        )
    },
    "target_parameters": {
        Use.COMBINE: (
            "PEFT would mix the ranks of different experts. Compare their answers (lowrung generate), or train them as"
            " one adapter on both data."
        )
    },
    "kasa_config": {
        Use.SHARE: f"KaSA cuts small singular values out of the base's weights, for all who use them. {_MERGE_FIRST}"
    },
    "use_bdlora": {
        Use.COMBINE: "its factors are in blocks, which PEFT would add as if they were whole. Compare their answers"
        " (lowrung generate), or combine adapters without it."
    },
    "alora_invocation_tokens": {
        Use.MERGE: "it acts only on the tokens after its invocation, which no weights can. " + _PEFT_ALONE,
        Use.SHARE: "it acts only on the tokens after its invocation, which PEFT looks for itself. " + _PEFT_ALONE,
    },
    "layer_replication": {
        Use.MERGE: f"its copies of a layer share weights, into which PEFT merges all their updates. {_PEFT_ALONE}",
        Use.SHARE: f"it gives the base other layers, for all who use them. {_PEFT_ALONE}",
    },
    "monteclora_config": {Use.LOAD: f"its samplers appear only while PEFT computes. {_PEFT_ALONE}"},
    "arrow_config": {Use.LOAD: f"it routes between other adapters, which are not in its folder. {_PEFT_ALONE}"},
    "megatron_config": {Use.LOAD: f"Megatron's parallel layers are not those of transformers. {_PEFT_ALONE}"},
}
"""Each field of `LoraConfig`, and why a use of an adapter is refused where the field is not at its default."""


def problems(config: LoraConfig, use: Use) -> Iterator[str]:
    """Which options of an adapter are in the way of a use, by their names and with a remedy."""
    for name, value in _changed(config).items():
        if name not in OPTIONS:
            yield (
                f"{name} is an option of PEFT {peft_version} that lowrung does not know, so it must be at its default,"
                f" but is {_shown(value)}. {_PEFT_ALONE}"
            )
            continue
        reason = next((OPTIONS[name][each] for each in _INCLUDES[use] if each in OPTIONS[name]), None)
        if reason and value:
            yield f"{name} must be unset for an adapter to be {use}, but is {_shown(value)}: {reason}"


def unknown_problems(saved: Saved) -> Iterator[str]:
    """Which options of an adapter PEFT would ignore, since it is of another release than the one that saved it."""
    for name, value in saved.unknown.items():
        yield (
            f"{name} must be an option of the installed PEFT ({peft_version}), which ignores others, but is none, and"
            f" adapter_config.json sets it to {_shown(value)}. The adapter was saved by PEFT"
            f" {saved.config.peft_version}: take a lowrung that runs with it, or remove the option if it has no effect."
        )


def variants(config: LoraConfig) -> list[str]:
    """The names of the options that are set and make the adapter another thing than factors A and B of its layers."""
    changed = _changed(config)
    return [name for name in OPTIONS if changed.get(name) and (name == "lora_bias" or OPTIONS[name])]


def _changed(config: LoraConfig) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    default = LoraConfig()
    fields = (field.name for field in dataclasses.fields(config))
    return {name: value for name in fields if (value := getattr(config, name)) != getattr(default, name)}


def _shown(value: Any) -> str:
    return textwrap.shorten(json.dumps(value, default=_plain), 80, placeholder=" …")


def _plain(value: Any) -> Any:
    return vars(value) if dataclasses.is_dataclass(value) else str(value)
