"""By how much the tensors of two files differ."""

import dataclasses
import math
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Apart:
    """How two files of tensors differ in value.

    Attributes:
        tensors: how many names there are in both together.
        differing: how many of them differ.
        largest: the largest absolute difference of two numbers; infinite where a tensor is in one file alone, or has
            another shape or type there, or one of two numbers is not finite.
        name: of the tensor with that difference.
    """

    tensors: int
    differing: int
    largest: float
    name: str


def apart(first: Path, second: Path) -> Apart:
    """Compares two files of safetensors by value, tensor by tensor.

    Raises:
        SafetensorError: when one is not such a file.
    """
    with safe_open(first, framework="pt") as one, safe_open(second, framework="pt") as other:
        shared = set(one.keys()) & set(other.keys())
        names = sorted({*one.keys(), *other.keys()})
        by_name = {
            name: _largest(one.get_tensor(name), other.get_tensor(name)) if name in shared else math.inf
            for name in names
        }
    name = max(names, key=lambda each: by_name[each], default="")
    return Apart(len(names), sum(value > 0 for value in by_name.values()), by_name.get(name, 0.0), name)


def _largest(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two tensors' numbers; of two that are not finite alike there is none."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    if one.numel() == 0 or torch.equal(one, other):
        return 0.0
    first, second = one.double(), other.double()
    same = (first == second) | (first.isnan() & second.isnan())
    distance = torch.where(same, 0.0, (first - second).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(distance.max())
