"""torch's random number generators, left as they were."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def kept(model: nn.Module | None = None) -> Iterator[None]:
    """Puts the CPU's generator back after the block, and those of the GPUs that hold a model.

    Unless it is told which, torch begins to use every GPU that it sees, and warns where there are several.
    """
    held = {parameter.device for parameter in model.parameters()} if model is not None else set()
    with torch.random.fork_rng([device.index for device in held if device.type == "cuda"]):
        yield
