"""What a saved adapter updates: its layers, their ranks and scalings, and how large the updates are."""

import dataclasses
import math
from collections.abc import Mapping

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from lowrung.adapters.files import PREFIX, Saved, is_finite
from lowrung.adapters.injected import Slot


@dataclasses.dataclass(frozen=True)
class Layer:
    """An adapter's update of one layer.

    Attributes:
        name: the layer's in the base, or the parameter's: experts are one parameter.
        rank: r, as the file has it.
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA.
        shape: (out, in) of the update; (experts, out, in) of experts.
        norm: Frobenius norm of the update scaling·B·A, of all experts together; with DoRA the update changes the
            direction of the weights. None where it is no such product.
    """

    name: str
    rank: int
    scaling: float
    shape: tuple[int, ...]
    norm: float | None


def layers(saved: Saved, slots: Mapping[str, Slot] | None = None) -> list[Layer]:
    """What an adapter updates, in the file's order.

    Args:
        saved: the adapter.
        slots: where it changes its base (`lowrung.adapters.injected.slots`). Without the base the factors alone say it:
            then the rank of experts is that of all together, and layers without two whole factors are left out.
    """
    pairs = _factors(saved.tensors)
    if slots is not None:
        return [_layer(saved.config, slot, pairs.get(name)) for name, slot in slots.items()]
    return [_alone(saved.config, name, a, b) for name, (a, b) in pairs.items()]


def rank(config: LoraConfig, layer: str) -> int:
    """The rank that an adapter's settings give a layer."""
    pattern = config.rank_pattern or {}
    return int(pattern.get(get_pattern_key(list(pattern), layer), config.r))


def _alone(config: LoraConfig, name: str, a: Tensor, b: Tensor) -> Layer:
    alphas = config.alpha_pattern or {}
    alpha = float(alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha))
    scaling = alpha / (math.sqrt(a.shape[0]) if config.use_rslora else a.shape[0])
    return Layer(name, a.shape[0], scaling, (b.shape[0], a.shape[1]), _norm(config, scaling, 1, (a, b)))


def _layer(config: LoraConfig, slot: Slot, pair: tuple[Tensor, Tensor] | None) -> Layer:
    shape = slot.shape if slot.experts == 1 else (slot.experts, *slot.shape)
    return Layer(slot.target, slot.rank, slot.scaling, shape, _norm(config, slot.scaling, slot.experts, pair))


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A of shape (rank, in) and B of shape (out, rank) by layer, where they have these shapes."""
    pairs = {}
    for name, a in tensors.items():
        for left, right, end in (("lora_A", "lora_B", ".weight"), ("lora_embedding_A", "lora_embedding_B", "")):
            layer = name.removeprefix(PREFIX).removesuffix(f".{left}{end}")
            b = tensors.get(f"{PREFIX}{layer}.{right}{end}")
            if name.endswith(f".{left}{end}") and b is not None and a.dim() == b.dim() == 2:
                pairs[layer] = (a, b)
    return {layer: (a, b) for layer, (a, b) in pairs.items() if a.shape[0] == b.shape[1]}


def _norm(config: LoraConfig, scaling: float, experts: int, pair: tuple[Tensor, Tensor] | None) -> float | None:
    """The Frobenius norm of scaling·B·A, from products of shape (rank, rank): ‖BA‖² = tr(BᵀB·AAᵀ)."""
    if pair is None or config.kasa_config or config.use_bdlora:  # a diagonal between the factors; factors in blocks
        return None
    a, b = (tensor.double() for tensor in pair)
    if not is_finite(a, b):
        return math.nan
    # As PEFT lays experts out: A has one after the other, B has the ranks one after the other.
    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
    return abs(scaling) * math.sqrt(max(((b.mT @ b) * (a @ a.mT)).sum().item(), 0.0))
