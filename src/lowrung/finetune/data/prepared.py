"""A corpus as tokens, cut to length, in one folder for all runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, List, Value, disable_progress_bars, load_from_disk
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lowrung.errors import UsageError
from lowrung.finetune.data import tokens
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.tokens import Tokens
from lowrung.store import atomic, records

VERSION = 1
"""Part of a prepared folder's name; raised when tokens or labels of the same example change."""

SHOWN = 3
"""How many examples a message names."""

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A corpus as tokens, in a folder that every run of a sweep maps into memory.

    Attributes:
        train: rows of ``input_ids`` and ``labels``.
        eval: held-out rows of the same form.
        truncated: the number of training rows that were cut to length.
        truncated_tokens: the number of tokens that they lost.
        has_prompts: whether every row begins with a prompt, so that a model can answer it.
    """

    train: Dataset
    eval: Dataset
    truncated: int
    truncated_tokens: int
    has_prompts: bool

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Opens what `prepare` left; the rows stay on the disk until they are used."""
        disable_progress_bars()
        facts = records.read(folder / "facts.json")
        return cls(load_from_disk(folder / "train"), load_from_disk(folder / "eval"), **facts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about it."""
        if not self.truncated:
            return ()
        return (
            f"{self.truncated} of {len(self.train)} training examples are longer than data.max_length and were cut;"
            f" they lost {self.truncated_tokens} tokens",
        )


def prepare(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, *, max_length: int, format: str, folder: Path
) -> Prepared:
    """Turns a corpus into tokens, once; a folder that is there is opened.

    Args:
        corpus: the examples.
        tokenizer: the model's.
        max_length: tokens after which an example is cut.
        format: ``chat``, ``plain``, or ``auto`` for chat where the tokenizer has a template.
        folder: where it is kept; its name holds all that determines the content.

    Raises:
        UsageError: when examples cannot be written down, or leave nothing to learn.
    """
    chat = tokens.is_chat(format, tokenizer)
    atomic.make_folder_once(folder, lambda aside: _prepare(corpus, tokenizer, max_length, chat, aside))
    return Prepared.load(folder)


def _prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, chat: bool, folder: Path) -> None:
    disable_progress_bars()
    train, problems = _tokenised(corpus.train, tokenizer, chat, max_length)
    held_out, more = _tokenised(corpus.eval, tokenizer, chat, max_length)
    problems += more
    if problems:
        raise UsageError([*problems[:SHOWN], *_more(len(problems) - SHOWN)])
    lost = [len(row.input_ids) - max_length for row in train if len(row.input_ids) > max_length]
    facts = {
        "truncated": len(lost),
        "truncated_tokens": sum(lost),
        "has_prompts": all(example.messages for example in (*corpus.train, *corpus.eval)),
    }
    for part, rows in (("train", train), ("eval", held_out)):
        cut = [vars(row.cut(max_length)) for row in rows]
        Dataset.from_list(cut, features=FEATURES).save_to_disk(folder / part)
    atomic.write_json(folder / "facts.json", facts)


def _more(count: int) -> list[str]:
    return [f"{count} more examples have such problems."] if count > 0 else []


def _tokenised(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool, max_length: int
) -> tuple[list[Tokens], list[str]]:
    """All examples as tokens, uncut, and what is wrong with some of them."""
    rows: list[Tokens] = []
    problems: list[str] = []
    for example in examples:
        try:
            row = tokens.tokenise(example, tokenizer, chat=chat)
        except TemplateError as error:
            problems.append(f"The chat template must take every example, but refuses {_shown(example)}: {error}.")
            continue
        if row.cut(max_length).learnt:
            rows.append(row)
        else:
            problems.append(
                f"data.max_length must leave room for what is learnt, but is {max_length}, and the prompt of"
                f" {_shown(example)} takes {len(row.input_ids) - row.learnt} tokens. Raise it, or leave that"
                " example out."
            )
    return rows, problems


def _shown(example: Example) -> str:
    """An example by the beginning of its text."""
    text = " ".join((example.text or example.messages[0][1]).split())
    return repr(text if len(text) <= 50 else text[:47] + "...")


def problems(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, format: str) -> list[str]:
    """Why this tokenizer cannot write this corpus as text."""
    remedy = "Take an instruct model, or put a chat_template.jinja beside its tokenizer."
    found = []
    needs_template = any(example.is_chat for example in (*corpus.train, *corpus.eval))
    if format == "plain" and needs_template:
        found.append("data.format=plain cannot write roles, but the data holds messages. Use data.format=chat.")
    elif tokenizer.chat_template is None and (needs_template or format == "chat"):
        why = "the data holds messages" if needs_template else "data.format is chat"
        found.append(f"model.path must have a tokenizer with a chat template, since {why}, but it has none. {remedy}")
    if tokenizer.eos_token_id is None:
        found.append(
            "model.path must have a tokenizer with an end-of-text token, but it has none: no answer would end."
        )
    return found
