"""Greedy generation from prompts of unequal length."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


def prompt_tokens(row: dict[str, Any]) -> list[int]:
    """The tokens of a prepared row before its first labelled one."""
    first = next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))
    return list(row["input_ids"][:first])


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    batch_size: int = 16,
) -> list[list[int]]:
    """Continues each prompt with the most probable tokens, up to the end of its text.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: gives the padding and end-of-text tokens.
        prompts: token ids, one list a prompt.
        new_tokens: the most tokens that are generated from one prompt.
        batch_size: prompts per forward pass; padded on the left.

    Returns:
        the new tokens of each prompt, without padding and without the end-of-text token.
    """
    was_training = model.training
    model.eval()
    continued: list[list[int]] = []
    for ids, mask in _left_padded(prompts, int(tokenizer.pad_token_id), batch_size, model.device):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        continued.extend(_until_end(row, int(tokenizer.eos_token_id)) for row in output[:, ids.shape[1] :].tolist())
    model.train(was_training)
    return continued


def _left_padded(
    prompts: Sequence[Sequence[int]], padding: int, batch_size: int, place: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(prompts), batch_size):
        chunk = prompts[start : start + batch_size]
        width = max(map(len, chunk))
        ids = [[padding] * (width - len(prompt)) + list(prompt) for prompt in chunk]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in chunk]
        yield torch.tensor(ids, device=place), torch.tensor(mask, device=place)


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def exact_match(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], *, batch_size: int
) -> float:
    """The share of rows whose greedy continuation is the completion, up to white space at its ends.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: decodes both sides.
        rows: prepared rows with ``input_ids`` and ``labels``.
        batch_size: prompts per forward pass.
    """
    answers = [[token for token in row["labels"] if token != -100] for row in rows]
    longest = max(map(len, answers)) + 1
    prompts = [prompt_tokens(row) for row in rows]
    given = greedy(model, tokenizer, prompts, new_tokens=longest, batch_size=batch_size)
    texts = [[str(tokenizer.decode(t, skip_special_tokens=True)).strip() for t in side] for side in (given, answers)]
    matches = sum(one == other for one, other in zip(*texts, strict=True))
    return int(matches) / len(rows)
