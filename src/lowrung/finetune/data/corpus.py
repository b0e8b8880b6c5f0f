"""The task's examples: drawn from their sources, split into train and eval that share none, mixed by weight."""

import dataclasses
import hashlib
import json
import platform
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lowrung.config.schema import DataConf, SourceConf
from lowrung.errors import UsageError
from lowrung.finetune.data import bad_rows, docstrings, number_words, tables
from lowrung.finetune.data.bad_rows import BadRow
from lowrung.finetune.data.examples import Example


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A task's examples.

    Attributes:
        name: the dataset's name.
        source: where the examples come from, in words.
        train: what is learnt from.
        eval: held-out examples; none of them is among the training ones.
        duplicates: the number of training examples that were dropped, since they are held out as well.
        bad: the rows that are no examples, where ``data.on_bad_rows`` lets them be left out.
        unread: the columns that are not read, in words, for each source that has some.
    """

    name: str
    source: str
    train: Sequence[Example]
    eval: Sequence[Example]
    duplicates: int = 0
    bad: Sequence[BadRow] = ()
    unread: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        """A hash of all examples in their order (16 hex digits)."""
        total = hashlib.sha256()
        for part in (self.train, self.eval):
            for example in part:
                total.update(example.key + b"\n")
            total.update(b"/")
        return total.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """The examples of a source in the order of the seed, with the source in words."""

    examples: Sequence[Example]
    described: str
    bad: Sequence[BadRow] = ()
    unread: Sequence[str] = ()


def load(data: DataConf) -> Corpus:
    """Draws a training and a held-out set.

    Held-out examples are the same whatever the training size is.

    Raises:
        UsageError: when a source cannot be read, has fewer examples than are asked for, or has rows that are no
            examples although ``data.on_bad_rows`` is ``error``.
    """
    if data.name == "mixture":
        return _mixture(data)
    if data.eval_path is not None or data.eval_split is not None:
        return _two_parts(data)
    assert data.eval_size is not None  # a rule of lowrung.config.rules
    return _held_out(data, data, "data", data.train_size, data.eval_size)


def _held_out(source: SourceConf, data: DataConf, setting: str, train_size: int | None, eval_size: int) -> Corpus:
    """Holds the first examples of a source out, so that they stay the same whatever the training size is."""
    drawn = _read(source, data, f"{setting}.path", None if train_size is None else train_size + eval_size)
    examples = drawn.examples
    train, duplicates = _without(examples[eval_size:], examples[:eval_size])
    wanted = len(train) if train_size is None else train_size
    if len(examples) <= eval_size or wanted > len(train):
        raise UsageError(_too_few(source.name, setting, train_size, eval_size, len(examples), duplicates))
    held_out = examples[:eval_size]
    return Corpus(source.name, drawn.described, train[:wanted], held_out, duplicates, drawn.bad, drawn.unread)


def _too_few(name: str, setting: str, train_size: int | None, eval_size: int, available: int, duplicates: int) -> str:
    if train_size is None:
        return (
            f"{setting}.eval_size must leave examples of {name} to train on, but is {eval_size}, and there are"
            f" {available}. Lower it."
        )
    less = f" less the {duplicates} that are held out as well" if duplicates else ""
    return (
        f"{setting}.train_size + {setting}.eval_size must be at most the {available} examples of {name}{less},"
        f" but is {train_size} + {eval_size} = {train_size + eval_size}. Lower one of them."
    )


def _two_parts(data: DataConf) -> Corpus:
    """Trains and evaluates on two files, or two splits of a hub's dataset."""
    problems: list[str] = []
    parts: list[_Drawn] = []
    if data.eval_path is not None:
        evaluated = ("data.eval_path", dataclasses.replace(data, path=data.eval_path))
    else:
        evaluated = ("data.path", dataclasses.replace(data, split=str(data.eval_split)))
    for setting, source in (("data.path", data), evaluated):
        try:
            parts.append(_read(source, data, setting, None))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(problems)
    evaluation = parts[1].examples
    train, duplicates = _without(parts[0].examples, evaluation[: data.eval_size])
    problems = [
        f"data.{name}_size must be at most the {len(available)} examples that there are, but is {size}. Lower it."
        for name, size, available in (("train", data.train_size, train), ("eval", data.eval_size, evaluation))
        if size is not None and size > len(available)
    ]
    if not train:
        problems.append(
            "Training needs examples that are not in the eval set, but all of data.path are in it. Take other examples"
            " to evaluate on."
        )
    if problems:
        raise UsageError(problems)
    return Corpus(
        data.name,
        parts[0].described,
        train[: data.train_size],
        evaluation[: data.eval_size],
        duplicates,
        [row for part in parts for row in part.bad],
        [words for part in parts for words in part.unread],
    )


