"""What adapter and merged model generate greedily, and how much of it is the same."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lowrung.finetune.gate.case import Case
from lowrung.finetune.models import generate

Tokens = Sequence[int]

SAMPLES = 4
"""So many answers are kept as text: enough to see what a model says, and some KB of a run's outcome."""


def greedy(case: Case, model: Any, tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int]) -> list[list[int]]:
    """The tokens that a model generates greedily from the prompts of the rows with these numbers."""
    prompts = [generate.prompt_tokens(case.rows[number]) for number in numbers]
    return generate.greedy(model, tokenizer, prompts, ends=case.evidence.ends, new_tokens=case.new_tokens)


def greedy_as(
    case: Case,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    other: Sequence[Tokens],
    after: Sequence[Tensor | None],
) -> list[list[int]]:
    """What a model generates from the prompt of each row, where another model generated ``other``.

    What it says after the prompt and after each of these tokens shows whether it would have taken them, as a rule it
    would. Where it would not, or where that is not known, it generates.

    Args:
        case: has the rows.
        model: the model that is asked.
        tokenizer: the base's.
        other: the other model's tokens.
        after: what the model says of them; see `lowrung.finetune.gate.branches.Read`.
    """
    found = [list(tokens) for tokens in other]
    pairs = zip(other, after, strict=True)
    changed = [number for number, (tokens, said) in enumerate(pairs) if not _would_generate(case, tokens, said)]
    for number, tokens in zip(changed, greedy(case, model, tokenizer, changed), strict=True):
        found[number] = tokens
    return found


def _would_generate(case: Case, tokens: Tokens, after: Tensor | None) -> bool:
    """Whether the model takes each of the tokens, and ends there; False where that is not certain."""
    return after is not None and _is_same(case, tokens, after.argmax(-1).tolist())


def _is_same(case: Case, tokens: Tokens, taken: Tokens) -> bool:
    """Whether ``taken``, one token more than were generated, goes as they do; a text that ends answers is not seen."""
    is_over = len(tokens) == case.new_tokens or taken[-1] in case.evidence.ends.tokens
    return list(tokens) == list(taken[:-1]) and is_over


def samples(case: Case, tokenizer: PreTrainedTokenizerBase, said: Sequence[Tokens]) -> list[dict[str, str]]:
    """The first prompts with the answers of the data and of the model, as text, for people.

    The data's answer is cut where the model's must end: after the case's new tokens.
    """

    def text(tokens: Tokens) -> str:
        return str(tokenizer.decode(list(tokens)))

    return [
        {
            "prompt": text(generate.prompt_tokens(row)),
            "expected": text(_before_its_end(case, generate.answer_tokens(row))[: case.new_tokens]),
            "answer": text(tokens),
        }
        for row, tokens in zip(case.rows[:SAMPLES], said, strict=False)
    ]


def _before_its_end(case: Case, answer: Tokens) -> Tokens:
    """An answer of the data up to the token that ends it, as generated ones are given."""
    end = next((i for i, token in enumerate(answer) if token in case.evidence.ends.tokens), len(answer))
    return answer[:end]


def agreement(one: Sequence[Tokens], other: Sequence[Tokens]) -> float:
    """The share of generated tokens that are the same up to the first difference of each pair."""
    same, total = 0, 0
    for left, right in zip(one, other, strict=True):
        total += max(len(left), len(right))
        same += next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
    return same / total if total else 1.0
