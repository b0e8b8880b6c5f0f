"""Several examples in one row, where the model keeps them apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import pack_dataset

from lowrung.errors import UsageError
from lowrung.finetune.models import added_tokens

PROBE = 8
"""Tokens of each of the examples that a model is tested with."""

LEAK = 0.1
"""The largest leak that is accepted. Models that mask leak exactly 0 in any precision, and up to 0.03 in int8, whose
outliers are chosen for all tokens of a row together. Models with recurrent states, short convolutions or masks of their
own leaked 0.16 to 1.2."""


def pack(rows: Dataset, max_length: int) -> Dataset:
    """Fills rows up to ``max_length`` tokens, best fit first; ``seq_lengths`` says where each example ends."""
    packed: Dataset = pack_dataset(rows, max_length, "bfd", {"keep_in_memory": True})
    return packed


def require_separation(model: nn.Module) -> None:
    """Tests whether the model keeps packed examples apart.

    Only position numbers that begin again mark where an example ends. transformers builds its attention masks from
    them; a recurrent state ignores them, and so does a model with a mask of its own.

    Raises:
        UsageError: when an example's logits depend on the one packed before it.
    """
    leak = leakage(model)
    if not leak < LEAK:
        raise UsageError(
            f"train.packing needs a model that keeps packed examples apart, but in this one {leak:.0%} of an example's"
            " effect reaches the next one. Use train.packing=false, or another model.attn_implementation."
        )


@torch.no_grad()
def leakage(model: Any) -> float:
    """The influence of an example on the one that is packed behind it: 0 is none, 1 is as in one text.

    One example is packed behind two others in turn, and the difference of its logits is taken. It is divided by the
    same difference for positions that go on, where nothing marks a beginning. All rows have the same shape and the
    compared tokens the same positions, so rounding and position have no effect.
    """
    was_training = model.training
    model.eval()
    size = added_tokens.row_count(model)
    tokens = torch.arange(1, 3 * PROBE + 1, device=model.device)[None] * 7 % size
    one, other, example = torch.split(tokens, PROBE, dim=1)
    rows = [torch.cat([before, example], dim=1) for before in (one, other)]
    restarted = torch.arange(2 * PROBE, device=model.device)[None] % PROBE
    packed = _difference(model, rows, {"position_ids": restarted})
    joined = _difference(model, rows, {})
    model.train(was_training)
    return packed / joined


def _difference(model: Any, rows: Sequence[Tensor], positions: Mapping[str, Tensor]) -> float:
    """The distance between the logits of the second example in one row and in the other."""
    one, other = (model(input_ids=row, **positions, use_cache=False).logits[:, PROBE:].float() for row in rows)
    return float((one - other).norm())