def _mixture(data: DataConf) -> Corpus:
    """Mixes sources by weight, the training and the held-out examples alike; each source is used once at most."""
    assert data.eval_size is not None  # a rule of lowrung.config.rules
    weights = [source.weight for source in data.sources]
    evals = _shares(data.eval_size, weights)
    asked = [None] * len(weights) if data.train_size is None else _shares(data.train_size, weights)
    parts: list[Corpus] = []
    problems: list[str] = []
    for number, (source, train, held_out) in enumerate(zip(data.sources, asked, evals, strict=True)):
        try:
            parts.append(_held_out(source, data, f"data.sources[{number}]", train, held_out))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(problems)
    # Without a size, as many as the source that is used up first allows.
    most = min(len(part.train) * sum(weights) / weight for part, weight in zip(parts, weights, strict=True))
    trains = _shares(int(most) if data.train_size is None else data.train_size, weights)
    evaluation = [example for part in parts for example in part.eval]
    drawn = [example for part, size in zip(parts, trains, strict=True) for example in part.train[:size]]
    learnt, duplicates = _without(drawn, evaluation)
    for examples in (learnt, evaluation):
        random.Random(data.seed).shuffle(examples)
    names = "+".join(part.name for part in parts)
    described = "; ".join(f"{part.source} (weight {weight:g})" for part, weight in zip(parts, weights, strict=True))
    return Corpus(
        names,
        described,
        learnt,
        evaluation,
        duplicates + sum(part.duplicates for part in parts),
        [row for part in parts for row in part.bad],
        [words for part in parts for words in part.unread],
    )


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to the total; the largest remainders get the rest."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _without(examples: Sequence[Example], held_out: Sequence[Example]) -> tuple[list[Example], int]:
    """The examples that are not held out, and the number of those that were dropped."""
    taken = set(held_out)
    left = [example for example in examples if example not in taken]
    return left, len(examples) - len(left)


def _read(source: SourceConf, data: DataConf, setting: str, wanted: int | None) -> _Drawn:
    """All examples of a source in the order of the seed.

    Args:
        source: what is read.
        data: the whole task, whose seed draws or shuffles them.
        setting: what names its path, for messages: ``data.path``.
        wanted: the number that is needed, or None for all; a source that generates its examples makes no more.
    """
    if source.name == "docstrings":
        described = f"docstrings of the standard library of Python {platform.python_version()}"
        return _Drawn(_docstrings(data.seed), described)
    if source.name == "number_words":
        count = number_words.MOST if wanted is None else min(wanted, number_words.MOST)
        drawn = [Example.pair(*pair) for pair in number_words.pairs(data.seed, count)]
        return _Drawn(drawn, "numbers from 0 to 999,999, by code")
    if source.name == "file":
        table, described = tables.read_file(source, setting), Path(str(source.path)).name
    else:
        table, described = tables.read_hub(source, setting), f"{source.path}, split {source.split}"
    if table.bad and data.on_bad_rows == "error":
        raise UsageError(bad_rows.problems(table.bad))
    examples = list(table.examples)
    random.Random(data.seed).shuffle(examples)
    return _Drawn(examples, described, table.bad, [table.unread] if table.unread else [])


def _docstrings(seed: int) -> list[Example]:
    """All of them, shuffled: what `lowrung.finetune.data.docstrings` prints in a bare interpreter.

    The standard library is unpatched there. In this process torch, transformers and others patch it when they are
    imported, so the data would depend on what else was loaded.
    """
    command = [sys.executable, "-I", "-S", "-W", "ignore", str(Path(docstrings.__file__))]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    pairs = [Example.pair(prompt, completion) for prompt, completion in json.loads(printed)]
    random.Random(seed).shuffle(pairs)
    return pairs
