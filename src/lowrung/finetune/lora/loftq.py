"""LoftQ (arXiv:2310.08659): an adapter that starts by giving a quantised base back what quantising took.

Of the method's iterations this is the first, which is also PEFT's default: A and B are the best approximation of their
rank to what was lost. Further ones would quantise the base anew, and the adapter would be for another base than the one
that everybody loads. PEFT's own asks for CUDA, leaves the adapter's scaling out, and forgets DoRA.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from lowrung.finetune.lora.adapter import adapted_layers


@torch.no_grad()
def start(model: PeftModel, original: PreTrainedModel) -> None:
    """Sets A and B so that each layer's weight with its adapter is as near as its rank allows to what it was.

    Args:
        model: a quantised base with a new adapter, without DoRA.
        original: the same base in float32, not quantised.
    """
    for name, layer in adapted_layers(model).items():
        a, b = _factors(weight_held(original.get_submodule(name)), layer)
        layer.lora_A["default"].weight.data.copy_(a)
        layer.lora_B["default"].weight.data.copy_(b)


def _factors(original: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """A of shape (rank, in) and B of shape (out, rank), whose product times the scaling is nearest to what was lost."""
    held = weight_held(layer.get_base_layer())
    lost = (original.to(held.device) - held) / layer.scaling["default"]
    left, values, right = torch.linalg.svd(lost, full_matrices=False)
    rank = layer.r["default"]
    roots = values[:rank].sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def weight_held(layer: Any) -> Tensor:
    """What a layer's weight stands for, quantised or not, as (out, in) in float32."""
    if hasattr(layer, "source_cls"):  # transformers' note of which layer was quantised
        return dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).float()  # type: ignore[no-any-return]
    weight: Tensor = layer.weight.T if isinstance(layer, Conv1D) else layer.weight  # Conv1D's is (in, out)
    return weight.float()
