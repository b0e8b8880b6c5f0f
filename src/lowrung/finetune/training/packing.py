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
"""Tokens of each of the examples that a model is tried on."""

LEAK = 0.1
"""How much of a leak may show. Models that mask show exactly 0 in any precision, but for up to 0.03 in int8, whose
outliers are chosen for all tokens of a row together. Recurrent states, short convolutions and masks of a model's own
showed 0.16 to 1.2."""


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
            f"train.packing needs a model that keeps packed examples apart, but in this one {leak:.0%} of the example"
            " before gets through. Use train.packing=false, or another model.attn_implementation."
        )


@torch.no_grad()
def leakage(model: Any) -> float:
    """How much of the example before gets through to one that is packed behind it: 0 nothing, 1 all.

    One example is packed behind two others in turn. What its logits differ by is held against what they differ by
    where positions go on, and nothing marks its beginning. All rows have the same shape, and those that are compared
    the same positions: neither rounding nor where a token stands counts, only what is seen.
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
    """How far the logits of the second example in one row are from those in the other."""
    one, other = (model(input_ids=row, **positions, use_cache=False).logits[:, PROBE:].float() for row in rows)
    return float((one - other).norm())
