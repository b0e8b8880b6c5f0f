"""How a trained model's logits are computed, measured once for all runs that begin with the same model.

To measure it takes 1.5 s of CPU time with SmolLM2-135M: five forward passes. Runs that differ in what happens after
their start, such as the learning rate, begin with the same model to the bit, and so measure the same.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrung.config import schema
from lowrung.config.schema import LoraConf, TrainConf
from lowrung.finetune.models import attention, head
from lowrung.finetune.models.head import LabelledLogits
from lowrung.finetune.training.ranks import ALONE, Ranks
from lowrung.store import kept

AFTER_THE_START = (
    "learning_rate",
    "rate_factor",
    "max_steps",
    "epochs",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "early_stopping",
    "lr_scheduler_type",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
)
"""The fields of `TrainConf` that change nothing before the first step; every other field is taken to."""

_WAYS = {way.__name__: way for way in (head.on_all_tokens, head.on_labelled_tokens, head.on_joined_rows)}


def path(folder: Path, lora: LoraConf, train: TrainConf, seed: int, device: torch.device) -> Path:
    """The file of what was measured for a run's model: its name is a hash of all that the answer depends on.

    Args:
        folder: what is kept of the base and the rows, on whose content, precision, attention, code, libraries and
            threads the answer depends too; see `lowrung.config.signature.of_base`.
        lora: all of it, and the seed, since they make the model that is measured.
        train: what of it is not in `AFTER_THE_START`.
        seed: of the adapter's initial weights.
        device: that the model is on; the processor's name and instructions count, not its kind alone.
    """
    before = {name: value for name, value in vars(train).items() if name not in AFTER_THE_START}
    return folder / f"way-{schema.digest([lora, before, seed, _processor(device)])}.arrays"


def _processor(device: torch.device) -> list[Any]:
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)]
    return [device.type, torch.backends.cpu.get_cpu_capability()]


def of(model: nn.Module, file: Path, measure: Callable[[], LabelledLogits], ranks: Ranks = ALONE) -> LabelledLogits:
    """The way that a file names, for which the model is readied; it is measured, and kept, where there is none.

    A model that is other after it was measured (it counts its passes, or draws from a generator that `head.choose` does
    not restore) is measured in every run: with a kept answer it would train from another state.

    Args:
        model: as `head.choose` gets it.
        file: see `path`.
        measure: calls `head.choose`.
        ranks: those that train this model together; they measure it together, or none does.
    """
    found = _read(file)
    if ranks.total(int(found is not None)) == ranks.count and found is not None:
        (attention.settle if found is head.on_joined_rows else attention.unsettle)(model)
        return found
    before = _state(model)
    way = measure()
    if ranks.is_first and _state(model) == before:
        kept.keep(file, {"way": np.array(way.__name__)})
    return way


def _read(file: Path) -> LabelledLogits | None:
    arrays = kept.read(file)
    return _WAYS.get(str((arrays or {}).get("way")))


def _state(model: nn.Module) -> list[Any]:
    """What a forward pass may change: buffers, by how often each was written, and Python's and NumPy's generators."""
    generator: Any = np.random.get_state()
    written = [(name, id(buffer), buffer._version) for name, buffer in model.named_buffers()]
    return [random.getstate(), generator[1].tobytes(), generator[2:], written]
