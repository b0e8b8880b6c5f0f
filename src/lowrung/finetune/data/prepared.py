"""A corpus as tokens, cut to length, in one folder for all runs."""

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
import transformers
from datasets import Dataset, Features, List, Value, disable_progress_bars, load_from_disk
from transformers import PreTrainedTokenizerBase

from lowrung.config import schema
from lowrung.config.schema import DataConf
from lowrung.errors import StoreError, UsageError
from lowrung.finetune.data import bad_rows
from lowrung.finetune.data.bad_rows import BadRow
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.split import Split
from lowrung.finetune.data.template import Format
from lowrung.finetune.data.tokens import Tokens
from lowrung.finetune.data.writing import Writer
from lowrung.store import atomic, records

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
        digests: hashes of the rows of train and eval.
        dropped: the number of examples that cannot be learnt and were left out, as ``data.on_bad_rows=drop`` says.
        remarks: what else the user should know about how they were written.
    """

    train: Dataset
    eval: Dataset
    truncated: int
    truncated_tokens: int
    has_prompts: bool
    digests: Sequence[str] = ()
    dropped: int = 0
    remarks: Sequence[str] = ()

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Opens what `prepare` left; the rows stay on the disk until they are used."""
        disable_progress_bars()
        facts = records.read(folder / "facts.json")
        facts.pop("files", None)
        return cls(load_from_disk(folder / "train"), load_from_disk(folder / "eval"), **facts)

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and labels in their order (16 hex digits): what a run learns and is measured on."""
        return schema.digest(self.digests)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about it."""
        if not self.truncated:
            return tuple(self.remarks)
        return (
            f"{self.truncated} of {len(self.train)} training examples are longer than data.max_length and were cut;"
            f" they lost {self.truncated_tokens} tokens",
            *self.remarks,
        )

    @property
    def measurements(self) -> dict[str, float]:
        """What is recorded of it with a run, by MLflow name."""
        return {"data/dropped_rows": float(self.dropped)} if self.dropped else {}

    def splits(self, name: str, source: str) -> tuple[Split, ...]:
        """Both parts, as they are recorded: of a dataset of this name, from this source."""
        both = zip(("training", "evaluation"), self.digests, (self.train, self.eval), strict=True)
        return tuple(Split(name, digest, source, context, len(rows)) for context, digest, rows in both)


def key(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, data: DataConf, *others: object) -> str:
    """Names the folder of a corpus's tokens: a hash of all that determines what is in it.

    Args:
        corpus: the examples.
        tokenizer: the model's.
        data: says how they are written down.
        others: what else it depends on, as JSON: hashes of the model's files and of the code, and the added tokens.
    """
    libraries = [library.__version__ for library in (transformers, tokenizers, jinja2)]
    written = [data.max_length, data.format, data.date, schema.pattern(data.chat_template_kwargs), data.on_bad_rows]
    bad = [str(row) for row in corpus.bad]
    return schema.digest([corpus.fingerprint, bad, tokenizer.chat_template, written, libraries, *others])


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, data: DataConf, folder: Path) -> Prepared:
    """Turns a corpus into tokens, once; a folder that is there, as it was left, is opened.

    Args:
        corpus: the examples.
        tokenizer: the model's.
        data: says how they are written down, after how many tokens they are cut, and what becomes of bad rows.
        folder: where it is kept; its name holds all that determines the content.

    Raises:
        UsageError: when examples cannot be written down, or leave nothing to learn.
    """
    atomic.make_folder_once(folder, lambda aside: _prepare(corpus, tokenizer, data, aside), _is_whole)
    return Prepared.load(folder)


def _is_whole(folder: Path) -> bool:
    """Whether each file of tokens is what was written."""
    try:
        return bool(records.read(folder / "facts.json")["files"] == _files(folder))
    except (OSError, StoreError):
        return False


