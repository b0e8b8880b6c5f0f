"""The parameters of a model, counted: all of them, and those that are trained."""

import dataclasses
from collections import Counter

from torch import nn


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """The numbers of parameters of a model, as it is being trained.

    Attributes:
        trainable: those with a gradient.
        total: all, the adapter's included; tied ones once.
        by_module: trainable ones by the module's name (``q_proj``).
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

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by MLflow name."""
        return {
            "params/trainable": self.trainable,
            "params/total": self.total,
            "params/trainable_percent": self.percent,
            **{f"params/trainable/{name}": count for name, count in self.by_module.items()},
        }


def count_parameters(model: nn.Module) -> ParameterCount:
    """Counts a model's parameters, an adapter's by the module that they adapt."""
    total, by_module = 0, Counter[str]()
    for name, parameter in model.named_parameters():
        total += _size(parameter)
        if parameter.requires_grad:
            by_module[_module_of(name)] += parameter.numel()
    return ParameterCount(by_module.total(), total, dict(sorted(by_module.items())))


def _size(parameter: nn.Parameter) -> int:
    """The number of its values; of 4-bit weights, a byte holds two."""
    is_packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * parameter.element_size() * 2 if is_packed else parameter.numel()


def _module_of(name: str) -> str:
    """``q_proj`` for all that is trained at a layer of this name."""
    module = name.split(".lora_")[0].split(".modules_to_save.")[0].split(".token_adapter.")[0]
    for ending in (".weight", ".bias", ".base_layer"):
        module = module.removesuffix(ending)
    return module.rsplit(".", 1)[-1]
