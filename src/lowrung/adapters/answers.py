"""What adapters and models answer to the same prompts, with each base loaded once."""

import dataclasses
import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.config.schema import ModelConf
from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.gate.difference import Difference, compare
from lowrung.finetune.models import generate, pretrained

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Asked:
    """Who is asked.

    Attributes:
        base: the base model.
        adapter: the folder of the adapter on it, or None for the base alone.
        format: how a prompt is written down (``data.format``).
    """

    base: ModelConf
    adapter: Path | None = None
    format: str = "auto"


def answers(
    asked: Sequence[Asked], prompts: Sequence[str], *, new_tokens: int, batch_size: int = 16
) -> list[list[str]]:
    """Asks all greedily: each base is loaded once, and its adapters are switched.

    Args:
        asked: who; those on the same base share it.
        prompts: what is asked, none of them empty; written down as in training.
        new_tokens: the most tokens of an answer.
        batch_size: prompts per forward pass; padding moves logits by rounding.

    Returns:
        for each who is asked, the answer to each prompt.

    Raises:
        UsageError: when an adapter cannot be read or is another base's.
    """
    return _of_each(asked, lambda loaded, one: _answers(loaded, one, prompts, new_tokens, batch_size))


@dataclasses.dataclass(frozen=True)
class Reply:
    """What one says to some prompts, each asked by itself.

    Attributes:
        answers: the texts.
        logits: of the first token of each answer, of shape (prompts, vocabulary).
    """

    answers: Sequence[str]
    logits: Tensor

    def distance(self, logits: Tensor | Sequence[Sequence[float]]) -> Difference:
        """How far another's logits are from these; those of a vocabulary of another size are not finite."""
        other = torch.as_tensor(logits)
        if other.shape != self.logits.shape:
            other = torch.full_like(self.logits, math.nan)
        return compare(self.logits, other, self.logits.argmax(-1))


def replies(asked: Sequence[Asked], prompts: Sequence[str], *, new_tokens: int) -> list[Reply]:
    """As `answers`, with logits, which tell apart what answers alike."""

    def reply(loaded: MultiAdapter, one: Asked) -> Reply:
        rows = prompt_rows(one, prompts)
        said = [_next_logits(loaded.model, row) for row in rows]
        return Reply(_answers(loaded, one, prompts, new_tokens, batch_size=1), torch.stack(said))

    return _of_each(asked, reply)


@torch.no_grad()
def _next_logits(model: Any, row: Sequence[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([row], device=model.device)).logits[0, -1]
    return logits.float().cpu()


def _of_each(asked: Sequence[Asked], say: Callable[[MultiAdapter, Asked], T]) -> list[T]:
    """Loads each base once, and lets each speak who is asked of it."""
    found: dict[int, T] = {}
    for base in dict.fromkeys(one.base for one in asked):
        loaded = MultiAdapter(base)
        mine = [number for number, one in enumerate(asked) if one.base == base]
        for number in mine:  # all of them first: a bad one is refused before anything is generated
            if (adapter := asked[number].adapter) is not None:
                loaded.load(str(number), adapter)
        for number in mine:
            loaded.switch(None if asked[number].adapter is None else str(number))
            found[number] = say(loaded, asked[number])
        del loaded
        gc.collect()
        torch.cuda.empty_cache()  # the next base, or another process that is asked the same, needs the room
    return [found[number] for number in range(len(asked))]


def _answers(loaded: MultiAdapter, one: Asked, prompts: Sequence[str], new_tokens: int, batch_size: int) -> list[str]:
    tokenizer, rows = tokenizer_of(one), prompt_rows(one, prompts)
    given = generate.greedy(loaded.model, tokenizer, rows, new_tokens=new_tokens, batch_size=batch_size)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in given]


def tokenizer_of(one: Asked) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer where it has one, else the base's."""
    has_own = one.adapter is not None and (one.adapter / "tokenizer_config.json").is_file()
    if has_own and one.adapter is not None:
        return pretrained.load_tokenizer(one.adapter, trust_remote_code=one.base.trust_remote_code)
    return pretrained.tokenizer_of(one.base)


def prompt_rows(one: Asked, prompts: Sequence[str]) -> list[list[int]]:
    """Prompts' tokens as training writes them down before an answer."""
    tokenizer = tokenizer_of(one)
    chat = tokens.is_chat(one.format, tokenizer)
    rows = (tokens.tokenise(Example.pair(prompt, "."), tokenizer, chat=chat) for prompt in prompts)
    return [generate.prompt_tokens({"input_ids": row.input_ids, "labels": row.labels}) for row in rows]
