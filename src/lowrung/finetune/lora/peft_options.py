"""`lora.peft`: the fields of PEFT's LoraConfig that are set as they are, and those that are not, with the reason."""

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig

from lowrung.config.schema import LoraConf
from lowrung.finetune import library_options

RESOLVED = ("exclude_modules", "layers_pattern", "target_parameters")
"""What `settings.targets` and `settings.target_parameters` turn into exact names, which PEFT is given instead."""

_SETTING = {
    "r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.target_modules",
    "bias": "lora.bias",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "init_lora_weights": "lora.init",
    "modules_to_save": "lora.modules_to_save",
    "layers_to_transform": "lora.layers_to_transform",
    "rank_pattern": "lora.rank_pattern",
    "alpha_pattern": "lora.alpha_pattern",
    "trainable_token_indices": "lora.trainable_token_indices",
    "base_model_name_or_path": "model.path",
    "revision": "model.revision",
}

OWNED = {
    **{name: f"{setting} sets it. Use {setting}" for name, setting in _SETTING.items()},
    **dict.fromkeys(("peft_type", "task_type"), "lowrung trains LoRA adapters of causal language models"),
    **dict.fromkeys(("auto_mapping", "peft_version", "inference_mode"), "PEFT writes it when the adapter is saved"),
    "fan_in_fan_out": "it follows from the kind of the model's layers",
    **dict.fromkeys(("megatron_config", "megatron_core"), "lowrung trains models of transformers, not of Megatron"),
    "eva_config": "lora.init=eva is computed by lowrung. Use lora.init_examples",
    "corda_config": "lora.init=corda sets it. Use lora.init_examples",
    "lora_ga_config": "lora.init=lora_ga sets it. Use lora.init_examples",
    "loftq_config": "lora.init=loftq is computed by lowrung. Use model.quantization",
    **dict.fromkeys(
        ("use_qalora", "qalora_group_size"), "it is for bases that GPTQ has quantised, which lowrung does not train"
    ),
    "alora_invocation_tokens": "an adapter that is active from some token on cannot be merged",
    "layer_replication": "a model with repeated layers cannot be merged, and is not the base any more",
    "arrow_config": "it routes between adapters that are trained already, and lowrung trains one",
    "kasa_config": "KaSA changes the base's weights for good, and needs terms in the loss that lowrung's does not have",
    "monteclora_config": "Monteclora needs a term in the loss that lowrung's does not have",
}
"""The fields that are not to be given; the reason ends a sentence."""


def problems(lora: LoraConf) -> list[str]:
    """Why ``lora.peft`` is not what PEFT's LoraConfig takes."""
    found = library_options.problems(LoraConfig, lora.peft, OWNED, "lora.peft")
    if lora.peft.get("layers_pattern") and lora.layers_to_transform is None:
        found.append(
            "lora.peft.layers_pattern says in which list of blocks lora.layers_to_transform counts, but that is null."
            " Set lora.layers_to_transform, or leave lora.peft.layers_pattern out."
        )
    return found


def arguments(lora: LoraConf) -> Mapping[str, Any]:
    """What ``lora.peft`` gives to LoraConfig as it is."""
    given = {name: value for name, value in lora.peft.items() if name not in RESOLVED}
    return library_options.arguments(LoraConfig, given)
