"""Greedy generation from prompts of unequal length."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lowrung.finetune.models import context


def prompt_tokens(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a prepared row before its last answer."""
    return list(row["input_ids"][: _answer_start(row["labels"])])


def answer_tokens(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a prepared row's last answer, with what ends it."""
    return list(row["input_ids"][_answer_start(row["labels"]) :])


def _answer_start(labels: Sequence[int]) -> int:
    """Where the last run of labels begins; a row ends with the end of its answer."""
    return len(labels) - sum(1 for _ in itertools.takewhile(lambda label: label != -100, reversed(labels)))


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    batch_size: int = 16,
) -> list[list[int]]:
    """Continues each prompt with the most probable tokens, up to the end of its text or of the model's context.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: gives the padding and end-of-text tokens.
        prompts: token ids, one list a prompt.
        new_tokens: the most tokens that are generated from one prompt.
        batch_size: prompts per forward pass; padded on the left.

    Returns:
        the new tokens of each prompt, without padding and without the end-of-text token; none where the prompt fills
        the context.
    """
    was_training = model.training
    model.eval()
    continued: list[list[int]] = [[] for _ in prompts]
    rooms = context.rooms(prompts, new_tokens, context.limit(model.config))
    for numbers, room in context.batches(rooms, new_tokens, batch_size):
        ids, mask = _left_padded([prompts[number] for number in numbers], int(tokenizer.pad_token_id), model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=room,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        for number, row in zip(numbers, output[:, ids.shape[1] :].tolist(), strict=True):
            continued[number] = _until_end(row, int(tokenizer.eos_token_id))
    model.train(was_training)
    return continued


def _left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = [[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def most_answer_tokens(rows: Sequence[Mapping[str, Any]]) -> int:
    """The tokens that an answer is given: one more than the longest of the rows' own has."""
    return max(len(answer_tokens(row)) for row in rows) + 1


def answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], *, batch_size: int
) -> tuple[list[str], list[str]]:
    """The model's greedy answers to the rows' prompts, and the rows' own; no longer than the longest of those.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: decodes both sides.
        rows: prepared rows with ``input_ids`` and ``labels``.
        batch_size: prompts per forward pass.
    """
    references = [answer_tokens(row) for row in rows]
    prompts = [prompt_tokens(row) for row in rows]
    given = greedy(model, tokenizer, prompts, new_tokens=most_answer_tokens(rows), batch_size=batch_size)
    predicted, expected = (
        [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in side]
        for side in (given, references)
    )
    return predicted, expected
