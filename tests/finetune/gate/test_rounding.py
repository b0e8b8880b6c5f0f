import pytest
import torch
from torch import nn

from lowrung.finetune.gate import rounding

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "dtype", "computed"),
    [
        ({"avx2": True}, "float16", "float32"),
        ({"avx2": True, "avx512_bf16": False}, "bfloat16", "float32"),
        ({"avx512_bf16": True}, "float16", "float32"),
        ({"avx512_bf16": True}, "bfloat16", "bfloat16"),
        ({"avx512_fp16": True}, "float16", "float16"),
        ({"amx_fp16": True}, "float16", "float16"),
        ({"neon": True, "bf16": True}, "bfloat16", "bfloat16"),
        ({}, "float32", "float32"),
    ],
)
def test_a_cpu_computes_in_a_precision_that_it_has_products_for(monkeypatch, has, dtype, computed):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert rounding.computed_in(dtype, CPU) == computed
    assert rounding.computed_in(dtype, torch.device("cuda", 0)) == dtype


class Product(nn.Module):
    """Two layers whose product a third one is given, as in the feed-forward network of a Llama."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        for layer, weight in ((self.one, one), (self.other, other), (self.last, 1e-6)):
            nn.init.constant_(layer.weight, weight)
            nn.init.zeros_(layer.bias)

    def forward(self, given):
        return self.last(self.one(given) * self.other(given))


@pytest.mark.parametrize(
    ("one", "other", "given", "is_beyond"),
    [
        (100.0, 100.0, 1.0, False),
        (200.0, 200.0, 1.0, True),  # 400 · 400: the product alone is beyond 65504
        (6e4, 1e-6, 1.0, True),  # 120,000, though the product is small
        (1e-6, 6e4, -1.0, True),
        (1.0, 1.0, 7e4, True),
        (1.0, 1.0, float("nan"), True),
    ],
)
def test_what_float16_could_not_hold_is_seen_in_float32(one, other, given, is_beyond):
    model = Product(one, other)
    with torch.no_grad(), rounding.range_watched(model, "float16") as beyond:
        model(torch.full((1, 2), given))
    assert bool(beyond) is is_beyond
    with torch.no_grad(), rounding.range_watched(model, "bfloat16") as beyond:
        model(torch.full((1, 2), given))
    assert bool(beyond) is (given != given)
    assert not any(module._forward_hooks for module in model.modules())
