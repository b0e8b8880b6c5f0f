"""One example as tokens and labels: written down by the tokenizer's chat template, or plainly."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Template, Turn

IGNORED = -100
"""The label of a token that is not learnt."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One row: an example, or one answer of a chat with the dialogue before it.

    Attributes:
        input_ids: its tokens.
        labels: of the same length; `IGNORED` for what is not learnt.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return len(self.labels) - self.labels.count(IGNORED)

    def cut(self, max_length: int) -> "Tokens":
        """The first ``max_length`` tokens."""
        return Tokens(self.input_ids[:max_length], self.labels[:max_length])


def tokenise(example: Example, tokenizer: PreTrainedTokenizerBase, template: Template | None = None) -> list[Tokens]:
    """Writes one example down as tokens and labels, uncut.

    Args:
        example: what is written.
        tokenizer: the model's.
        template: its chat template; None writes a prompt and its completion plainly. The completion follows the prompt
            on a new line unless one of them brings white space along, and both are tokenised apart, so that the prompt
            is the same tokens as when the model is asked later.

    Returns:
        one row; for a chat there may be one for each answer, see `of_turns`.

    Raises:
        RowError: when the template refuses the messages.
    """
    if example.text:
        ids = [*opened(tokenizer, example.text), *_end(tokenizer)]
        return [Tokens(ids, [IGNORED, *ids[1:]])]  # nothing predicts the first
    if template is not None:
        return of_turns(list(template.turns(example)), functools.partial(ids_of, tokenizer))
    prompt, completion = (str(message["content"]) for message in example.messages)
    separated = prompt if prompt[-1].isspace() or completion[0].isspace() else f"{prompt}\n"
    before = opened(tokenizer, separated)
    after = [*_without_end(tokenizer, ids_of(tokenizer, completion)), *_end(tokenizer)]
    return [Tokens(before + after, [IGNORED] * len(before) + after)]


def of_turns(turns: Sequence[Turn], ids_of: Callable[[str], list[int]]) -> list[Tokens]:
    """A chat as tokens, of which its answers are learnt: what is new once an answer is there, with what ends it.

    All answers make one row if the template leaves earlier ones as they are. Some templates take the reasoning out of
    them once another question follows. Then each answer makes a row, after the dialogue as the model will be shown it.

    Args:
        turns: the answers.
        ids_of: gives the tokens of a text.
    """
    ids: list[int] = []
    labels: list[int] = []
    for turn in turns:
        asked, answered = ids_of(turn.asked), ids_of(turn.answered)
        start = _common_prefix(asked, answered)
        if start < len(ids) or answered[: len(ids)] != ids:
            return [row for turn in turns for row in of_turns([turn], ids_of)]
        labels += [IGNORED] * (start - len(ids)) + answered[start:]
        ids = answered
    return [Tokens(ids, labels)]


def opened(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens after those with which the tokenizer begins each text, which come once, and without an end."""
    ids, own = list(tokenizer(text)["input_ids"]), ids_of(tokenizer, text)
    count = next((n for n in range(len(ids)) if ids[n : n + len(own)] == own), 0)
    begin = ids[:count]
    while begin and own[:count] == begin:
        own = own[count:]
    return _without_end(tokenizer, begin + own if begin else ids)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens and no others: what a chat template wrote has its BOS in it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _without_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Tokens without ends of text after them: the text's own, and one that the tokenizer adds."""
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [int(tokenizer.eos_token_id)]


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    if other[: len(one)] == one:
        return len(one)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
