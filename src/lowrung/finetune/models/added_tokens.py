"""Tokens that a base is given: to its tokenizer, and as rows to its embedding and its head."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.finetune.models import generators

SHOWN_AT_ONCE = 64
"""Tokens of one of the `examples`."""


def add(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Adds those tokens that the tokenizer lacks, after all that it has.

    They are ordinary tokens: found in any text just as they are written, before anything else is split, and kept when
    an answer is decoded, which special ones are not.
    """
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])


def numbers(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """The numbers of tokens that a tokenizer has, in the order of the tokens."""
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]


def row_count(model: PreTrainedModel) -> int:
    """How many rows the embedding has."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def grow(model: PreTrainedModel, rows: int) -> None:
    """Gives embedding and head at least so many rows; each new one is the mean of the old ones.

    So a new token's logit is the mean logit, which takes little from the others
    (https://nlp.stanford.edu/~johnhew/vocab-expansion.html). transformers draws around that mean; the mean itself is
    the same wherever the base is loaded. Rows that a base has to spare stay what they are.
    """
    old = row_count(model)
    if rows <= old:
        return
    with generators.kept(model):  # what transformers draws is written over: no seed should mean another start for it
        model.resize_token_embeddings(rows, mean_resizing=False)
    for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in () if matrix is None else matrix.parameters():
            parameter.data[old:] = parameter.data[:old].mean(dim=0, dtype=torch.float32).to(parameter.dtype)


def examples(rows: Sequence[int]) -> list[dict[str, list[int]]]:
    """Examples in which each of these tokens is read and predicted, as no held-out example need show them.

    Returns:
        rows of ``input_ids`` and ``labels``; the first token of each is its prompt.
    """
    chunks = [list(rows[start : start + SHOWN_AT_ONCE]) for start in range(0, len(rows), SHOWN_AT_ONCE)]
    return [{"input_ids": [*ids, ids[0]], "labels": [-100, *ids[1:], ids[0]]} for ids in chunks]
