"""Two continuations of each prompt: the data's answer, and what another model generated from it.

Read apart, they cost two forward passes over each prompt. Read together, as branches of one row, they cost one: the
answer, and after it the other continuation, whose tokens see the prompt and not the answer, and have the positions that
they would have without it. SmolLM2-135M takes 2.0 s of CPU time instead of 3.7 for 8 rows of 65 tokens and 12 generated
ones. Not every model reads branches rightly: one with a recurrent state has read the answer, and a sliding window is no
part of a mask that is given. So `is_right` compares both ways.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowrung.finetune.gate import difference
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models import context, generate
from lowrung.finetune.models.head import Batch, Row

Tokens = Sequence[int]

MOST = 2048
"""The most tokens of a row with its branch: their mask in float32 has 16 MB for so many."""

ROUNDING = 1e-4
"""The largest relative difference between both ways that is rounding. With SmolLM2-135M in float32 the logits, which
reach 30, differ by 6e-5 at most."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What a model says of both continuations.

    Attributes:
        logits: over the rows' completions, as `completion_logits` gives them.
        after: of each row, the logits after the prompt and after each token of the other continuation, of shape
            (tokens + 1, vocabulary); none where these are too many for the model's context.
    """

    logits: Tensor
    after: Sequence[Tensor | None]


def apart(model: Any, rows: Sequence[Row], others: Sequence[Tokens], seconds: list[float] | None = None) -> Read:
    """Reads each prompt once with its answer and once with the other continuation; see `completion_logits`."""
    logits, _ = completion_logits(model, rows, seconds=seconds)
    limit = context.limit(model.config)
    again = [_read_again(generate.prompt_tokens(row), tokens) for row, tokens in zip(rows, others, strict=True)]
    fits = [limit is None or len(row["input_ids"]) <= limit for row in again]
    some = [row for row, does in zip(again, fits, strict=True) if does]
    after = iter(_split(completion_logits(model, some)[0], some) if some else [])
    return Read(logits, [next(after) if does else None for does in fits])


def _read_again(prompt: Tokens, tokens: Tokens) -> Row:
    """A row that asks for the token after the prompt, and after each of these; the last token is read by nothing."""
    return {"input_ids": [*prompt, *tokens, 0], "labels": [-100] * len(prompt) + [*tokens, 0]}


def together(model: Any, rows: Sequence[Row], others: Sequence[Tokens], seconds: list[float] | None = None) -> Read:
    """Reads each prompt once, with both; only for a model of which `is_right` has said so, and rows that `fit`."""
    branched = [_branched(row, tokens) for row, tokens in zip(rows, others, strict=True)]
    logits, _ = completion_logits(model, branched, seconds=seconds, pad=_padded)
    own, after = [], []
    for row, tokens, said in zip(rows, others, _split(logits, branched), strict=True):
        of_row, of_branch = torch.split(said, [len(said) - len(tokens), len(tokens)])
        before_answer = _labelled(row) - len(generate.answer_tokens(row))  # labelled tokens, of other answers
        own.append(of_row)
        after.append(torch.cat([of_row[before_answer : before_answer + 1], of_branch]))
    return Read(torch.cat(own), after)


def fit(model: Any, rows: Sequence[Row], others: Sequence[Tokens]) -> bool:
    """Whether the rows, with both continuations, are short enough to be read together."""
    longest = max(len(row["input_ids"]) + len(tokens) + 1 for row, tokens in zip(rows, others, strict=True))
    has_answers = all(generate.answer_tokens(row) and generate.prompt_tokens(row) for row in rows)
    return has_answers and longest <= min(MOST, context.limit(model.config) or MOST)


def is_right(model: Any, rows: Sequence[Row], new_tokens: int) -> bool:
    """Whether a model says of branches together what it says of each apart.

    It is seen on the row that reaches farthest and on the one that reaches least, each with a branch of so many tokens.
    Where positions are others, a window is left out, or the answer is remembered, the logits differ.
    """

    def reach(row: Row) -> int:
        return max(len(row["input_ids"]), len(generate.prompt_tokens(row)) + new_tokens)

    some = [max(rows, key=reach), min(rows, key=reach)]
    others = [list(itertools.islice(itertools.cycle(row["input_ids"][::-1]), new_tokens)) for row in some]
    if not fit(model, some, others):
        return False
    right = apart(model, some, others)
    try:
        read = together(model, some, others)
    except Exception:  # a forward pass that takes no such mask, or no positions: anything is possible
        return False
    pairs = [(right.logits, read.logits), *zip(right.after, read.after, strict=True)]
    return all(one is not None and two is not None and _is_near(one, two) for one, two in pairs)


def _is_near(one: Tensor, two: Tensor) -> bool:
    scale = one.abs().median().item()  # the median: a mask may be -3e38
    return one.shape == two.shape and bool(torch.isclose(two, one, rtol=ROUNDING, atol=ROUNDING * scale).all())


def _branched(row: Row, tokens: Tokens) -> Row:
    """A row, and behind it the branch. What follows the last token is asked for by another, which nothing reads."""
    return {
        "input_ids": [*row["input_ids"], *tokens, 0],
        "labels": [*row["labels"], *([-100, *tokens[1:], 0] if tokens else [-100])],
        "prompt": len(generate.prompt_tokens(row)),
        "branch": len(row["input_ids"]),
    }


def _padded(rows: Sequence[Row], model: Any) -> Batch:
    """Branched rows as a batch, with the positions of their tokens, and a mask that is added to what attention sees."""
    batch = difference.padded(rows, model)
    count, width = batch["input_ids"].shape
    sees = torch.ones(count, 1, width, width, dtype=torch.bool).tril()
    positions = torch.arange(width).repeat(count, 1)
    for number, row in enumerate(rows):
        prompt, branch = row["prompt"], row["branch"]
        sees[number, :, branch:, prompt:branch] = False
        positions[number, branch:] -= branch - prompt
    hidden = torch.zeros(sees.shape, dtype=model.dtype).masked_fill(~sees, torch.finfo(model.dtype).min)
    return {**batch, "attention_mask": hidden.to(model.device), "position_ids": positions.to(model.device)}


def _labelled(row: Row) -> int:
    return sum(label != -100 for label in row["labels"][1:])


def _split(logits: Tensor, rows: Sequence[Row]) -> Sequence[Tensor]:
    return torch.split(logits, [_labelled(row) for row in rows])
