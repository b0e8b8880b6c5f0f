"""Losses and scores as sums over labelled tokens."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrung.finetune.models.head import Batch, LabelledLogits, on_all_tokens


@dataclasses.dataclass(frozen=True)
class Scores:
    """Sums over labelled tokens, divided by their count.

    Attributes:
        loss: mean negative log-likelihood, in nats.
        token_accuracy: share of tokens that were the most probable ones.
        tokens: how many labelled tokens there are.
    """

    loss: float
    token_accuracy: float
    tokens: int


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over tokens, in float32 (a bfloat16 softmax over 49,152 words loses three digits)."""
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], labelled_logits: LabelledLogits = on_all_tokens) -> Scores:
    """Scores a model in evaluation mode; the result does not depend on how rows are batched."""
    was_training = model.training
    model.eval()
    loss, correct, tokens = 0.0, 0, 0
    for batch in batches:
        logits, labels = labelled_logits(model, batch)
        loss += negative_log_likelihood(logits, labels).item()
        correct += int((logits.argmax(-1) == labels).sum())
        tokens += labels.numel()
    model.train(was_training)
    return Scores(loss / tokens, correct / tokens, tokens)
