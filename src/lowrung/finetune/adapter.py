"""The adapter: attached to a base, counted, saved with its tokenizer."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D


def attach(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: float,
    dropout: float,
    use_rslora: bool,
    target_modules: str | Sequence[str],
) -> PeftModel:
    """Puts a new LoRA adapter on a base model; the base's weights are frozen.

    B starts at zero, so the outputs are the base's until the first step; A is drawn from torch's generator.

    Args:
        model: the base.
        r: rank of the update B·A, with A of shape (r, in) and B of shape (out, r).
        alpha: the update is scaled by alpha / r, or alpha / sqrt(r) with ``use_rslora``.
        dropout: probability of dropping an input of A while training.
        use_rslora: rank-stabilised scaling, arXiv:2312.03732.
        target_modules: ``all-linear`` or names of modules.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it, a float will do
        lora_dropout=dropout,
        use_rslora=use_rslora,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
    )
    return get_peft_model(model, config)


def targetable(model: PreTrainedModel) -> list[str]:
    """The module names that LoRA can target: the last part of every linear layer's name, but not the head's."""
    head = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    return sorted(names)


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model has, as it is being trained.

    Attributes:
        trainable: those with a gradient.
        total: all, the adapter's included; tied ones once.
        by_module: trainable ones by the adapted module's name (``q_proj``).
    """

    trainable: int
    total: int
    by_module: dict[str, int]

    @property
    def percent(self) -> float:
        """Trainable parameters as a percentage of all."""
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        """The line that PEFT users know."""
        return f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {self.percent:.4f}"


def count_parameters(model: nn.Module) -> ParameterCount:
    """Counts a model's parameters, LoRA's by the module that they adapt."""
    total, by_module = 0, Counter[str]()
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            by_module[name.split(".lora_")[0].rsplit(".", 1)[-1]] += parameter.numel()
    return ParameterCount(by_module.total(), total, dict(sorted(by_module.items())))


def save(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Saves the adapter (safetensors) and its tokenizer to a folder.

    Returns:
        the size of the adapter's weights on disk, in bytes.
    """
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
