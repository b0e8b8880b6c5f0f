"""How fast this machine computes, where no run has been measured on it yet."""

import itertools
import time
from typing import Any

import torch

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained

ROWS = 512
"""Tokens of the product that a machine is measured by."""

TRIES = 300
"""Of which a CPU's best one counts: 0.05 s of a small product. A GPU needs the whole time to raise its clock."""


def flops_per_second(base: ModelConf) -> float:
    """How fast this process multiplies matrices of a base's size, in its precision: operations a second.

    The best of several tries counts: whatever else a machine does takes from some. It takes at most 0.3 s.
    """
    device = pretrained.device()
    dtype = torch.float32 if base.quantization != "none" else pretrained.dtype_for(base.dtype, device)
    width = min(4096, max(64, _width(base)))
    rows, weight = (torch.full((size, width), 0.5, dtype=dtype, device=device) for size in (ROWS, 4 * width))
    best, ends = float("inf"), time.perf_counter() + 0.25
    for number in itertools.count(1):
        started = time.perf_counter()
        product = rows @ weight.T
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        del product
        best = min(best, now - started)
        if now > ends or (number == TRIES and device.type == "cpu"):
            break
    return 2.0 * ROWS * weight.numel() / best


def _width(base: ModelConf) -> int:
    embedding: Any = pretrained.skeleton(base).get_input_embeddings()
    return int(embedding.weight.shape[1])
