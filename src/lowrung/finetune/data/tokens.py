"""One example as tokens and labels: written down by the tokenizer's chat template, or plainly."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lowrung.finetune.data.examples import Example

IGNORED = -100
"""The label of a token that is not learnt."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One example.

    Attributes:
        input_ids: its tokens.
        labels: of the same length; `IGNORED` for what is not learnt.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return sum(label != IGNORED for label in self.labels)

    def cut(self, max_length: int) -> "Tokens":
        """The first ``max_length`` tokens."""
        return Tokens(self.input_ids[:max_length], self.labels[:max_length])


def is_chat(format: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether dialogues are written down by the chat template."""
    return format == "chat" or (format == "auto" and tokenizer.chat_template is not None)


def tokenise(example: Example, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Tokens:
    """Writes one example down as tokens and labels, uncut.

    A chat's template is asked for the dialogue up to each turn that is learnt, once without that turn and once with
    it: what is new is the turn, with the tokens that end it. Plainly, the completion follows its prompt on a new
    line unless one of them brings white space along, and both are tokenised apart, so that the prompt is the same
    tokens as when the model is asked later.
    """
    if example.text:
        ids = _ids(tokenizer, example.text) + _end(tokenizer)
        return Tokens(ids, [IGNORED, *ids[1:]])  # nothing predicts the first
    if chat:
        return _chat(example, tokenizer)
    (_, prompt), (_, completion) = example.messages
    separated = prompt if prompt[-1].isspace() or completion[0].isspace() else f"{prompt}\n"
    before = _ids(tokenizer, separated)
    after = list(tokenizer(completion, add_special_tokens=False)["input_ids"]) + _end(tokenizer)
    return Tokens(before + after, [IGNORED] * len(before) + after)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens with what the tokenizer puts before it; an end that it adds is taken off again."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [int(tokenizer.eos_token_id)]


def _chat(example: Example, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    ids: list[int] = []
    labels: list[int] = []
    messages = [{"role": role, "content": content} for role, content in example.messages]
    for position in _learnt_turns(example):
        asked = _template(tokenizer, messages[:position], add_generation_prompt=True)
        answered = _template(tokenizer, messages[: position + 1])
        start = _common_prefix(asked, answered)
        if start < len(ids) or answered[: len(ids)] != ids:
            raise TemplateError("it changes earlier turns when another follows, so give each chat one answer")
        labels += [IGNORED] * (start - len(ids)) + answered[start:]
        ids = answered
    return Tokens(ids, labels)


def _learnt_turns(example: Example) -> Iterator[int]:
    for position, (role, _) in enumerate(example.messages):
        if role == "assistant" and position >= example.learnt_from:
            yield position


def _template(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> list[int]:
    written = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )
    return list(written["input_ids"])


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
