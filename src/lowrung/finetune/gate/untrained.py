"""What the base says of the gate's rows: computed once per base and data, for all runs to compare with."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowrung.finetune.gate import branches, metadata
from lowrung.finetune.gate.case import Evidence
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models import attention
from lowrung.finetune.models.head import Row
from lowrung.store import kept

KEPT_BYTES = 64 * 2**20
"""The most that is kept of a base's logits. Those of 8 rows of `docstrings`, 117 tokens of 49,152 words, are 23 MB in
float32; where a vocabulary or an answer is longer, each run computes them."""


@dataclasses.dataclass(frozen=True)
class Untrained:
    """The base, before anything is trained or put on it: trained biases and heads change the base itself.

    Attributes:
        logits: over the rows' completions, as `completion_logits` gives them.
        was_tied: whether the base's head is its embedding.
        branches_with: what transformers calls the base's attention where it reads branches together rightly, else
            empty; see `lowrung.finetune.gate.branches`.
    """

    logits: Tensor
    was_tied: bool
    branches_with: str


def untrained(
    load: Callable[[], PreTrainedModel],
    evidence: Evidence,
    folder: Path | None,
    device: torch.device,
    new_tokens: int = 0,
) -> Untrained:
    """What the base says of the evidence's rows, from the file that is kept of it where there is one.

    Args:
        load: loads the base, in the precision that it is compared in.
        evidence: has the rows.
        folder: where is kept what was computed of this base and these data by this code; None keeps nothing.
        device: the device that the base is loaded on.
        new_tokens: tokens of a branch; 0 is for models that read none.
    """

    def compute() -> kept.Arrays:
        base = load()
        logits, _ = completion_logits(base, evidence.rows)
        reads = new_tokens and branches.is_right(base, evidence.rows, new_tokens)
        return {
            "logits": logits.numpy(),
            "was_tied": np.array(metadata.is_tied(base)),
            "branches_with": np.array(attention.name(base) if reads else ""),
        }

    is_kept = folder is not None and evidence.logits.nbytes <= KEPT_BYTES
    name = kept_name(f"gate-{new_tokens}", evidence.rows, device)
    found = kept.arrays(folder / name, compute) if folder and is_kept else compute()
    return Untrained(torch.from_numpy(found["logits"]), bool(found["was_tied"]), str(found["branches_with"]))


def kept_name(what: str, rows: Sequence[Row], device: torch.device) -> str:
    """A kept file's name: the rows and the device determine its content, beside what the folder's name says."""
    read = [[list(row["input_ids"]), list(row["labels"])] for row in rows]
    digest = hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16]
    return f"{what}-{device.type}-{digest}.arrays"
