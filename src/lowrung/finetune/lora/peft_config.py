"""An adapter's settings as PEFT takes them: its LoraConfig, with names that mean the chosen modules and no others."""

import re
from collections.abc import Sequence

from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import LoraConf, pattern
from lowrung.finetune.lora import peft_options, settings


def make(model: PreTrainedModel, lora: LoraConf, names: Sequence[str], added_rows: Sequence[int]) -> LoraConfig:
    """The settings as PEFT takes them.

    Args:
        model: the base, or its skeleton.
        lora: the adapter's settings.
        names: the whole names of the linear layers that are adapted.
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.

    Raises:
        ValueError: when PEFT refuses them.
    """
    linear = settings.linear_layers(model)
    parameters = settings.target_parameters(model, lora)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides it, a float will do
        lora_dropout=lora.dropout,
        bias=lora.bias,  # type: ignore[arg-type]  # one of the literals, as lowrung.config.rules has seen
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=True if lora.init in ("default", "loftq") else lora.init,  # type: ignore[arg-type]
        corda_config=CordaConfig() if lora.init == "corda" else None,
        lora_ga_config=LoraGAConfig() if lora.init == "lora_ga" else None,
        target_modules=_as_peft_names_them(names, [name for name, _ in model.named_modules()]),
        target_parameters=_shortest(parameters, [name for name, _ in model.named_parameters()], parts=2) or None,
        fan_in_fan_out=bool(names) and all(isinstance(linear[name], Conv1D) for name in names),
        # Whole names: PEFT takes any module whose name ends so, with "norm" also each block's input_layernorm.
        modules_to_save=[name for wanted in lora.modules_to_save for name in settings.named(model, wanted)] or None,
        trainable_token_indices=settings.token_rows(model, lora, added_rows) or None,
        rank_pattern=pattern(lora.rank_pattern),
        alpha_pattern=pattern(lora.alpha_pattern),
        **peft_options.arguments(lora),
    )


def _as_peft_names_them(chosen: Sequence[str], modules: Sequence[str]) -> list[str] | str:
    """The shortest names that mean the chosen layers and no other module; where none do, a regular expression."""
    names = _shortest(chosen, modules, parts=1)
    meant = [name for name in modules if settings.ends_with_any(name, names)]
    return names if len(meant) == len(chosen) else "|".join(map(re.escape, chosen))


def _shortest(chosen: Sequence[str], known: Sequence[str], *, parts: int) -> list[str]:
    """The last parts of the chosen names where they end no other known name, else the chosen names."""
    last = {_last(name, parts) for name in chosen}
    meant = [name for name in known if _last(name, parts) in last]
    return sorted(last) if len(meant) == len(chosen) else list(chosen)


def _last(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])
