"""Evaluation: the held-out rows in batches of like length; and the base's, once for all that is trained from it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lowrung.finetune.models import head, score
from lowrung.finetune.models.head import Batch, Row
from lowrung.finetune.models.score import Scores
from lowrung.store import kept


def by_length(
    rows: Sequence[Row], size: int, batch: Callable[[Sequence[Row]], Batch]
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of rows of like length: less padding, and the scores do not depend on the order.

    Args:
        rows: what is evaluated.
        size: rows of a batch.
        batch: makes one.

    Yields:
        the numbers of the rows in a batch, and the batch.
    """
    ordered = sorted(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
    for start in range(0, len(ordered), size):
        numbers = ordered[start : start + size]
        yield numbers, batch([rows[number] for number in numbers])


def of_base(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, size: int, folder: Path
) -> Scores:
    """The base's scores of the held-out rows, computed once for all runs that share base and rows.

    Args:
        model: the base as it will be trained, without an adapter.
        tokenizer: gives the padding token.
        rows: the held-out ones.
        size: rows of a batch. Sums of other batches differ in their last digits.
        folder: what is kept of this base and these rows; see `lowrung.config.signature.of_base`.
    """
    return Scores(
        **kept.arrays(folder / f"held_out-{size}.arrays", lambda: vars(_scores(model, tokenizer, rows, size)))
    )


def _scores(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], size: int) -> Scores:
    collate = DataCollatorForLanguageModeling(pad_token_id=int(tokenizer.pad_token_id))

    def batch(some: Sequence[Row]) -> Batch:
        padded: dict[str, torch.Tensor] = collate([dict(row) for row in some])
        return {name: tensor.to(model.device) for name, tensor in padded.items()}

    way = head.choose(model, batch(head.probe_rows(rows)))
    return score.evaluate(model, rows, by_length(rows, size, batch), way)
