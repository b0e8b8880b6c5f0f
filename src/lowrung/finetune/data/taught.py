"""What training teaches about where an answer ends, measured on what is written down after one."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence, Set
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lowrung.finetune.data import tokens
from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Template
from lowrung.finetune.data.tokens import IGNORED
from lowrung.finetune.models.ends import Ends

PROBES = ("one", "two")
"""Answers that begin and end with different letters: what both end with is not theirs."""

BATCH = 10_000
"""Rows that are read at once: 40 MB of labels at a thousand tokens each."""

SEEN = 100
"""Rows that are read where the template takes no probe."""

S = TypeVar("S", str, list[int])


@dataclasses.dataclass(frozen=True)
class Taught:
    """Where answers end once a model is trained.

    Attributes:
        ends: what ends them: what is written after each, and what the tokenizer and the base name besides.
        ignored: ids that tokenizer or base name, and that do not end an answer, since learnt answers hold them.
        is_shown: whether training shows what ends an answer.
        written: the text that is written after each answer.
    """

    ends: Ends
    ignored: tuple[int, ...]
    is_shown: bool
    written: str

    def notes(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """What the user should know about it."""
        if self.ignored:
            listed = ", ".join(str(tokenizer.decode([id])) for id in self.ignored)
            yield (
                f"answers of the training examples hold {listed}, so that ends no answer, although the base's"
                " generation config or its tokenizer says that it does"
            )
        if not self.is_shown:
            text = f"only {self.written!r}" if self.written else "nothing"
            yield (
                f"the chat template writes {text} after an answer, which does not tell where it ends, so no end is"
                " learnt, and answers are generated up to the limit. Let it end the assistant's turns: {{ eos_token }}"
            )


def taught(
    tokenizer: PreTrainedTokenizerBase,
    template: Template | None,
    *,
    listed: Sequence[int],
    rows: Dataset | None = None,
) -> Taught:
    """Where answers end.

    A chat template ends turns with a token of its own (``<end_of_turn>``), or with some text. What it writes behind
    that token, mostly a line's end, is learnt too, and ends nothing. White space alone ends an answer only if no
    learnt answer holds it. In all other formats answers end with the tokenizer's end-of-text token.

    Args:
        tokenizer: the model's.
        template: its chat template, where answers are written down by that.
        listed: the ids that end an answer by the base's generation config.
        rows: the training examples, as far as they are known: ``labels`` of -100 for all that is not learnt.
    """
    written, text = _written(tokenizer, template, rows)
    own = next((id for id in written if _is_end(tokenizer, id, listed)), None)
    others = dict.fromkeys(id for id in (tokenizer.eos_token_id, *listed) if id is not None and id != own)
    ignored = _inside(rows, set(others), written, tokenizer) if rows is not None and others else set()
    is_end = bool(text.strip()) or (bool(text) and rows is not None and not _holds(rows, text, tokenizer))
    found = [*([] if own is None else [own]), *(id for id in others if id not in ignored)]
    ends = Ends(tuple(found), text if is_end and own is None else "")
    return Taught(ends, tuple(sorted(ignored)), is_shown=own is not None or is_end, written=text)


def _written(
    tokenizer: PreTrainedTokenizerBase, template: Template | None, rows: Dataset | None
) -> tuple[list[int], str]:
    """The tokens, and the text, that are written after every answer."""
    try:
        probes = [tokens.tokenise(Example.pair("?", answer), tokenizer, template)[0] for answer in PROBES]
        answers = [next(_answers(probe.labels)) for probe in probes]
    except RowError:  # it takes no mere question and answer
        answers = [] if rows is None else _uncut(rows[:SEEN]["labels"])
    if not answers:
        return [], ""
    return _common_end(answers), _common_end([str(tokenizer.decode(answer)) for answer in answers])


def _uncut(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The last answers of rows; without the longest rows, which may have been cut, where there are others."""
    longest = max(map(len, rows))
    uncut = [row for row in rows if len(row) < longest] or rows
    return [answer for row in uncut for answer in list(_answers(row))[-1:]]


def _answers(labels: Sequence[int]) -> Iterator[list[int]]:
    """What is learnt of a row, an answer at a time, each with what ends it."""
    for is_learnt, run in itertools.groupby(labels, lambda label: label != IGNORED):
        if is_learnt:
            yield list(run)


def _common_end(sequences: Sequence[S]) -> S:
    """What all of these end with."""
    alike = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*map(reversed, sequences), strict=False))
    return sequences[0][len(sequences[0]) - sum(1 for _ in alike) :]


def _is_end(tokenizer: Any, id: int, listed: Sequence[int]) -> bool:
    """Whether a token that is written after answers ends them by itself: no other text is split into it.

    White space proves nothing: answers hold it, and some tokenizers have tokens of their own for it (Gemma's).
    """
    is_blank = not str(tokenizer.decode([id])).strip()
    known = (*listed, *tokenizer.all_special_ids, *tokenizer.added_tokens_decoder)
    return id == tokenizer.eos_token_id or (id in known and not is_blank)


def _inside(rows: Dataset, wanted: Set[int], written: list[int], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Those of the wanted ids that learnt answers hold, other than at their ends."""
    is_blank = functools.cache(lambda id: not str(tokenizer.decode([id])).strip())
    found: set[int] = set()
    for batch in rows.select_columns("labels").with_format("arrow").iter(BATCH):
        labels = batch["labels"].combine_chunks()
        if not np.isin(labels.flatten().to_numpy(), list(wanted)).any():
            continue
        for answer in itertools.chain.from_iterable(map(_answers, labels.to_pylist())):
            if written and answer[-len(written) :] == written:
                answer = answer[: -len(written)]
            while answer and (answer[-1] in wanted or is_blank(answer[-1])):
                answer = answer[:-1]
            found |= wanted & set(answer)
    return found


def _holds(rows: Dataset, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a learnt answer holds a text, other than at its end."""
    learnt = itertools.chain.from_iterable(_answers(row["labels"]) for row in rows.select_columns("labels"))
    return any(text in str(tokenizer.decode(answer)).removesuffix(text) for answer in learnt)
