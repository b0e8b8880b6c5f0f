"""The datasets: prompt and completion as chat messages, split into train and eval that never overlap."""

import dataclasses
import hashlib
import json
import platform
import random
import subprocess
import sys
from pathlib import Path

from datasets import Dataset

from lowrung.errors import UsageError
from lowrung.finetune import docstrings

Pair = tuple[str, str]
"""A prompt and its completion."""


@dataclasses.dataclass(frozen=True)
class Split:
    """What one split of a corpus was, for the record.

    Attributes:
        name: the dataset's name.
        digest: a hash of the split's rows.
        source: where the examples come from, in words.
        context: ``training`` or ``evaluation``.
        rows: how many examples.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A task's examples.

    Attributes:
        name: the dataset's name.
        source: where the examples come from, in words.
        train: rows of ``prompt`` and ``completion``, each a list of one chat message.
        eval: held-out rows of the same form; no prompt of theirs is among the training rows.
        has_answers: whether a completion is the one right answer, so that exact match means something.
    """

    name: str
    source: str
    train: Dataset
    eval: Dataset
    has_answers: bool

    @property
    def fingerprint(self) -> str:
        """A hash of all rows in their order (16 hex digits)."""
        return hashlib.sha256("/".join(split.digest for split in self.splits).encode()).hexdigest()[:16]

    @property
    def splits(self) -> tuple[Split, ...]:
        """Both splits, for the record."""
        both = (("training", self.train), ("evaluation", self.eval))
        return tuple(Split(self.name, rows_digest(rows), self.source, context, len(rows)) for context, rows in both)


def rows_digest(rows: Dataset) -> str:
    """A hash of the rows in their order (16 hex digits)."""
    text = json.dumps([rows["prompt"][:], rows["completion"][:]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load(*, name: str, train_size: int, eval_size: int, seed: int) -> Corpus:
    """Draws a training and a held-out set.

    Args:
        name: ``docstrings`` or ``number_words``.
        train_size: rows to train on.
        eval_size: held-out rows; the same whatever the training size is.
        seed: draws and splits the examples.

    Raises:
        UsageError: when the dataset has fewer examples than are asked for.
    """
    wanted = train_size + eval_size
    if name == "docstrings":
        pairs, source = _docstrings(seed), f"docstrings of the standard library of Python {platform.python_version()}"
        available = len(pairs)
    else:
        pairs, source = _number_words(seed, min(wanted, NUMBERS)), "numbers from 0 to 999,999, by code"
        available = NUMBERS
    if wanted > available:
        raise UsageError(
            f"data.train_size + data.eval_size must be at most the {available} examples of {name},"
            f" but is {train_size} + {eval_size} = {wanted}. Lower one of them."
        )
    return Corpus(
        name=name,
        source=source,
        eval=_chat_rows(pairs[:eval_size]),
        train=_chat_rows(pairs[eval_size:wanted]),
        has_answers=name == "number_words",
    )


def _chat_rows(pairs: list[Pair]) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c}]}
            for p, c in pairs
        ]
    )


def _docstrings(seed: int) -> list[Pair]:
    """All of them, shuffled: what `lowrung.finetune.docstrings` prints in a bare interpreter.

    Nobody has patched the standard library there. Here torch, transformers and others have, each after its own
    import, and the data would depend on what else was loaded.
    """
    command = [sys.executable, "-I", "-S", "-W", "ignore", str(Path(docstrings.__file__))]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    pairs = [(prompt, completion) for prompt, completion in json.loads(printed)]
    random.Random(seed).shuffle(pairs)
    return pairs


# -- numbers in words --------------------------------------------------------------------------------------------------

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


NUMBERS = 100_000
"""The most examples of number_words: drawing short numbers once each gets slow beyond."""


def number_in_words(number: int) -> str:
    """English words for 0 <= number < 1,000,000: ``342`` is ``three hundred forty-two``."""
    if number >= 1000:
        rest = f" {number_in_words(number % 1000)}" if number % 1000 else ""
        return f"{number_in_words(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {number_in_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return ONES[number]


def _number_words(seed: int, count: int) -> list[Pair]:
    """Numbers of one to six digits, each length as likely as the others, each number once."""
    draw = random.Random(seed)
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        number = draw.randrange(10 ** draw.randint(1, 6))
        numbers.setdefault(number)
    return [(f"Write {number} in English words.", number_in_words(number)) for number in numbers]