def _files(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files of both parts, by name: 1.7 GB/s, far less than the corpus takes to read."""
    found = {}
    for file in sorted(folder.glob("*/*")):
        with file.open("rb") as stream:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, data: DataConf, folder: Path) -> None:
    disable_progress_bars()
    writer = Writer(tokenizer, Format.of(data).template(tokenizer), data.max_length)
    held_out, bad = writer.rows(corpus.eval)
    train, more = writer.rows(corpus.train)
    bad = [*more, *bad]
    if bad and data.on_bad_rows == "error":
        raise UsageError(bad_rows.problems(bad))
    train, repeated = _without(train, held_out)
    for name, rows in (("train", train), ("evaluate", held_out)):
        if not rows:
            raise UsageError([f"There must be examples to {name} on, but none is left.", *bad_rows.problems(bad)])
    cut = {"train": _cut(train, data.max_length), "eval": _cut(held_out, data.max_length)}
    lost = [len(row.input_ids) - data.max_length for row in train if len(row.input_ids) > data.max_length]
    for part, rows in cut.items():
        Dataset.from_list([vars(row) for row in rows], features=FEATURES).save_to_disk(folder / part)
    atomic.write_json(
        folder / "facts.json",
        {
            "digests": [_digest(rows) for rows in cut.values()],
            "truncated": len(lost),
            "truncated_tokens": sum(lost),
            "has_prompts": all(example.messages for example in (*corpus.train, *corpus.eval)),
            "dropped": len(corpus.bad) + len(bad),
            "files": _files(folder),
            "remarks": [
                *_remarks([*corpus.bad, *bad], repeated),
                *_cut_notes(held_out, data.max_length),
                *writer.notes(),
            ],
        },
    )


def _cut(rows: Iterable[Tokens], max_length: int) -> list[Tokens]:
    return [row.cut(max_length) for row in rows]


def _cut_notes(held_out: Sequence[Tokens], max_length: int) -> Iterator[str]:
    """Of answers that have lost their end: no other answer can be the same, however right it is."""
    if cut := sum(len(row.input_ids) > max_length for row in held_out):
        yield (
            f"{cut} of {len(held_out)} held-out examples are longer than data.max_length and were cut: scores compare"
            " with what is left of them"
        )


def _without(train: Sequence[Tokens], held_out: Sequence[Tokens]) -> tuple[list[Tokens], int]:
    """The rows that are not held out as other examples that the template writes alike; and the number of the others."""
    taken = {tuple(row.input_ids) for row in held_out}
    left = [row for row in train if tuple(row.input_ids) not in taken]
    return left, len(train) - len(left)


def _remarks(bad: Sequence[BadRow], repeated: int) -> list[str]:
    told = bad_rows.note(bad)
    if repeated:
        told.append(f"{repeated} training rows are written like held-out ones, and were left out of training")
    return told


def _digest(rows: Iterable[Tokens]) -> str:
    total = hashlib.sha256()
    for row in rows:
        for values in (row.input_ids, row.labels):
            total.update(f"{len(values)}:".encode() + array("q", values).tobytes())
    return total.hexdigest()[:16]


def problems(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, data: DataConf) -> list[str]:
    """Why this tokenizer cannot write this corpus as text."""
    remedy = "Take an instruct model, or put a chat_template.jinja beside its tokenizer."
    found: list[str] = []
    needs_template = any(example.is_chat for example in (*corpus.train, *corpus.eval))
    if data.format == "plain" and needs_template:
        found.append("data.format=plain cannot write roles, but the data holds messages. Use data.format=chat.")
    elif tokenizer.chat_template is None and (needs_template or data.format == "chat"):
        why = "the data holds messages" if needs_template else "data.format is chat"
        found.append(f"model.path must have a tokenizer with a chat template, since {why}, but it has none. {remedy}")
    else:
        found += _variable_problems(Format.of(data), tokenizer)
    if tokenizer.eos_token_id is None:
        found.append(
            "model.path must have a tokenizer with an end-of-text token, but it has none: no answer would end."
        )
    return found


def _variable_problems(format: Format, tokenizer: PreTrainedTokenizerBase) -> Iterable[Any]:
    if template := format.template(tokenizer):
        return template.problems()
    if format.variables:
        return ["data.chat_template_kwargs are variables of a chat template, but none is used. Leave them out."]
    return []
