"""What adapters and models answer to the same prompts, with each base loaded once."""

import dataclasses
import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lowrung.adapters.loaded import Loaded
from lowrung.finetune import generate, tokens
from lowrung.finetune import model as models
from lowrung.finetune.examples import Example
from lowrung.finetune.model import Base


@dataclasses.dataclass(frozen=True)
class Asked:
    """Who is asked.

    Attributes:
        base: the base model.
        adapter: the folder of the adapter on it, or None for the base alone.
        format: how a prompt is written down (``data.format``).
    """

    base: Base
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
    found: dict[int, list[str]] = {}
    for base in dict.fromkeys(one.base for one in asked):
        loaded = Loaded(base)
        mine = [number for number, one in enumerate(asked) if one.base == base]
        for number in mine:  # all of them first: a bad one is refused before anything is generated
            if (adapter := asked[number].adapter) is not None:
                loaded.load(str(number), adapter)
        for number in mine:
            loaded.switch(None if asked[number].adapter is None else str(number))
            found[number] = _answers(loaded, asked[number], prompts, new_tokens, batch_size)
        del loaded
        gc.collect()
        torch.cuda.empty_cache()  # the next base, or another process that is asked the same, needs the room
    return [found[number] for number in range(len(asked))]


def _answers(loaded: Loaded, one: Asked, prompts: Sequence[str], new_tokens: int, batch_size: int) -> list[str]:
    tokenizer = tokenizer_of(one)
    rows = [prompt_row(prompt, tokenizer, one.format) for prompt in prompts]
    given = generate.greedy(loaded.model, tokenizer, rows, new_tokens=new_tokens, batch_size=batch_size)
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in given]


def tokenizer_of(one: Asked) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer where it has one, else the base's."""
    has_own = one.adapter is not None and (one.adapter / "tokenizer_config.json").is_file()
    if has_own and one.adapter is not None:
        return models.load_tokenizer(one.adapter, trust_remote_code=one.base.trust_remote_code)
    return models.tokenizer_of(one.base)


def prompt_row(prompt: str, tokenizer: PreTrainedTokenizerBase, format: str) -> list[int]:
    """A prompt's tokens as training writes them down before an answer."""
    chat = tokens.is_chat(format, tokenizer)
    row = tokens.tokenise(Example.pair(prompt, "."), tokenizer, chat=chat)
    return generate.prompt_tokens({"input_ids": row.input_ids, "labels": row.labels})
