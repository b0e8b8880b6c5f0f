"""A look at model and data before the first run: it finds what no look at the config can."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.config import schema
from lowrung.errors import UsageError
from lowrung.finetune.data import corpus as data
from lowrung.finetune.data import tokens
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.tokens import Prepared
from lowrung.finetune.lora import settings as lora
from lowrung.finetune.lora.settings import Lora
from lowrung.finetune.models import added_tokens, pretrained, soundness
from lowrung.finetune.models.pretrained import Base
from lowrung.finetune.training import metrics
from lowrung.store import disk, layout


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        problems: what stands in the way, for the user; when there are any, the rest is not filled in.
        notes: what the user should know.
        model_fingerprint: a hash of the base model's content.
        revision: the commit that was found of a hub model; a branch may move before the last run has started.
        data_fingerprint: a hash of all examples, and of the user's own metrics.
        splits: what the examples were, for the record.
        data_folder: where they lie as tokens.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model_fingerprint: str = ""
    revision: str | None = None
    data_fingerprint: str = ""
    splits: tuple[data.Split, ...] = ()
    data_folder: Path = Path()


def look(
    *, base: Mapping[str, Any], task: Mapping[str, Any], store: Path, adapters: Sequence[Mapping[str, Any]]
) -> Preflight:
    """Finds model and data, checks them against the config, and turns the data into tokens.

    Args:
        base: the fields of a `lowrung.finetune.models.pretrained.Base`.
        task: the fields of `lowrung.config.schema.DataConf`.
        store: the results' folder; the tokens are kept there.
        adapters: the fields of each `lowrung.finetune.lora.settings.Lora` that is to be put on the model.
    """
    if places := [*disk.unwritable("store", store), *_cache_problems(base["path"])]:
        return Preflight(tuple(places))
    found = list(metrics.problems(task["metrics"]))
    model = Base(**base)
    folder = _folder(model, found)
    if folder is not None:
        found += _model_problems(model, adapters, task["max_length"])
    corpus = _corpus(task, found)
    if found or corpus is None:
        return Preflight(tuple(found))
    tokenizer = pretrained.tokenizer_of(model)
    if problems := tokens.problems(corpus, tokenizer, task["format"]):
        return Preflight(tuple(problems))
    fingerprint = pretrained.fingerprint(model.folder)
    added = f"-{schema.digest(model.added_tokens)}" if model.added_tokens else ""
    key = f"{corpus.fingerprint}-{fingerprint}{added}-{task['max_length']}-{task['format']}-v{tokens.VERSION}"
    data_folder = layout.tokens_folder(store, key)
    try:
        prepared = tokens.prepare(
            corpus,
            tokenizer,
            max_length=task["max_length"],
            format=task["format"],
            folder=data_folder,
        )
    except UsageError as error:
        return Preflight(tuple(error.problems))
    if task["metrics"] and not prepared.has_prompts:
        return Preflight(
            (f"data.metrics score answers to prompts, but the data is text alone, and they are {task['metrics']}.",)
        )
    return Preflight(
        notes=(*_duplicate_notes(corpus), *prepared.notes, *_unseen_notes(model, prepared)),
        model_fingerprint=fingerprint,
        revision=model.origin[1],
        data_fingerprint=corpus.fingerprint + metrics.fingerprint(task["metrics"]),
        splits=corpus.splits,
        data_folder=data_folder,
    )


def _cache_problems(path: str) -> list[str]:
    """What is in the way of building an embedded model; what is in the cache already needs no writing."""
    cache = layout.cache_folder()
    is_needed = path.startswith("embedded:") and not (cache / "models").is_dir()
    return disk.unwritable("LOWRUNG_CACHE, or ~/.cache,", cache) if is_needed else []


def _folder(base: Base, found: list[str]) -> Path | None:
    try:
        return base.folder
    except UsageError as error:
        found += error.problems
        return None


def _corpus(task: Mapping[str, Any], found: list[str]) -> Corpus | None:
    try:
        return data.of_task(task)
    except UsageError as error:
        found += error.problems
        return None


def _model_problems(base: Base, adapters: Sequence[Mapping[str, Any]], max_length: int) -> list[str]:
    if found := soundness.problems(base):
        return found
    skeleton, rows = pretrained.skeleton(base), pretrained.added_rows(base)
    wanted = [Lora(**settings, added_rows=rows) for settings in adapters]
    found = list(dict.fromkeys(problem for settings in wanted for problem in lora.problems(skeleton, settings)))
    context = getattr(skeleton.config, "max_position_embeddings", max_length)
    if max_length > context:
        found.append(f"data.max_length must be at most the model's context of {context}, but is {max_length}.")
    return found


def _unseen_notes(base: Base, prepared: Prepared) -> Iterator[str]:
    """Added tokens that no training example holds: a chat template may drop them, or the text write them otherwise."""
    if not base.added_tokens:
        return
    unseen = dict(
        zip(added_tokens.numbers(pretrained.tokenizer_of(base), base.added_tokens), base.added_tokens, strict=True)
    )
    for row in prepared.train:
        for number in unseen.keys() & set(row["input_ids"]):
            del unseen[number]
        if not unseen:
            return
    yield f"no training example holds {', '.join(unseen.values())}, so nothing is learnt of these added tokens"


def _duplicate_notes(corpus: Corpus) -> tuple[str, ...]:
    if not corpus.duplicates:
        return ()
    return (f"{corpus.duplicates} training examples are among the held-out ones too, and were left out of training",)
