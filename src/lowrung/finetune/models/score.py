"""Losses and scores as sums over the labelled tokens of each example."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowrung.finetune.models.head import Batch, LabelledLogits, Row, on_all_tokens


@dataclasses.dataclass(frozen=True)
class Scores:
    """Sums over the labelled tokens of each example, in the examples' order; and over all of them.

    Attributes:
        nll: negative log-likelihoods, in nats; shape (examples,).
        right: how many tokens were the most probable ones; shape (examples,).
        tokens: how many labelled tokens there are; shape (examples,).
    """

    nll: np.ndarray
    right: np.ndarray
    tokens: np.ndarray

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a labelled token, in nats."""
        return float(self.nll.sum() / self.tokens.sum())

    @property
    def token_accuracy(self) -> float:
        """Share of labelled tokens that were the most probable ones."""
        return float(self.right.sum() / self.tokens.sum())


PIECE = {"cpu": 2**22, "cuda": 2**25}
"""Logits whose softmax is held at once, by the device: on a CPU 17 MB in float32; on a GPU, which computes a token's on
one of its 132 multiprocessors (H200), those of 220 tokens with 152,000 words."""


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over tokens, in float32 (a bfloat16 softmax over 49,152 words loses three digits).

    Only the logits are kept for the backward pass, and their gradient is in their precision. Torch's own operations
    hold three times as much: logits of 4,096 tokens and 152,000 words take 1.2 GB in bfloat16, and 2.5 in float32.

    Args:
        logits: of shape (tokens, vocabulary), in any precision.
        labels: of shape (tokens,).
    """
    total: Tensor = _Sum.apply(logits, labels)  # type: ignore[no-untyped-call]
    return total


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each token's negative log-likelihood, without a gradient; see `negative_log_likelihood`."""
    with torch.no_grad():
        pieces = [(logits[piece], labels[piece]) for piece in _pieces(logits)]
        return torch.cat([functional.cross_entropy(part.float(), its, reduction="none") for part, its in pieces])


def _pieces(logits: Tensor) -> Iterator[slice]:
    tokens, words = logits.shape
    size = max(1, PIECE["cpu" if logits.device.type == "cpu" else "cuda"] // words)
    for first in range(0, max(1, tokens), size):
        yield slice(first, first + size)


class _Sum(torch.autograd.Function):
    """The losses' sum; its backward pass computes each softmax once more, instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        return token_losses(logits, labels).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for piece in _pieces(logits):
            part = torch.softmax(logits[piece], -1, dtype=torch.float32)
            part[torch.arange(len(part), device=part.device), labels[piece]] -= 1
            of_logits[piece] = part.mul_(gradients[0])
        return of_logits, None


def labelled_tokens(row: Row) -> int:
    """How many tokens of a row are predicted: all that have a label, but the first, which nothing comes before."""
    return sum(label != -100 for label in row["labels"][1:])


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: Sequence[Row],
    batches: Iterable[tuple[Sequence[int], Batch]],
    labelled_logits: LabelledLogits = on_all_tokens,
    on_logits: Callable[[int, Tensor], object] = lambda number, logits: None,
) -> Scores:
    """Scores a model in evaluation mode; the result does not depend on how rows are batched.

    Args:
        model: a causal language model, or a PEFT model around one.
        rows: the examples, each with a label.
        batches: the numbers of some rows and their batch, with the rows in this order, until each row has come once.
        labelled_logits: how the logits are computed.
        on_logits: called with each row's number and its logits, of shape (labelled tokens, vocabulary).
    """
    was_training = model.training
    model.eval()
    tokens = np.array([labelled_tokens(row) for row in rows])
    nll, right = np.zeros(len(rows)), np.zeros(len(rows), dtype=int)
    for numbers, batch in batches:
        logits, labels = labelled_logits(model, batch)
        losses = token_losses(logits, labels).double()
        is_right = logits.argmax(-1) == labels
        parts = tokens[list(numbers)].tolist()
        nll[list(numbers)] = [part.sum().item() for part in torch.split(losses, parts)]
        right[list(numbers)] = [part.sum().item() for part in torch.split(is_right, parts)]
        for number, own in zip(numbers, torch.split(logits, parts), strict=True):
            on_logits(number, own)
    model.train(was_training)
    return Scores(nll, right, tokens)
