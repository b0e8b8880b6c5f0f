"""Bases in 16 bits whose adapters start with a part of the weights: PiSSA, OLoRA, LoRA-GA and CorDA.

They train at W = (W - s·B0·A0) + s·B·A. PEFT rounds what is left of W to the base's precision, and no adapter of a low
rank holds what was rounded away: with SmolLM2-135M in bfloat16, training started at a mean KL of 0.003 from the base,
and the saved adapter, which is for the base as it is, was 0.002 to 0.008 from what was trained.

Here W stays, and each layer adds s·(B·A - B0·A0)·x, computed as the saved adapter will compute it, by factors of twice
the rank: start and saved adapter are right to the bit. What dropout drops is the input of this whole difference.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel


def coarse_weights(model: PreTrainedModel, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of those weights that are not held in float32, on the CPU, by the names of their layers."""
    weights: dict[str, Tensor] = {name: model.get_submodule(name).weight.data for name in names}  # type: ignore[misc]
    return {name: weight.to("cpu", copy=True) for name, weight in weights.items() if weight.dtype != torch.float32}


def subtract(layers: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Puts weights back that a start has changed, and lets their layers subtract that start instead.

    Args:
        layers: PEFT's, by name, with factors at their start and without DoRA, whose norms are of the changed weights.
        weights: `coarse_weights` before the adapter was attached.
    """
    for name, weight in weights.items():
        held = layers[name].get_base_layer()
        held.weight.data = weight.to(held.weight.device)
        for factors, sign, dim in ((layers[name].lora_A, 1, 0), (layers[name].lora_B, -1, 1)):
            factor = factors["default"]
            factor.forward = _Stacked(factor, sign * factor.weight.detach(), dim)


def weight(factor: Any) -> Tensor:
    """What a factor of PEFT's layer multiplies by: its weight, or both where it has its start beside it."""
    forward = vars(factor).get("forward")
    held: Tensor = (forward if isinstance(forward, _Stacked) else factor).weight
    return held


def is_plain(factor: Any) -> bool:
    """Whether a factor only multiplies by its `weight`."""
    return isinstance(vars(factor).get("forward"), _Stacked | None)


class _Stacked:
    """The forward pass of a factor with its start beside it."""

    def __init__(self, factor: Any, start: Tensor, dim: int) -> None:
        self._factor, self._start, self._dim = factor, start.clone(), dim

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight)

    @property
    def weight(self) -> Tensor:
        """The factor's and the start's."""
        return torch.cat([self._factor.weight, self._start], dim=self._dim)
