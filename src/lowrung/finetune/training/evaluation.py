"""Evaluation: the held-out rows in batches of like length; and the base's, once for all that is trained from it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lowrung.finetune.models import head, score
from lowrung.finetune.models.head import Batch, LabelledLogits, Row
from lowrung.finetune.models.score import Scores
from lowrung.finetune.training.ranks import ALONE, Ranks
from lowrung.store import kept, layout


def scores(
    model: Any,
    rows: Sequence[Row],
    *,
    size: int,
    batch: Callable[[Sequence[Row]], Batch],
    way: LabelledLogits,
    ranks: Ranks = ALONE,
    on_logits: Callable[[int, torch.Tensor], object] = lambda number, logits: None,
) -> Scores:
    """Scores a model in evaluation mode on rows, each batch of which is one rank's; all ranks get all scores.

    Args:
        model: a causal language model, or a PEFT model around one.
        rows: what is evaluated.
        size: rows of a batch.
        batch: makes one.
        way: how the logits are computed.
        ranks: those that share the batches.
        on_logits: called with each row's number and its logits, for the rows of this rank's batches.
    """
    numbers = by_length(rows, size)
    own = ((some, batch([rows[number] for number in some])) for some in ranks.share(numbers))
    part = score.evaluate(model, rows, own, way, on_logits)
    if not ranks.are_several:
        return part
    whose = owners(rows, size, ranks)
    nll = ranks.of_owners(whose, torch.from_numpy(part.nll))
    right = ranks.of_owners(whose, torch.from_numpy(part.right))
    return Scores(nll.numpy(), right.numpy(), part.tokens)


def by_length(rows: Sequence[Row], size: int) -> list[list[int]]:
    """The numbers of rows in batches of like length: less padding, and the scores do not depend on the order."""
    ordered = sorted(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def owners(rows: Sequence[Row], size: int, ranks: Ranks) -> list[int]:
    """The rank that evaluates each row."""
    of_batches = {number: ranks.owner(turn) for turn, numbers in enumerate(by_length(rows, size)) for number in numbers}
    return [of_batches[number] for number in range(len(rows))]


def logits_of_all(
    logits: Mapping[int, torch.Tensor], owners: Sequence[int], tokens: Sequence[int], ranks: Ranks
) -> dict[int, torch.Tensor]:
    """The logits of the first rows, each of which one rank has computed, in all ranks.

    Args:
        logits: those of this rank, by the row's number, each of shape (labelled tokens, vocabulary).
        owners: the rank that has computed each row's.
        tokens: how many labelled tokens each row has.
        ranks: those that share them.
    """
    vocabulary = ranks.most(max((each.shape[1] for each in logits.values()), default=0))
    found = {}
    for number, owner in enumerate(owners):
        own = logits[number].contiguous() if owner == ranks.rank else torch.empty(tokens[number], vocabulary)
        found[number] = ranks.from_rank(owner, own)
    return found


def of_base(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    size: int,
    folder: Path,
    ranks: Ranks = ALONE,
) -> Scores:
    """The base's scores of the held-out rows, computed once for all runs that share base and rows.

    Args:
        model: the base as it will be trained, without an adapter.
        tokenizer: gives the padding token.
        rows: the held-out ones.
        size: rows of a batch. Sums of other batches differ in their last digits.
        folder: what is kept of this base and these rows; see `lowrung.config.signature.of_base`.
        ranks: those that share the batches.
    """
    path = layout.base_scores(folder, size)
    found = kept.read(path)
    if ranks.total(int(found is not None)) == ranks.count and found:
        return Scores(**found)
    computed = _scores(model, tokenizer, rows, size, ranks)
    if ranks.is_first:
        kept.keep(path, vars(computed))
    return computed


def _scores(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], size: int, ranks: Ranks) -> Scores:
    collate = DataCollatorForLanguageModeling(pad_token_id=int(tokenizer.pad_token_id))

    def batch(some: Sequence[Row]) -> Batch:
        padded: dict[str, torch.Tensor] = collate([dict(row) for row in some])
        return {name: tensor.to(model.device) for name, tensor in padded.items()}

    way = head.choose(model, batch(head.probe_rows(rows)))
    return scores(model, rows, size=size, batch=batch, way=way, ranks=ranks)
