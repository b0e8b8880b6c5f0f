"""Losses and scores as sums over the labelled tokens of each example."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

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


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over tokens, in float32 (a bfloat16 softmax over 49,152 words loses three digits)."""
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


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
        losses = functional.cross_entropy(logits.float(), labels, reduction="none").double()
        is_right = logits.argmax(-1) == labels
        parts = tokens[list(numbers)].tolist()
        nll[list(numbers)] = [part.sum().item() for part in torch.split(losses, parts)]
        right[list(numbers)] = [part.sum().item() for part in torch.split(is_right, parts)]
        for number, own in zip(numbers, torch.split(logits, parts), strict=True):
            on_logits(number, own)
    model.train(was_training)
    return Scores(nll, right, tokens)
