"""Several examples in one row, where the model keeps them apart."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import pack_dataset

from lowrung.errors import UsageError

PROBE = 8
"""Tokens of each of the two examples that a model is tried on."""

LEAK = 0.1
"""How much of a real leak may show. Rounding shows 1e-5 of it in float32; a recurrent state shows all of it."""


def pack(rows: Dataset, max_length: int) -> Dataset:
    """Fills rows up to ``max_length`` tokens, best fit first; ``seq_lengths`` says where each example ends."""
    packed: Dataset = pack_dataset(rows, max_length, "bfd", {"keep_in_memory": True})
    return packed


def require_separation(model: nn.Module) -> None:
    """Tries out whether the model keeps packed examples apart.

    Position numbers that begin again are all that tells it where one ends. Attention that transformers masks looks at
    them; a recurrent state does not, nor does a model that masks by itself.

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
    """How much an example packed behind another one sees of it: 0 nothing, 1 as much as of its own beginning."""
    was_training = model.training
    model.eval()
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(1, 2 * PROBE + 1, device=model.device)[None] * 7 % size
    restarted = torch.arange(2 * PROBE, device=model.device)[None] % PROBE
    alone = _logits(model, ids[:, PROBE:], restarted[:, PROBE:])
    packed = _logits(model, ids, restarted)[:, PROBE:]
    joined = _logits(model, ids, None)[:, PROBE:]
    model.train(was_training)
    return float((packed - alone).norm() / (joined - alone).norm())


def _logits(model: Any, ids: Tensor, positions: Tensor | None) -> Tensor:
    output = model(input_ids=ids, **({} if positions is None else {"position_ids": positions}), use_cache=False)
    return output.logits.float()  # type: ignore[no-any-return]
