"""What jobs of the engine do in tests/gpu. Nothing here imports torch before a job runs: a fork server has it."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds until another job has done its part."""


def compute(device: str) -> dict[str, Any]:
    """Multiplies two matrices on the device; says whether torch was there before, and in which kind of process."""
    had_torch = "torch" in sys.modules
    import torch

    ones = torch.ones(256, 256, device=device)
    return {
        "had_torch": had_torch,
        "sum": (ones @ ones).sum().item(),
        "device": (ones @ ones).device.type,
        "allocated": torch.cuda.memory_allocated() if device == "cuda" else 0,
        "is_in_bad_fork": bool(torch.cuda._is_in_bad_fork()),
    }


def cards() -> dict[str, Any]:
    """The cards that this job sees, by the environment and by CUDA itself."""
    import torch

    count = torch.cuda.device_count()
    return {
        "listed": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "count": count,
        "uuids": [str(torch.cuda.get_device_properties(number).uuid) for number in range(count)],
    }


def meet(device: str, own: Path, other: Path) -> float:
    """Holds memory on the device, waits until the other job does too, and computes while it does."""
    import torch

    ones = torch.ones(1024, 1024, device=device)
    own.touch()
    await_file(other)
    return float((ones @ ones).sum().item())


def hold_all_but(device: str, free_bytes: int, ready: Path, done: Path) -> float:
    """Takes the card's memory but for so much, until the other job is done; then computes with what it held."""
    import torch

    held = [torch.ones(1024, 1024, device=device)]
    if device == "cuda":
        step = 2**28
        while torch.cuda.mem_get_info()[0] > free_bytes + step:
            held.append(torch.empty(step, dtype=torch.uint8, device=device))
    ready.touch()
    await_file(done)
    return float((held[0] @ held[0]).sum().item())


def train(folder: Path, device: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Trains `tiny` in float32 from a start that is drawn from its weights; gives losses and memory.

    What is random is drawn by the device's own generator, so a start at random would be another one on a CPU.
    """
    import torch

    from lowrung.config.schema import ModelConf
    from lowrung.finetune.models import pretrained
    from lowrung.finetune.training import memory
    from tests import training

    assert pretrained.device().type == device
    base = ModelConf("embedded:tiny", dtype="float32")
    trained, reports = training.fine_tune(folder, base=base, lora={"init": "olora"}, **changed)
    is_cuda = device == "cuda"
    return {
        "base_loss": trained.metrics["base/eval_loss"],
        "losses": [metrics["train/loss"] for _, metrics in reports if "train/loss" in metrics],
        "eval_loss": trained.metrics["eval/loss"],
        "allows_tf32": torch.backends.cuda.matmul.allow_tf32,
        "peak_bytes": memory.peak_bytes(),
        "max_memory_allocated": torch.cuda.max_memory_allocated() if is_cuda else None,
        "max_memory_reserved": torch.cuda.max_memory_reserved() if is_cuda else None,
        "weight_bytes": sum(each.numel() * each.element_size() for each in trained.model.parameters()),
    }


def await_file(path: Path) -> None:
    """Waits until another job has made a file."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not come")
        time.sleep(0.01)
