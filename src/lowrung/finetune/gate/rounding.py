"""What a precision of 16 bits loses, on a CPU that has no products for it: its weights, computed with in float32.

Such a CPU takes four times as long for a product in float16 as for one in float32. What a merge rounds is the weights,
and they are compared as they were rounded. What float32 does not show of float16 is its range, which is watched.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PRODUCTS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""The instructions that multiply in a precision, by the names of `torch.cpu.get_capabilities`; one suffices."""


def computed_in(dtype: str, device: torch.device) -> str:
    """The precision that a model stored in ``dtype`` computes in: its own, or float32 where that is quicker."""
    if device.type != "cpu" or dtype not in PRODUCTS:
        return dtype
    has = torch.cpu.get_capabilities()
    return dtype if any(has.get(name) for name in PRODUCTS[dtype]) else "float32"


@contextlib.contextmanager
def range_watched(model: nn.Module, dtype: str) -> Iterator[list[float]]:
    """Notes what is beyond the range of ``dtype`` among all that layers with weights are given, and give.

    So a residual stream is seen where it is normed, a product of two layers' outputs where the next layer takes it.

    Yields:
        the largest magnitude of each such tensor; none while all would be finite in ``dtype``.
    """
    beyond: list[float] = []
    largest = torch.finfo(getattr(torch, dtype)).max

    def note(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        for tensor in (*given, output):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                least, most = torch.aminmax(tensor)  # 40 µs for 3 rows of SmolLM2-135M; a norm takes 20 times as long
                size = max(-least.item(), most.item())
                if not size <= largest:  # a NaN neither
                    beyond.append(size)

    weighted = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    hooks = [each.register_forward_hook(note) for each in weighted]
    try:
        yield beyond
    finally:
        for hook in hooks:
            hook.remove()
