"""Forgetting: what training on a task costs on general text, the adapter's loss there less the base's.

The text is that of the Python language reference, which every Python brings: prose that explains, near to code but no
task of lowrung's. The literature measures the same on pretraining text (arXiv:2405.09673, "LoRA Learns Less and Forgets
Less").
"""

import pydoc_data.topics
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowrung.config.schema import ModelConf
from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.gate.difference import mean_loss
from lowrung.finetune.gate.untrained import kept_name
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.head import Row
from lowrung.store import kept

MAX_TOKENS = 64
"""Tokens of a paragraph: with SmolLM2-135M, 48 paragraphs with and without an adapter take 18 s of one CPU thread."""


def measure(
    *, base: ModelConf, folder: Path, is_adapter: bool, rows: int, base_folder: Path, device: torch.device
) -> dict[str, float]:
    """The mean loss on general text, without what was trained and with it, in the base's precision of training.

    Args:
        base: the base model, with the settings that it was loaded with.
        folder: the saved adapter, or the saved model where all weights were trained.
        is_adapter: whether the folder holds an adapter.
        rows: the number of paragraphs.
        base_folder: where is kept what was computed of this base, its loss on these paragraphs among it.
        device: the device that the losses are computed on.

    Returns:
        ``forget/base_loss``, ``forget/loss`` and their difference ``forget/loss_delta``, in nats per token. The
        difference is above 0 where the model has forgotten.
    """
    some = _rows(base, rows)
    model: Any = pretrained.load_base(base, device)
    name = kept_name("forgetting", some, device)
    base_loss = kept.arrays(base_folder / name, lambda: {"loss": np.array(mean_loss(model, some))})["loss"].item()
    if is_adapter:
        model = merge.with_adapter(model, folder)
    else:
        dtype = pretrained.dtype_for(base.dtype, device)
        model = pretrained.load_model(folder, dtype, device, trust_remote_code=base.trust_remote_code)
    loss = mean_loss(model, some)
    return {"forget/base_loss": base_loss, "forget/loss": loss, "forget/loss_delta": loss - base_loss}


def paragraphs(count: int) -> list[str]:
    """Paragraphs of general text, each of 200 to 1000 characters; fewer where there are no more (about 300).

    The first ``count`` are the same ones whatever the count is.
    """
    found = {
        " ".join(text.split())
        for topic in pydoc_data.topics.topics.values()
        for text in topic.split("\n\n")
        if 200 <= len(text) <= 1000 and _is_prose(text)
    }
    drawn = sorted(found)
    random.Random(0).shuffle(drawn)
    return drawn[:count]


def _is_prose(text: str) -> bool:
    """No code, which is indented, and no grammar."""
    return re.match("[A-Z]", text) is not None and "\n " not in text and "::=" not in text


def _rows(base: ModelConf, count: int) -> list[Row]:
    tokenizer = pretrained.tokenizer_of(base)
    written = (tokens.tokenise(Example(text=text), tokenizer) for text in paragraphs(count))
    return [vars(row.cut(MAX_TOKENS)) for rows in written for row in rows]
