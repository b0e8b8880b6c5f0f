"""Greedy generation from prompts of unequal length."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lowrung.finetune.models import context
from lowrung.finetune.models.ends import Ends


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
    ends: Ends,
    new_tokens: int,
    batch_size: int = 16,
) -> list[list[int]]:
    """Continues each prompt with the most probable tokens, up to an end of the answer or of the model's context.

    Args:
        model: a causal language model, or a PEFT model around one. Its generation config changes nothing.
        tokenizer: gives the padding token.
        prompts: token ids, one list a prompt.
        ends: where answers end.
        new_tokens: the most tokens that are generated from one prompt.
        batch_size: prompts per forward pass; padded on the left.

    Returns:
        the new tokens of each prompt, without padding and without a token that ends it, but with a text that does; none
        where the prompt fills the context.
    """
    was_training = model.training
    model.eval()
    plain = _plain(model)
    continued: list[list[int]] = [[] for _ in prompts]
    rooms = context.rooms(prompts, new_tokens, context.limit(model.config))
    for numbers, room in context.batches(rooms, new_tokens, batch_size):
        some = _continued(plain, tokenizer, [prompts[number] for number in numbers], ends, room)
        for number, tokens in zip(numbers, some, strict=True):
            continued[number] = tokens
    model.train(was_training)
    return continued


def _plain(model: Any) -> Any:
    """The same modules in an object without the base's generation config.

    transformers fills whatever is not set in the config that it is given from the model's own: a repetition penalty,
    beams, suppressed tokens, stop strings. A copy of the object alone leaves the model as it is.
    """
    plain = copy.copy(model.get_base_model() if hasattr(model, "get_base_model") else model)
    plain.generation_config = GenerationConfig()
    return plain


def _left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = [[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _continued(
    plain: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], ends: Ends, new_tokens: int
) -> list[list[int]]:
    """Continues the prompts of one batch."""
    ids, mask = _left_padded(prompts, int(tokenizer.pad_token_id), plain.device)
    width = ids.shape[1]

    def is_done(so_far: Tensor, *_: Any, **__: Any) -> Tensor:
        return ends.reached(tokenizer, so_far[:, width:])

    output = type(plain).generate(  # the class's: a base's own code may have put another one on the object
        plain,
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=list(ends.tokens) or None,
        ),
        stopping_criteria=[is_done] if ends.text else None,
    )
    return [ends.cut(row) for row in output[:, width:].tolist()]


def most_answer_tokens(rows: Sequence[Mapping[str, Any]]) -> int:
    """The tokens that an answer is given: one more than the longest of the rows' own has, with what ends it."""
    return max(len(answer_tokens(row)) for row in rows) + 1


def answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], *, ends: Ends, batch_size: int
) -> tuple[list[str], list[str]]:
    """The model's greedy answers to the rows' prompts, and the rows' own; no longer than the longest of those.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: decodes both sides.
        rows: prepared rows with ``input_ids`` and ``labels``.
        ends: where answers end.
        batch_size: prompts per forward pass.
    """
    references = [answer_tokens(row) for row in rows]
    prompts = [prompt_tokens(row) for row in rows]
    most = most_answer_tokens(rows)
    given = greedy(model, tokenizer, prompts, ends=ends, new_tokens=most, batch_size=batch_size)
    return [ends.answer(tokenizer, ids) for ids in given], [ends.reference(tokenizer, ids) for ids in references]
